"""The Prefect server that a run reports to: the configured one, or a temporary one for this run alone.

Every server that the project starts has a random password, permits browsers no other origin than its own address, and
asks for a CSRF token: other users of the machine, and pages in a browser, could otherwise start programs with the
owner's rights.

A temporary server takes 10 to 30 seconds to start, mostly for imports. So it starts first, in its own process, and the
run imports its own packages in the meantime. Its database is in a temporary folder. It ends with the run, also if the
run is killed. Called by the commands; never imports Prefect, because `use_server` has to come first.
"""

from __future__ import annotations

import atexit
import base64
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from contextlib import suppress
from pathlib import Path

from flows.cli import template
from tasks.errors import ServerError

# Bytes that the database of a temporary server needs at least.
ROOM = 1 << 20

# Seconds that a server or a worker may take to start. A busy machine needed 40 for a server.
START_TIMEOUT = 120.0

# Prefect settings of a temporary server: only what a run needs.
SERVER_SETTINGS = {
    "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_ENABLED": "false",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
}

# Without garbage collection until it serves: see `tasks.learning.backend.without_garbage_collection`.
# The server exits and deletes its folder at the end of its standard input, which also comes if the run is killed.
SERVER_PROGRAM = """
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


def new_password() -> str:
    """User and random password of a server, as Prefect's settings take them: the user is admin."""
    return f"admin:{secrets.token_urlsafe(24)}"


def protection(address: str, password: str) -> dict[str, str]:
    """Prefect's settings of a server at this address that only who knows the password can use."""
    return {
        "PREFECT_SERVER_API_AUTH_STRING": password,
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": address,
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
    }


def make_private(folder: Path) -> None:
    """Make a folder that no other user can enter, also one that an earlier version made for all to read."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_mode & 0o077:
        with suppress(OSError):  # it belongs to somebody else, who decides
            folder.chmod(0o700)


def configured_api_url() -> str | None:
    """The API address of the server that the user has configured: PREFECT_API_URL, or Prefect's active profile."""
    return _configured("PREFECT_API_URL")


def _configured(name: str) -> str | None:
    """One of Prefect's settings, from the environment or the active profile."""
    if value := os.environ.get(name):
        return value
    folder = Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect")
    path = Path(os.environ.get("PREFECT_PROFILES_PATH") or folder / "profiles.toml")
    try:
        profiles = tomllib.loads(path.read_text())
    except FileNotFoundError:
        return None
    active = os.environ.get("PREFECT_PROFILE") or profiles.get("active", "")
    value = profiles.get("profiles", {}).get(active, {}).get(name)
    return str(value) if value else None


def existing_server(own: Server | None) -> Server | None:
    """The configured server, or else `own`, that of `retrain up`; None where there is neither.

    Raises:
        ServerError: It does not answer within 30 s, or refuses the password.
    """
    url = configured_api_url()
    if url and not (own and own.url == url):
        own = Server(url, _configured("PREFECT_API_AUTH_STRING"))
    if own:
        _require_access(own)
    return own


def choose_server(own: Server | None = None) -> Server:
    """The server to use. A temporary one starts in the background and is ready after `Server.wait`.

    Args:
        own: The server of `retrain up`, to use if none is configured; None starts a temporary server.

    Raises:
        ServerError: The server to use does not answer within 30 s, or refuses the password.
    """
    if server := existing_server(own):
        return server
    folder = Path(tempfile.mkdtemp(prefix="retrain-"))
    password = new_password()
    process, port = _start(folder, password)
    server = Server(f"http://127.0.0.1:{port}/api", password, process, folder)
    # Prefect sends its last logs and events when threads end, which is before this runs.
    atexit.register(server.stop)
    return server


def _require_access(server: Server) -> None:
    if not is_reachable(server.url, timeout=30):
        raise ServerError(
            f"cannot reach the Prefect server {server.url}",
            "it does not answer",
            "Start it, or unset PREFECT_API_URL to use another.",
        )
    import httpx

    try:
        refused = httpx.get(f"{server.url}/admin/version", headers=server.headers, timeout=30).status_code == 401
    except httpx.HTTPError:
        return  # it answered a moment ago; the run's own client tries again
    if refused:
        raise ServerError(
            f"cannot use the Prefect server {server.url}",
            "it refuses the password" if server.password else "it asks for a password",
            "Set PREFECT_API_AUTH_STRING to its user:password.",
        )


class Server:
    """A Prefect server: its API address, its user:password, and its process and folder if this run started it."""

    def __init__(
        self,
        url: str,
        password: str | None = None,
        process: subprocess.Popen[bytes] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.url, self.password, self._process, self._folder = url, password, process, folder

    @property
    def headers(self) -> dict[str, str]:
        """What a request needs to be let in."""
        if self.password:
            return {"Authorization": f"Basic {base64.b64encode(self.password.encode()).decode()}"}
        if key := _configured("PREFECT_API_KEY"):
            return {"Authorization": f"Bearer {key}"}
        return {}

    @property
    def temporary(self) -> bool:
        """Whether this run started the server, which then ends with it."""
        return self._process is not None

    def stop(self) -> None:
        """End a temporary server, and delete its folder."""
        if self._process is None or self._folder is None:
            return
        self._process.kill()  # an orderly shutdown would only write to the database, which is deleted next
        self._process.communicate()
        shutil.rmtree(self._folder, ignore_errors=True)

    def wait(self) -> None:
        """Wait until a temporary server answers.

        Raises:
            ServerError: Its process has ended, or did not answer within START_TIMEOUT.
        """
        if self._process is None or self._folder is None:
            return
        deadline = time.monotonic() + START_TIMEOUT
        while not is_reachable(self.url):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise ServerError(
                    "cannot start a temporary Prefect server",
                    _last_line(self._folder),
                    "Set PREFECT_API_URL to use another.",
                )
            time.sleep(0.1)
        template.keep(self._folder / "prefect.db", self._folder)  # before this run writes to it


def use_server(server: Server) -> None:
    """Point Prefect at the server and silence its console logger. Prefect reads this when it is imported."""
    os.environ["PREFECT_API_URL"] = server.url
    if server.password:
        os.environ["PREFECT_API_AUTH_STRING"] = server.password
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW", "ignore")


def _start(folder: Path, password: str) -> tuple[subprocess.Popen[bytes], int]:
    template.copy_to(folder / "prefect.db")
    port = _free_port()
    settings = {
        **SERVER_SETTINGS,
        **protection(f"http://127.0.0.1:{port}", password),
        "PREFECT_HOME": str(folder),
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{folder / 'prefect.db'}",
    }
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER_PROGRAM, str(port), str(folder)],
            env={**os.environ, **settings},
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C must reach only the run, which stops the server last
        )
    return process, port


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_reachable(url: str, timeout: float = 5) -> bool:
    """Whether a Prefect server answers at this API address within `timeout` seconds; a busy one is slow."""
    import httpx

    try:
        return httpx.get(f"{url}/health", timeout=timeout).status_code == 200
    except httpx.HTTPError:
        return False


def _last_line(folder: Path) -> str:
    if shutil.disk_usage(folder).free < ROOM:
        return f"the disk of {folder.parent} is full: free space, or set TMPDIR"
    lines = (folder / "server.log").read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"it did not answer within {START_TIMEOUT:.0f} s"
