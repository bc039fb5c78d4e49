"""`retrain up`, `status` and `down`: the job's own Prefect server and workers, in the background of this machine.

    $RETRAIN_HOME/up/state.json    what was started: addresses and processes
    $RETRAIN_HOME/up/*.log         what each of them says
    $RETRAIN_HOME/up/prefect.db    the server's database: runs, schedules, logs

A process counts as started here only if its number *and* its time of birth agree, so a number that another program has
got since is left alone. Everything listens on loopback. Called by the command line; imports Prefect only to set it up.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import psutil
from pydantic import Field

from flows.cli.command import NOTIFY, Command
from flows.cli.progress import show_progress
from flows.cli.server import PATIENCE, answers, configured
from tasks.errors import ServerError, UsageError
from tasks.settings import DeviceChoice, home
from tasks.storage import open_store
from tasks.storage.probe import check
from tasks.values import Value

LOG = logging.getLogger("retrain")

SERVER = "server"
# One training at a time: a GPU has no room for two.
WORKERS = {"worker cpu": ("cpu", ()), "worker gpu": ("gpu", ("--limit", "1"))}

# Seconds that a process gets to end by itself; a worker then ends its runs.
GRACE = 20.0


class Process(Value):
    """A process that was started here: its number, and when it was born (seconds since 1970)."""

    pid: int
    born: float

    def found(self) -> psutil.Process | None:
        """The process, if it is still the same and alive."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.born) < 1 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return None
        return process if same else None


class State(Value):
    """What `retrain up` has started."""

    port: int
    store: str
    processes: dict[str, Process] = Field(default_factory=dict)

    @property
    def address(self) -> str:
        """The address of the interface."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def api(self) -> str:
        """The address that `PREFECT_API_URL` takes."""
        return f"{self.address}/api"

    def alive(self, name: str) -> bool:
        """Whether the process of this name still runs."""
        return name in self.processes and self.processes[name].found() is not None


def up(options: argparse.Namespace) -> int:
    """`retrain up`: start what does not run yet, and bring the server up to date."""
    found, elsewhere = _read(), configured()
    if elsewhere and not (found and found.api == elsewhere):
        raise UsageError(
            "a Prefect server is set up already",
            f"PREFECT_API_URL is {elsewhere}",
            "Put the deployments there with `retrain deploy`, or unset it to start a server here.",
        )
    show_progress()
    device = _device(options.settings.device)
    store = open_store(options.settings.store)
    check(store)  # a mistake in its address is noticed now, not by the first run
    state = _server(found, options.port, store.url)
    _at_work(lambda: answers(state.api), state, SERVER)
    os.environ |= _settings(state)

    from deployments.setup import apply, create_pools

    create_pools()
    for name, (pool, more) in WORKERS.items():
        if not state.alive(name):
            state = _start(state, name, _worker(pool, more))
    apply(store.url, device, options.notify)
    for name, (pool, _) in WORKERS.items():
        _at_work(lambda pool=pool: _is_ready(state.api, pool), state, name)  # type: ignore[misc]
    print(_summary(state))
    return 0


def status(options: argparse.Namespace) -> int:
    """`retrain status`: 0 where all of it runs."""
    state = _read()
    if state is None:
        print("nothing runs in the background of this machine; `retrain up` starts it", file=sys.stderr)
        return 1
    print(_summary(state))
    return 0 if all(map(state.alive, [SERVER, *WORKERS])) else 1


def down(options: argparse.Namespace) -> int:
    """`retrain down`: end what `retrain up` has started, and nothing else; runs that are at work are ended too."""
    state = _read()
    if state is None:
        print("nothing was started here", file=sys.stderr)
        return 0
    _end(process for name, process in state.processes.items() if name != SERVER)  # they report to the server
    _end(process for name, process in state.processes.items() if name == SERVER)
    _file().unlink()
    print(f"ended {', '.join(state.processes)}. Runs, schedules and logs are kept in {_folder()}")
    return 0


def running() -> str | None:
    """The API's address of the server that `retrain up` has started, if it runs."""
    state = _read()
    return state.api if state and state.alive(SERVER) else None


def _server(state: State | None, port: int | None, store: str) -> State:
    """The state with a server in it: the one that runs, or a new one."""
    if state and state.alive(SERVER):
        if port not in {None, state.port}:
            raise UsageError(f"cannot use port {port}", f"the server runs on {state.port}", "End it: retrain down")
        LOG.info("the server runs already")
        return _write(state.model_copy(update={"store": store}))
    if state:
        LOG.warning("the server that was started on port %d is gone; starting it again", state.port)
        _end(state.processes.values())
    new = State(port=port or (state.port if state else 4200), store=store)
    _require_free(new.port)
    return _start(new, SERVER, ["server", "start", "--host", "127.0.0.1", "--port", str(new.port)])


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            prefect = answers(f"http://127.0.0.1:{port}/api")
            raise UsageError(
                f"cannot start a server on port {port}",
                "a Prefect server that was not started here answers there" if prefect else str(error.strerror),
                f"Give another --port, or set PREFECT_API_URL=http://127.0.0.1:{port}/api and use `retrain deploy`."
                if prefect
                else "Give another --port.",
            ) from None


def _settings(state: State) -> dict[str, str]:
    """The environment of everything that is started here."""
    return {
        "PREFECT_API_URL": state.api,
        "PREFECT_HOME": str(_folder() / "prefect"),
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{_folder() / 'prefect.db'}",
        "PREFECT_SERVER_UI_API_URL": state.api,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "RETRAIN_HOME": str(home().resolve()),
    }


def _worker(pool: str, more: Iterable[str]) -> list[str]:
    return ["worker", "start", "--pool", pool, "--type", "process", "--name", f"{pool}@{platform.node()}", *more]


def _start(state: State, name: str, command: list[str]) -> State:
    """The state with one more process: a command of Prefect's, on its own, with its log in a file."""
    LOG.info("starting the %s", name)
    _folder().mkdir(parents=True, exist_ok=True)
    with _log(name).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", *command],
            cwd=_folder(),
            env={**os.environ, **_settings(state)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # it stays when the terminal goes
        )
    born = psutil.Process(process.pid).create_time()
    return _write(state.model_copy(update={"processes": state.processes | {name: Process(pid=process.pid, born=born)}}))


def _at_work(ready: Callable[[], bool], state: State, name: str) -> None:
    """Wait until it is ready. Raises ServerError where it ends, or takes too long."""
    deadline = time.monotonic() + PATIENCE
    while not ready():
        if not state.alive(name) or time.monotonic() > deadline:
            lines = _log(name).read_text(errors="replace").strip().splitlines() or ["it says nothing"]
            raise ServerError(f"the {name} did not start", lines[-1], f"All that it says is in {_log(name)}")
        time.sleep(0.2)


def _is_ready(api: str, pool: str) -> bool:
    import httpx

    try:
        return bool(httpx.get(f"{api}/work_pools/{pool}", timeout=5).json()["status"] == "READY")
    except (httpx.HTTPError, KeyError):
        return False


def _device(choice: DeviceChoice) -> DeviceChoice:
    """What this machine's gpu worker trains on: without a GPU, the CPU, so that everything can be tried."""
    from tasks.learning.device import resolve

    return resolve(choice).kind


def _summary(state: State) -> str:
    rows = [f"{name:<12} {_life(state, name)}" for name in [SERVER, *WORKERS]]
    return "\n".join([*rows, f"{'store':<12} {state.store}", f"{'interface':<12} {state.address}"])


def _life(state: State, name: str) -> str:
    process = state.processes[name].found() if name in state.processes else None
    if process is None:
        return f"does not run; see {_log(name)}, then `retrain up`"
    minutes = (time.time() - process.create_time()) / 60
    return f"runs, process {process.pid}, for {minutes:.0f} min" if minutes >= 1 else f"runs, process {process.pid}"


def _end(processes: Iterable[Process]) -> None:
    """End them and what they have started: first asked, then, after a while, by force."""
    found = [process for each in processes if (process := each.found())]
    family = list(found)
    for process in found:
        with suppress(psutil.NoSuchProcess):
            family += process.children(recursive=True)
    for process in found:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    for process in psutil.wait_procs(family, GRACE)[1]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(family, GRACE)


def _folder() -> Path:
    return home().resolve() / "up"


def _file() -> Path:
    return _folder() / "state.json"


def _log(name: str) -> Path:
    return _folder() / f"{name.replace(' ', '-')}.log"


def _read() -> State | None:
    try:
        return State.model_validate_json(_file().read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ServerError(
            f"cannot read {_file()}", str(error).splitlines()[0], "Remove it, and end its processes."
        ) from None


def _write(state: State) -> State:
    _file().parent.mkdir(parents=True, exist_ok=True)
    new = _file().with_suffix(f".{os.getpid()}")
    new.write_text(state.model_dump_json(indent=1))
    new.replace(_file())
    return state


PORT = {"type": int, "metavar": "N", "help": "the server's port. Default: 4200, or the one it had"}

COMMANDS = [
    Command(
        up,
        "start a Prefect server, workers and deployments in the background of this machine",
        {"--port": PORT, "--notify": NOTIFY},
        ("store", "device"),
    ),
    Command(status, "tell what of it runs", fields=()),
    Command(down, "end what `up` has started", fields=()),
]
