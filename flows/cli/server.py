"""The Prefect server that a run reports to: the configured one, or a temporary one for this run alone.

Every server that the project starts has a random password, permits browsers no other origin than its own address, and
asks for a CSRF token: other users of the machine, and pages in a browser, could otherwise start programs with the
owner's rights.

A temporary server takes 10 to 30 seconds to start, mostly for imports. So it starts first, in its own process, and the
run imports its own packages in the meantime. Its database is in a temporary folder. It ends with the run, also if the
run is killed.

Which server is configured is for Prefect's own settings to say: variables, `.env`, `prefect.toml`, `pyproject.toml`,
profiles; and Prefect's own client asks whether it answers. Importing Prefect takes a second, so that happens only where
one of these may name a server. Called by the commands.
"""

from __future__ import annotations

import atexit
import base64
import os
import re
import secrets
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from flows.cli import template
from tasks.address import Address, is_plain
from tasks.errors import ServerError, UsageError, causes, reason_of

if TYPE_CHECKING:
    import httpx
    from prefect.context import SettingsContext

# Bytes that the database of a temporary server needs at least.
ROOM = 1 << 20

# Seconds that a configured server may take to answer.
ANSWER_TIMEOUT = 30.0

# Seconds that a server or a worker may take to start. A busy machine needed 40 for a server.
START_TIMEOUT = 120.0

# Settings that name a server, a profile, a database or a message broker: those of the user are not for our servers. And
# what `_be_quiet` sets for this process alone.
FOREIGN = re.compile(
    r"PREFECT_(API_|CLIENT_|SERVER_API_|PROFILE|HOME|TEST|.*DATABASE|.*SQLALCHEMY|.*MESSAGING|.*REDIS|.*DOCKET"
    r"|LOGGING_HANDLERS_CONSOLE_LEVEL|LOGGING_TO_API_WHEN)"
)

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
from flows.cli.sqlite_server import lock_at_begin
lock_at_begin()
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


def database(file: Path) -> dict[str, str]:
    """Prefect's settings of a server with its database in this file, by the present and the former name."""
    url = f"sqlite+aiosqlite:///{file}"
    return {"PREFECT_SERVER_DATABASE_CONNECTION_URL": url, "PREFECT_API_DATABASE_CONNECTION_URL": url}


def make_private(folder: Path) -> None:
    """Make a folder that no other user can enter, also one that an earlier version made for all to read."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_mode & 0o077:
        with suppress(OSError):  # it belongs to somebody else, who decides
            folder.chmod(0o700)


def own_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """The environment of a server or worker that we start: this process', with these settings.

    Nothing that names another server, another profile or another database goes along: a server migrates whatever
    database it is given.
    """
    kept = {name: value for name, value in os.environ.items() if not FOREIGN.match(name)}
    return {"DO_NOT_TRACK": "1", **kept, **settings}


def configured_api_url() -> str | None:
    """The API address of the server that the user has configured, as Prefect's own settings say; without a final slash.

    Raises:
        UsageError: Prefect cannot read its settings, or the address holds a password.
    """
    if not _may_be_configured():
        return None
    context = _prefect_settings()
    from prefect.settings import PREFECT_API_URL

    # `prefect profile use local` writes no more than the name of a profile that Prefect brings along.
    url = context.settings.api.url or context.profile.settings.get(PREFECT_API_URL)
    if url and not is_plain(str(url)):
        raise UsageError(
            f"cannot use PREFECT_API_URL {Address(str(url))}",
            "an address that is shown and handed on holds no user, password or query",
            "Set PREFECT_API_AUTH_STRING to user:password, or PREFECT_API_KEY, and give the address alone.",
        )
    return str(url).rstrip("/") if url else None


def _may_be_configured() -> bool:
    """Whether any place that Prefect reads may name a server: cheap, and true rather than false where in doubt."""
    if os.environ.get("PREFECT_API_URL") or os.environ.get("PREFECT_PROFILE") or Path("prefect.toml").exists():
        return True
    if "PREFECT_" in _text(Path(".env")) or "[tool.prefect" in _text(Path("pyproject.toml")):
        return True
    folder = Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect")
    profiles = _text(Path(os.environ.get("PREFECT_PROFILES_PATH") or folder / "profiles.toml"))
    return "PREFECT_API_URL" in profiles or bool(re.search(r'^active\s*=\s*"(?!ephemeral")', profiles, re.MULTILINE))


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


def _prefect_settings() -> SettingsContext:
    """Prefect's settings as they are now; it may have been imported before the environment changed.

    Raises:
        UsageError: Prefect cannot read them.
    """
    _be_quiet()
    is_new = "prefect" not in sys.modules
    try:
        from prefect import context

        if not is_new:
            context.refresh_global_settings_context()
        return context.get_settings_context()
    except ValidationError as error:  # whose text repeats the value
        first = error.errors(include_input=False, include_url=False)[0]
        name = "_".join(("PREFECT", *map(str, first["loc"]))).upper()
        raise UsageError(
            "cannot read Prefect's settings", f"{name}: {first['msg']}", "Look for the mistake: prefect config view"
        ) from None
    except ValueError as error:  # a file that is no TOML
        why = " ".join(str(error).split())
        raise UsageError("cannot read Prefect's settings", why, "Look for the mistake: prefect config view") from None


def existing_server(own: Server | None) -> Server | None:
    """The configured server, or else `own`, that of `retrain up`; None where there is neither.

    Raises:
        ServerError: It does not answer within 30 s, or does not let us in.
        UsageError: Prefect cannot read its settings.
    """
    url = configured_api_url()
    if url and not (own and own.url in {url, f"{url}/api"}):
        return Server(_usable_address(url))
    if own and (refusal := _refusal(own.url, own.password)):
        raise refusal
    return own


def _usable_address(url: str) -> str:
    """The address, with the `/api` that people forget.

    Raises:
        ServerError: No Prefect server lets us in there.
    """
    # Behind a proxy an API may have any address.
    candidates = [url] if url.endswith("/api") or "/api/" in url else [f"{url}/api", url]
    refusals = []
    for candidate in candidates:
        refusal = _refusal(candidate)
        if refusal is None:
            return candidate
        refusals.append(refusal)
    raise refusals[0]


def _refusal(url: str, password: str | None = None) -> ServerError | None:
    """Why the Prefect server at this address cannot be used, as Prefect's own client sees it; None if it can."""
    everything = _prefect_settings().settings
    settings, custom_headers = everything.api, everything.client.custom_headers
    import httpx
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    from tasks.running.server import wait_at_most

    auth = password or (settings.auth_string.get_secret_value() if settings.auth_string else None)
    key = settings.key.get_secret_value() if settings.key else None
    headers = {"API_AUTH_STRING": auth, "API_KEY": key, "CLIENT_CUSTOM_HEADERS": "".join(custom_headers.values())}
    for name, value in headers.items():
        if value and not (value.isascii() and value.isprintable()):
            raise UsageError(f"cannot use PREFECT_{name}", "it has a character that no header has", "Copy it again.")
    reach, use = f"cannot reach the Prefect server {url}", f"cannot use the Prefect server {url}"
    try:
        with (
            temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
            wait_at_most(0),
            SyncPrefectClient(url, auth_string=auth, api_key=key, httpx_settings={"timeout": ANSWER_TIMEOUT}) as client,
        ):
            answer = client.request("GET", "/admin/version")
            cloud = client.server_type == "cloud"
            is_prefect = isinstance(answer.json(), str)
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        if status in {401, 403}:
            given = "password" if auth else "key"
            why = f"it refuses the {given}" if auth or key else "it asks for a password"
            return ServerError(use, why, "Set PREFECT_API_AUTH_STRING to its user:password, or PREFECT_API_KEY.")
        if status == 404 and url.startswith("https://api.prefect.cloud/"):
            return None  # Prefect Cloud tells no version
        return ServerError(reach, f"it answers {status}", "Look at its log, or correct PREFECT_API_URL.")
    except httpx.HTTPError as error:
        if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes(error)):
            return ServerError(
                reach,
                f"its certificate is not trusted: {reason_of(error)}",
                "Set PREFECT_API_SSL_CERT_FILE to the file of its certificate authority.",
            )
        return ServerError(
            reach,
            f"it does not answer ({reason_of(error)})",
            "Start it, or correct PREFECT_API_URL; `prefect config view` shows where it is set.",
        )
    except OSError as error:
        return ServerError(
            reach,
            f"cannot read the certificates of PREFECT_API_SSL_CERT_FILE ({error.strerror})",
            "Set it to the file of the certificate authority.",
        )
    except httpx.InvalidURL:
        return ServerError(reach, "it is no valid address", "Correct PREFECT_API_URL.")
    except ValueError:
        is_prefect, cloud = False, False
    if is_prefect or cloud:
        return None
    return ServerError(
        use, "what answers there is no Prefect API", "Set PREFECT_API_URL to its address, such as http://host:4200/api."
    )


def choose_server(own: Server | None = None) -> Server:
    """The server to use. A temporary one starts in the background and is ready after `Server.wait`.

    Args:
        own: The server of `retrain up`, to use if none is configured; None starts a temporary server.

    Raises:
        ServerError: The server to use does not answer within 30 s, or does not let us in.
        UsageError: Prefect cannot read its settings.
    """
    if server := existing_server(own):
        return server
    folder = Path(tempfile.mkdtemp(prefix="retrain-"))
    password = new_password()
    try:
        process, port = _start(folder, password)
    except BaseException:  # an interrupt too
        shutil.rmtree(folder, ignore_errors=True)
        raise
    server = Server(f"http://127.0.0.1:{port}/api", password, process, folder)
    # Prefect sends its last logs and events when threads end, which is before this runs.
    atexit.register(server.stop)
    return server


class Server:
    """A Prefect server: its API address, and for one of ours its user:password.

    One that this run started also has a process and a folder. Who logs in to a configured server is for Prefect's own
    settings to say.
    """

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
        return {}

    @property
    def temporary(self) -> bool:
        """Whether this run started the server, which then ends with it."""
        return self._process is not None

    @property
    def ours(self) -> bool:
        """Whether this project started the server, for this run or by `retrain up`."""
        return self.password is not None

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
    """Point Prefect, whether it is imported already or not, at the server, and silence its console logger."""
    os.environ["PREFECT_API_URL"] = server.url
    if server.password:
        os.environ["PREFECT_API_AUTH_STRING"] = server.password
        os.environ["PREFECT_CLIENT_CSRF_SUPPORT_ENABLED"] = "true"
    _be_quiet()
    if "prefect" in sys.modules:
        _prefect_settings()


def without_prefects_heartbeats() -> AbstractContextManager[object]:
    """A run whose end does not wait, for up to a second, for the thread that sends them.

    For a server of ours, where nobody listens to them: every run sends its own, see `tasks.running.liveness`.
    """
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    return temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None})


def _be_quiet() -> None:
    """Keep Prefect's log from the terminal, and its telemetry, with its notice, off. Both are read at its import."""
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW", "ignore")


def _start(folder: Path, password: str) -> tuple[subprocess.Popen[bytes], int]:
    template.copy_to(folder / "prefect.db")
    port = _free_port()
    settings = {
        **SERVER_SETTINGS,
        **protection(f"http://127.0.0.1:{port}", password),
        "PREFECT_HOME": str(folder),
        **database(folder / "prefect.db"),
    }
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER_PROGRAM, str(port), str(folder)],
            cwd=folder,  # not where a prefect.toml or a .env of the user's would apply
            env=own_environment(settings),
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
    answer = ask(f"{url}/health", timeout=timeout)
    return answer is not None and answer.status_code == 200


def ask(url: str, headers: Mapping[str, str] | None = None, timeout: float = 5) -> httpx.Response | None:
    """The answer to a GET; None without one within `timeout` seconds."""
    import httpx

    try:
        # Certificates only where they are used: to read them takes 50 ms of a core on which a server is starting.
        return httpx.get(url, headers=headers, timeout=timeout, verify=url.startswith("https:"))
    except httpx.HTTPError:
        return None


def _last_line(folder: Path) -> str:
    if shutil.disk_usage(folder).free < ROOM:
        return f"the disk of {folder.parent} is full: free space, or set TMPDIR"
    lines = (folder / "server.log").read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"it did not answer within {START_TIMEOUT:.0f} s"
