"""The Prefect server that a run reports to: the one that is configured, or a temporary one for this run alone.

A temporary server costs 10 to 30 seconds, most of them imports, so it is started first, as a process of its own, and
whatever else takes time happens beside it. Its database lives in a temporary folder; it ends with the run, and leaves
nothing running even if the run is killed. Called by the command line. Imports Prefect only where it says so.
"""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import tomllib
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

from tasks.errors import ServerError
from tasks.settings import home

# Seconds until a temporary server has to answer; a busy machine has been seen to need 40.
PATIENCE = 120.0

# Started with the temporary server's own address and folder: no more than a run needs. Prefect's settings.
QUIET = {
    "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_ENABLED": "false",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
}

# No garbage collection before it serves: see `tasks.learning.backend.no_collections`.
# The server ends, and its folder goes, when its standard input ends: also when the run at the other end is killed.
SERVE = """
import gc, os, shutil, sys, threading
gc.disable()
def end_with_the_run():
    sys.stdin.buffer.read()
    shutil.rmtree(sys.argv[2], ignore_errors=True)
    os._exit(0)
threading.Thread(target=end_with_the_run, daemon=True).start()
import uvicorn
from prefect.server.api.server import create_app
app = create_app()
gc.freeze()
gc.enable()
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error")
"""


def configured() -> str | None:
    """The address of the Prefect server that the user has set up, from the environment or the active profile."""
    if url := os.environ.get("PREFECT_API_URL"):
        return url
    folder = Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect")
    path = Path(os.environ.get("PREFECT_PROFILES_PATH") or folder / "profiles.toml")
    try:
        profiles = tomllib.loads(path.read_text())
    except FileNotFoundError:
        return None
    active = os.environ.get("PREFECT_PROFILE") or profiles.get("active", "")
    url = profiles.get("profiles", {}).get(active, {}).get("PREFECT_API_URL")
    return str(url) if url else None


def server(otherwise: str | None = None) -> Server:
    """The server to use; a temporary one starts in the background and is ready after `Server.wait`.

    Args:
        otherwise: The API's address of one to use where none is configured.

    Raises ServerError where the one to use does not answer.
    """
    url = configured() or otherwise
    if url:
        if not answers(url, patience=30):
            raise ServerError(
                f"cannot reach the Prefect server {url}",
                "it does not answer",
                "Start it, or unset PREFECT_API_URL to run with a temporary one.",
            )
        return Server(url)
    folder = Path(tempfile.mkdtemp(prefix="retrain-"))
    process, port = _start(folder)
    # At exit, after Prefect has sent its last logs and events: that happens when threads are ended, before this.
    atexit.register(_stop, process, folder)
    return Server(f"http://127.0.0.1:{port}/api", process, folder)


def _stop(process: subprocess.Popen[bytes], folder: Path) -> None:
    process.kill()  # all that it would do in an orderly end is to write what is deleted next
    process.wait()
    shutil.rmtree(folder, ignore_errors=True)


class Server:
    """A Prefect server: its API's address, and the process behind it if this run started one."""

    def __init__(self, url: str, process: subprocess.Popen[bytes] | None = None, folder: Path | None = None) -> None:
        self.url, self._process, self._folder = url, process, folder

    @property
    def temporary(self) -> bool:
        """Whether it ends with this run."""
        return self._process is not None

    def wait(self) -> None:
        """Return when a temporary server answers. Raises ServerError where it does not."""
        if self._process is None or self._folder is None:
            return
        deadline = time.monotonic() + PATIENCE
        while not answers(self.url):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise ServerError(
                    "cannot start a temporary Prefect server",
                    _last_line(self._folder),
                    "Set PREFECT_API_URL to use another.",
                )
            time.sleep(0.1)
        _keep_database(self._folder)


def client_settings(server: Server) -> None:
    """Point Prefect at the server and keep its own messages off the screen. Before Prefect is imported."""
    os.environ["PREFECT_API_URL"] = server.url
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW", "ignore")


def _start(folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    if _template().exists():
        # A database that is migrated already saves seconds.
        shutil.copyfile(_template(), folder / "prefect.db")
    settings = QUIET | {
        "PREFECT_HOME": str(folder),
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{folder / 'prefect.db'}",
    }
    port = _free_port()
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(port), str(folder)],
            env={**os.environ, **settings},
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            # Ctrl-C is for the run: it ends the server when it is done.
            start_new_session=True,
        )
    return process, port


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str, patience: float = 5) -> bool:
    """Whether a Prefect server answers at this API address, within some seconds: a busy one may take many."""
    import httpx

    try:
        return httpx.get(f"{url}/health", timeout=patience).status_code == 200
    except httpx.HTTPError:
        return False


def _template() -> Path:
    return home() / f"prefect-{version('prefect')}.db"


def _keep_database(folder: Path) -> None:
    """Keep the migrated database for the next temporary server, before this run writes to it."""
    if _template().exists():
        return
    _template().parent.mkdir(parents=True, exist_ok=True)
    copy = folder / "template.db"
    with closing(sqlite3.connect(folder / "prefect.db")) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    shutil.copyfile(copy, _template().with_suffix(f".{os.getpid()}"))
    _template().with_suffix(f".{os.getpid()}").replace(_template())


def _last_line(folder: Path) -> str:
    lines = (folder / "server.log").read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"it did not answer within {PATIENCE:.0f} s"
