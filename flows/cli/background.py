"""`retrain up`, `status` and `down`: a Prefect server and workers in the background of this machine.

    $RETRAIN_HOME/up/state.json    port, store, files, …, kept over `down`, and the processes that were started
    $RETRAIN_HOME/up/password      user and password of the server, for its workers, our own clients and the interface
    $RETRAIN_HOME/up/*.log         the output of each process
    $RETRAIN_HOME/up/notices.log   what the server tells of runs whose model names nobody to tell
    $RETRAIN_HOME/up/prefect.db    the server's database: runs, schedules, logs

A process counts as started here only if its id *and* its start agree: the system may give the id to another program.
One whose settings have changed since is started again, but never under a run. Everything listens on loopback; only the
owner can enter the folder. Called by `main`, `run` and `deploy`; only `up` imports Prefect.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import hmac
import logging
import os
import platform
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from pydantic import Field

from flows.cli.command import DEPLOYED, OVERWRITE, Command
from flows.cli.config import ModelSettings, require_deployable
from flows.cli.layout import say
from flows.cli.progress import show_progress
from flows.cli.server import (
    FOREIGN,
    START_TIMEOUT,
    Server,
    ask,
    configured_api_url,
    database,
    is_reachable,
    make_private,
    new_password,
    own_environment,
    protection,
    use_server,
)
from tasks.address import escaped
from tasks.errors import ServerError, UsageError
from tasks.settings import DeviceChoice, Settings, has_batches, home
from tasks.storage import open_store
from tasks.storage.probe import check, folders_of_run
from tasks.values import Value

LOG = logging.getLogger("retrain")

SERVER = "server"
# One training at a time: a GPU has no room for two.
WORKERS = {"worker jobs": ("retrain-jobs", ()), "worker training": ("retrain-training", ("--limit", "1"))}

# The server has no encryption, and still each of Prefect's clients would read certifi's 140 authorities: 50 ms of a
# core, and memory that a worker frees only at a full garbage collection of Python, which did not come in 200 runs.
NO_AUTHORITY = Path(__file__).with_name("no_authority.pem")

# The notices that are shown, the last ones.
SHOWN = 3

# Seconds between SIGTERM and SIGKILL: a worker needs some to end its runs.
GRACE_PERIOD = 20.0


# The variables that a process reads when it starts, but the settings of a run, which are parameters of the deployments.
SERVER_READS = re.compile("PREFECT_")
WORKER_READS = re.compile(
    "PREFECT_(?!SERVER_)|RETRAIN_|AWS_|TF_|XLA_|KERAS_|CUDA_|NVIDIA_|SSL_CERT_|(HTTPS?|ALL|NO)_PROXY$"
)
PARAMETERS = {f"RETRAIN_{name.upper()}" for name in Settings.model_fields}

# A worker that has another server's address or password is of no use, whatever it runs.
ADDRESS = {"PREFECT_API_URL", "PREFECT_API_AUTH_STRING"}


class Process(Value):
    """A process that was started here: its id, its start, and what it was started with."""

    pid: int
    born: float
    """Its creation time, in seconds since 1970, by the clock of that moment; earlier versions know it alone."""
    start: str = ""
    """Boot and clock tick of its start, which no change of the clock moves; empty where the system does not tell."""
    reads: dict[str, str] = Field(default_factory=dict)
    """A digest of each variable that it reads, by name."""

    def running_process(self) -> psutil.Process | None:
        """The process, or None if it has ended or its id belongs to another one."""
        try:
            process = psutil.Process(self.pid)
            same = start_of(self.pid) == self.start if self.start else abs(process.create_time() - self.born) < 1
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


def start_of(pid: int) -> str:
    """Boot and clock tick at which a process of Linux started; empty elsewhere, and for a process that has ended."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        after_the_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return f"{boot} {after_the_name[19]}"


class State(Value):
    """The content of state.json. Earlier versions wrote some of the fields; keep their names."""

    port: int
    store: str
    device: DeviceChoice = "auto"
    files: tuple[str, ...] = ()
    """The whole paths of the files of settings that were deployed last."""
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
    require_deployable(options.models)
    show_progress()
    with _one_at_a_time():
        return _up(options)


def _up(options: argparse.Namespace) -> int:
    previous, configured = _read_state(), configured_api_url()
    if configured and not (previous and configured in {previous.api, previous.address}):
        raise UsageError(
            "a Prefect server is set up already",
            f"PREFECT_API_URL is {configured}",
            "Put the deployments there with `retrain deploy`, or unset it to start a server here.",
        )
    models: Sequence[ModelSettings] = options.models
    settings = [model.settings for model in models]
    from tasks.learning.network import code

    for each in settings:
        code(
            each.network or ""
        )  # a module that this machine, which trains, cannot find fails here and not in the first run
    wanted = _remembered(models, options.port, previous)
    device = _training_device(wanted.device)
    store = open_store(wanted.store)
    # So that a wrong address or a missing permission fails here and not in the first run.
    folders = (folders_of_run(one.model_name, False, has_batches(one.source)) for one in settings)
    check(store, sorted(set().union(*folders)))
    done: list[str] = []
    state = _ensure_server(previous, wanted.model_copy(update={"store": store.url}), options.port, done)
    _wait_until_ready(lambda: is_reachable(state.api), state, SERVER)
    server = Server(state.api, _password())
    for name in filter(FOREIGN.match, list(os.environ)):
        del os.environ[name]
    os.environ |= _environment(state)
    use_server(server)

    from deployments.deploy import Target
    from deployments.setup import apply, create_pools, require_block

    for each in settings:
        require_block(each.notify or "")
    create_pools()
    state = _ensure_workers(state, done)
    apply(
        [Target(each, device, store.url) for each in settings],
        overwrite=options.overwrite,
        show=LOG.info,
        log=notices(),
    )
    kept = {"store": store.url, "device": wanted.device, "files": wanted.files}
    state = _write_state(state.model_copy(update=kept))
    for name, (pool, _) in WORKERS.items():
        _wait_until_ready(lambda pool=pool: _pool_is_ready(server, pool), state, name)  # type: ignore[misc]
    _show(state)
    for line in done or ["nothing had to be started"]:
        say(line)
    return 0


def remembered_files() -> list[Path]:
    """The files that `up` deployed last, for one that finds none: a bare `retrain up` at boot deploys the same models.

    Without them it would deploy MNIST beside them. Raises UsageError if one is gone.
    """
    state = _read_state()
    files = [Path(file) for file in state.files] if state else []
    for file in files:
        if not file.exists():
            raise UsageError(
                f"cannot read the settings in {file}",
                "the last `retrain up` has deployed them, and the file is gone",
                "Put it back, or name the files with --config.",
            )
    return files


def _remembered(models: Sequence[ModelSettings], port: int | None, previous: State | None) -> State:
    """What `up` is told, and where it is not, what it was told the last time.

    Store and device are the machine's: its workers, which train all models, have one. So the files must agree.
    """
    stores = {open_store(each.settings.store).url: each.name for each in _which_set("store", models)}
    devices = {each.settings.device: each.name for each in _which_set("device", models)}
    _require_one("store", stores.items())
    _require_one("device", devices.items())
    default = models[0].settings
    return State(
        port=port or (previous.port if previous else 4200),
        store=next(iter(stores), previous.store if previous else default.store),
        device=next(iter(devices), previous.device if previous else default.device),
        files=tuple(str(each.file.resolve()) for each in models if each.file),
    )


def _require_one(what: str, values: Collection[tuple[str, str]]) -> None:
    """Refuse two values, each with the file that it is from."""
    if len(values) > 1:
        raise UsageError(
            f"cannot use two {what}s in one `retrain up`",
            " and ".join(f"{value} is that of {name}" for value, name in values),
            f"Name one for all of them, with --{what}.",
        )


def _which_set(name: str, models: Sequence[ModelSettings]) -> list[ModelSettings]:
    return [each for each in models if name in each.settings.model_fields_set]


def status(options: argparse.Namespace) -> int:
    """`retrain status`: 0 if the server and all workers run, else 1."""
    state = _read_state()
    if state is None or not state.processes:
        print("nothing runs in the background of this machine; `retrain up` starts it", file=sys.stderr)
        return 1
    _show(state)
    return 0 if all(map(state.alive, [SERVER, *WORKERS])) else 1


def down(options: argparse.Namespace) -> int:
    """`retrain down`: end the processes that `retrain up` has started, and with them the runs in progress."""
    show_progress()
    with _one_at_a_time():
        return _down()


def _down() -> int:
    state = _read_state()
    if state is None or not state.processes:
        print("nothing was started here", file=sys.stderr)
        return 0
    # The workers first: they still report to the server.
    _terminate(process for name, process in state.processes.items() if name != SERVER)
    _terminate(process for name, process in state.processes.items() if name == SERVER)
    _write_state(state.model_copy(update={"processes": {}}))
    say(f"ended {', '.join(state.processes)}. Runs, schedules and logs are kept in {_folder()}")
    return 0


def running_server() -> Server | None:
    """The server that `retrain up` has started; None if it does not run."""
    state = _read_state()
    if state is None or not state.alive(SERVER):
        return None
    return Server(state.api, _password() if state.has_password else None)


def _ensure_server(state: State | None, wanted: State, port: int | None, done: list[str]) -> State:
    """Start the server if it does not run, or has other settings than it would get now; workers that run go on.

    Args:
        state: What was started before.
        wanted: Port and store of the new state.
        port: The port that was asked for.
        done: Gets a line for what is done.
    """
    if state is None:
        state = wanted
    elif state.alive(SERVER):
        if port not in {None, state.port}:
            raise UsageError(f"cannot use port {port}", f"the server runs on {state.port}", "End it: retrain down")
        changes = _changes(state, SERVER)
        if state.has_password and not changes:
            LOG.info("the server runs already")
            return state
        done.append(
            f"started the server again: {_have_changed(changes) if state.has_password else 'it had no password'}"
        )
        # A worker without the password can do nothing more.
        _terminate([state.processes[SERVER]] if state.has_password else state.processes.values())
    elif SERVER in state.processes:
        LOG.warning("the server that was started on port %d is gone; starting it again", state.port)
    new = state.model_copy(update={"port": wanted.port, "has_password": True})
    _require_free_port(new.port)
    if not done:
        done.append("started the server")
    return _start(new, SERVER)


def _ensure_workers(state: State, done: list[str]) -> State:
    """Start each worker that does not run, or has other settings than it would get now and no run at work."""
    former = [name for name in state.processes if name not in {SERVER, *WORKERS}]  # of an earlier version
    _terminate(state.processes[name] for name in former)
    kept = {name: process for name, process in state.processes.items() if name not in former}
    state = state.model_copy(update={"processes": kept})
    for name in WORKERS:
        running = state.processes[name].running_process() if name in state.processes else None
        changes = _changes(state, name) if running else []
        if running and not changes:
            continue
        if running and running.children() and not ADDRESS & set(changes):
            done.append(
                f"kept the {name}, so that its run goes on, with its former settings: {_have_changed(changes)}. "
                "Repeat `retrain up` when the run has ended"
            )
            continue
        done.append(f"started the {name}" + (f" again: {_have_changed(changes)}" if running else ""))
        if running:
            _terminate([state.processes[name]])
        state = _start(state, name)
    return state


def _have_changed(names: list[str]) -> str:
    return f"{', '.join(names)} {'has' if len(names) == 1 else 'have'} changed"


def _changes(state: State, name: str) -> list[str]:
    """The names of what a process would read otherwise if it were started now."""
    before, now = state.processes[name].reads, _reads(state, name)
    if not before:
        return ["the version of retrain"]  # which kept no digests
    return sorted(each for each in before.keys() | now.keys() if before.get(each) != now.get(each))


def _reads(state: State, name: str) -> dict[str, str]:
    """A digest of each variable that a process reads, keyed with the password: state.json tells no value."""
    pattern = SERVER_READS if name == SERVER else WORKER_READS
    environment = own_environment(_environment(state))
    read = {
        each: value for each, value in environment.items() if pattern.match(each.upper()) and each not in PARAMETERS
    }
    read["the path of Python"] = sys.executable
    key = _password().encode()
    return {each: hmac.new(key, value.encode(), hashlib.sha256).hexdigest()[:16] for each, value in read.items()}


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
        "PREFECT_API_SSL_CERT_FILE": str(NO_AUTHORITY),
        "PREFECT_HOME": str(_folder() / "prefect"),
        **database(_folder() / "prefect.db"),
        "PREFECT_SERVER_UI_API_URL": state.api,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",  # runs too, after 90 days
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "RETRAIN_HOME": str(home().resolve()),
    }


def _command(state: State, name: str) -> list[str]:
    if name == SERVER:
        return ["flows.cli.sqlite_server", "server", "start", "--host", "127.0.0.1", "--port", str(state.port)]
    pool, options = WORKERS[name]
    worker = ["--pool", pool, "--type", "process", "--name", f"{pool}@{platform.node()}"]
    return ["prefect", "worker", "start", *worker, *options]


def _start(state: State, name: str) -> State:
    """Start a process in its own session, with its output in a log file, and return the new state."""
    LOG.info("starting the %s", name)
    _make_folder()
    _log_file(name).touch(mode=0o600)
    with _log_file(name).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *_command(state, name)],
            cwd=_folder(),
            env=own_environment(_environment(state)),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # it outlives the terminal
            umask=0o077 if name == SERVER else -1,  # a worker writes the store, which may be shared
        )
    started = Process(
        pid=process.pid,
        born=psutil.Process(process.pid).create_time(),
        start=start_of(process.pid),
        reads=_reads(state, name),
    )
    return _write_state(state.model_copy(update={"processes": {**state.processes, name: started}}))


def _wait_until_ready(ready: Callable[[], bool], state: State, name: str) -> None:
    """Wait until `ready()`. Raises ServerError if the process ends first, or after START_TIMEOUT."""
    deadline = time.monotonic() + START_TIMEOUT
    while not ready():
        if not state.alive(name) or time.monotonic() > deadline:
            lines = _log_file(name).read_text(errors="replace").strip().splitlines() or ["its log is empty"]
            raise ServerError(f"the {name} did not start", lines[-1], f"Its whole log is {_log_file(name)}")
        time.sleep(0.2)


def _pool_is_ready(server: Server, pool: str) -> bool:
    answer = ask(f"{server.url}/work_pools/{pool}", server.headers)
    return answer is not None and answer.is_success and answer.json().get("status") == "READY"


def _training_device(choice: DeviceChoice) -> DeviceChoice:
    """The device that this machine's worker trains on; `auto` without a GPU is the CPU, for trials."""
    from tasks.learning.device import resolve

    return resolve(choice).kind


def _show(state: State) -> None:
    processes = {name: _process_status(state, name) for name in [SERVER, *WORKERS]}
    places = {
        "store": state.store,
        "interface": state.address,
        "password": f"in {_password_file()}",
        "reboot": "ends all this, until `retrain up`; deployments/systemd/retrain.service calls it at boot",
    }
    for name, text in (processes | places).items():
        say(text, f"{name:<12} ")
    with suppress(OSError):
        for notice in notices().read_text(errors="replace").splitlines()[-SHOWN:]:
            say(escaped(notice), f"{'notice':<12} ")


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


def notices() -> Path:
    """The file to which the server appends the notices of models that name nobody to tell."""
    return _folder() / "notices.log"


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


PORT = {"type": _port, "metavar": "N", "help": "the server's port, 1 to 65535. Default: 4200, or its previous one"}

COMMANDS = [
    Command(
        up,
        "start a Prefect server, workers and deployments in the background of this machine",
        {"--port": PORT, "--overwrite": OVERWRITE},
        DEPLOYED,
        several=True,
    ),
    Command(status, "show which of these processes run", fields=()),
    Command(down, "end the processes that `up` has started", fields=()),
]
