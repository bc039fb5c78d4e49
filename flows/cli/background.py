"""`retrain up`, `status` and `down`: a Prefect server and workers in the background of this machine.

    $RETRAIN_HOME/up/state.json    port, store, and the processes that were started
    $RETRAIN_HOME/up/password      user and password of the server, for its workers, our own clients and the interface
    $RETRAIN_HOME/up/*.log         the output of each process
    $RETRAIN_HOME/up/prefect.db    the server's database: runs, schedules, logs

A process counts as started here only if its id *and* its creation time agree: the system may give the id to another
program. Everything listens on loopback; only the owner can enter the folder. Called by `main`, `run` and `deploy`; only
`up` imports Prefect.
"""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from pydantic import Field

from flows.cli.command import DEPLOYED, OVERWRITE, Command
from flows.cli.progress import show_progress
from flows.cli.server import (
    START_TIMEOUT,
    Server,
    configured_api_url,
    is_reachable,
    make_private,
    new_password,
    protection,
)
from tasks.errors import ServerError, UsageError
from tasks.settings import DeviceChoice, home
from tasks.storage import open_store
from tasks.storage.probe import check
from tasks.values import Value

LOG = logging.getLogger("retrain")

SERVER = "server"
# One training at a time: a GPU has no room for two.
WORKERS = {"worker jobs": ("retrain-jobs", ()), "worker training": ("retrain-training", ("--limit", "1"))}

# Seconds between SIGTERM and SIGKILL: a worker needs some to end its runs.
GRACE_PERIOD = 20.0


class Process(Value):
    """A process that was started here: its id and its creation time, in seconds since 1970."""

    pid: int
    born: float

    def running_process(self) -> psutil.Process | None:
        """The process, or None if it has ended or its id belongs to another one."""
        try:
            process = psutil.Process(self.pid)
            runs = abs(process.create_time() - self.born) < 1 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return None
        return process if runs else None


class State(Value):
    """The content of state.json. Earlier versions wrote the same fields; keep their names."""

    port: int
    store: str
    processes: dict[str, Process] = Field(default_factory=dict)
    has_password: bool = False

    @property
    def address(self) -> str:
        """The address of Prefect's interface."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def api(self) -> str:
        """The API address, as `PREFECT_API_URL` takes it."""
        return f"{self.address}/api"

    def alive(self, name: str) -> bool:
        """Whether the process of this name runs."""
        return name in self.processes and self.processes[name].running_process() is not None


def up(options: argparse.Namespace) -> int:
    """`retrain up`: start each process that does not run, and put pools, deployments and automations on the server."""
    show_progress()
    with _one_at_a_time():
        return _up(options)


def _up(options: argparse.Namespace) -> int:
    previous, configured = _read_state(), configured_api_url()
    if configured and not (previous and previous.api == configured):
        raise UsageError(
            "a Prefect server is set up already",
            f"PREFECT_API_URL is {configured}",
            "Put the deployments there with `retrain deploy`, or unset it to start a server here.",
        )
    device = _training_device(options.settings.device)
    named = options.settings.store if "store" in options.settings.model_fields_set else None
    store = open_store(named or (previous.store if previous else options.settings.store))
    check(store)  # so that a wrong address fails here and not in the first run
    state = _ensure_server(previous, options.port, store.url)
    _wait_until_ready(lambda: is_reachable(state.api), state, SERVER)
    server = Server(state.api, _password())
    os.environ |= _environment(state)

    from deployments.setup import apply, create_pools

    create_pools()
    for name, (pool, worker_options) in WORKERS.items():
        if not state.alive(name):
            state = _start(state, name, _worker_command(pool, worker_options))
    apply(options.settings, device, store.url, overwrite=options.overwrite)
    for name, (pool, _) in WORKERS.items():
        _wait_until_ready(lambda pool=pool: _pool_is_ready(server, pool), state, name)  # type: ignore[misc]
    print(_summary(state))
    return 0


def status(options: argparse.Namespace) -> int:
    """`retrain status`: 0 if the server and all workers run, else 1."""
    state = _read_state()
    if state is None:
        print("nothing runs in the background of this machine; `retrain up` starts it", file=sys.stderr)
        return 1
    print(_summary(state))
    return 0 if all(map(state.alive, [SERVER, *WORKERS])) else 1


def down(options: argparse.Namespace) -> int:
    """`retrain down`: end the processes that `retrain up` has started, and with them the runs in progress."""
    show_progress()
    with _one_at_a_time():
        return _down()


def _down() -> int:
    state = _read_state()
    if state is None:
        print("nothing was started here", file=sys.stderr)
        return 0
    # The workers first: they still report to the server.
    _terminate(process for name, process in state.processes.items() if name != SERVER)
    _terminate(process for name, process in state.processes.items() if name == SERVER)
    _state_file().unlink()
    print(f"ended {', '.join(state.processes)}. Runs, schedules and logs are kept in {_folder()}")
    return 0


def running_server() -> Server | None:
    """The server that `retrain up` has started; None if it does not run."""
    state = _read_state()
    if state is None or not state.alive(SERVER):
        return None
    return Server(state.api, _password() if state.has_password else None)


def _ensure_server(state: State | None, port: int | None, store: str) -> State:
    """Start the server if it does not run, and return the new state."""
    if state and state.alive(SERVER):
        if port not in {None, state.port}:
            raise UsageError(f"cannot use port {port}", f"the server runs on {state.port}", "End it: retrain down")
        if state.has_password:
            LOG.info("the server runs already")
            return _write_state(state.model_copy(update={"store": store}))
        LOG.warning("the server that runs on port %d has no password; starting it again with one", state.port)
        _terminate(state.processes.values())
    elif state:
        LOG.warning("the server that was started on port %d is gone; starting it again", state.port)
        _terminate(state.processes.values())
    new = State(port=port or (state.port if state else 4200), store=store, has_password=True)
    _require_free_port(new.port)
    return _start(new, SERVER, ["server", "start", "--host", "127.0.0.1", "--port", str(new.port)])


def _require_free_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            prefect = is_reachable(f"http://127.0.0.1:{port}/api")
            raise UsageError(
                f"cannot start a server on port {port}",
                "a Prefect server that was not started here answers there" if prefect else str(error.strerror),
                f"Give another --port, or set PREFECT_API_URL=http://127.0.0.1:{port}/api and use `retrain deploy`."
                if prefect
                else "Give another --port.",
            ) from None


def _environment(state: State) -> dict[str, str]:
    """The environment variables of the server and the workers."""
    return {
        **protection(state.address, _password()),
        "PREFECT_API_URL": state.api,
        "PREFECT_API_AUTH_STRING": _password(),
        "PREFECT_HOME": str(_folder() / "prefect"),
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{_folder() / 'prefect.db'}",
        "PREFECT_SERVER_UI_API_URL": state.api,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "RETRAIN_HOME": str(home().resolve()),
    }


def _worker_command(pool: str, options: Iterable[str]) -> list[str]:
    return ["worker", "start", "--pool", pool, "--type", "process", "--name", f"{pool}@{platform.node()}", *options]


def _start(state: State, name: str, command: list[str]) -> State:
    """Start a command of Prefect's in its own session, with its output in a log file, and return the new state."""
    LOG.info("starting the %s", name)
    _make_folder()
    _log_file(name).touch(mode=0o600)
    with _log_file(name).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", *command],
            cwd=_folder(),
            env={**os.environ, **_environment(state)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # it outlives the terminal
            umask=0o077 if name == SERVER else -1,  # a worker writes the store, which may be shared
        )
    born = psutil.Process(process.pid).create_time()
    return _write_state(
        state.model_copy(update={"processes": state.processes | {name: Process(pid=process.pid, born=born)}})
    )


def _wait_until_ready(ready: Callable[[], bool], state: State, name: str) -> None:
    """Wait until `ready()`. Raises ServerError if the process ends first, or after START_TIMEOUT."""
    deadline = time.monotonic() + START_TIMEOUT
    while not ready():
        if not state.alive(name) or time.monotonic() > deadline:
            lines = _log_file(name).read_text(errors="replace").strip().splitlines() or ["its log is empty"]
            raise ServerError(f"the {name} did not start", lines[-1], f"Its whole log is {_log_file(name)}")
        time.sleep(0.2)


def _pool_is_ready(server: Server, pool: str) -> bool:
    import httpx

    try:
        answer = httpx.get(f"{server.url}/work_pools/{pool}", headers=server.headers, timeout=5)
        return bool(answer.json()["status"] == "READY")
    except (httpx.HTTPError, KeyError):
        return False


def _training_device(choice: DeviceChoice) -> DeviceChoice:
    """The device that this machine's worker trains on; `auto` without a GPU is the CPU, for trials."""
    from tasks.learning.device import resolve

    return resolve(choice).kind


def _summary(state: State) -> str:
    rows = [f"{name:<12} {_process_status(state, name)}" for name in [SERVER, *WORKERS]]
    places = {"store": state.store, "interface": state.address, "password": f"in {_password_file()}"}
    return "\n".join([*rows, *(f"{name:<12} {place}" for name, place in places.items())])


def _process_status(state: State, name: str) -> str:
    process = state.processes[name].running_process() if name in state.processes else None
    if process is None:
        return f"does not run; see {_log_file(name)}, then `retrain up`"
    minutes = (time.time() - process.create_time()) / 60
    return f"runs, process {process.pid}, for {minutes:.0f} min" if minutes >= 1 else f"runs, process {process.pid}"


def _terminate(processes: Iterable[Process]) -> None:
    """Send SIGTERM; after GRACE_PERIOD send SIGKILL to whatever of the processes and their descendants still runs."""
    parents = [process for each in processes if (process := each.running_process())]
    tree = list(parents)
    for process in parents:
        with suppress(psutil.NoSuchProcess):
            tree += process.children(recursive=True)
    for process in parents:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    for process in psutil.wait_procs(tree, GRACE_PERIOD)[1]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(tree, GRACE_PERIOD)


def _folder() -> Path:
    return home().resolve() / "up"


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Let only one command change what runs: two at once would start every worker twice.

    The kernel frees the lock of a process that dies.
    """
    _make_folder()
    lock_file = _folder() / "lock"
    lock_file.touch(mode=0o600)
    with lock_file.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            LOG.info("another `retrain up` or `retrain down` is at work; waiting for its end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make_folder() -> None:
    make_private(home().resolve())
    make_private(_folder())


def _password_file() -> Path:
    return _folder() / "password"


def _password() -> str:
    """User and password of the server; chosen at its first start, and kept over `down` and `up`."""
    if not _password_file().exists():
        _make_folder()
        partial_file = _password_file().with_suffix(f".{os.getpid()}")
        partial_file.touch(mode=0o600)
        partial_file.write_text(f"{new_password()}\n")
        with suppress(FileExistsError):  # another command was first, and its password counts
            _password_file().hardlink_to(partial_file)
        partial_file.unlink()
    return _password_file().read_text().strip()


def _state_file() -> Path:
    return _folder() / "state.json"


def _log_file(name: str) -> Path:
    return _folder() / f"{name.replace(' ', '-')}.log"


def _read_state() -> State | None:
    try:
        return State.model_validate_json(_state_file().read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ServerError(
            f"cannot read {_state_file()}", str(error).splitlines()[0], "Remove it, and end its processes."
        ) from None


def _write_state(state: State) -> State:
    _make_folder()
    partial_file = _state_file().with_suffix(f".{os.getpid()}")
    partial_file.touch(mode=0o600)
    partial_file.write_text(state.model_dump_json(indent=1))
    partial_file.replace(_state_file())
    return state


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 1 to 65535")
    return int(text)


PORT = {"type": _port, "metavar": "N", "help": "the server's port. Default: 4200, or its previous one"}

COMMANDS = [
    Command(
        up,
        "start a Prefect server, workers and deployments in the background of this machine",
        {"--port": PORT, "--overwrite": OVERWRITE},
        DEPLOYED,
    ),
    Command(status, "show which of these processes run", fields=()),
    Command(down, "end the processes that `up` has started", fields=()),
]
