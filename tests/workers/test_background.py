"""`retrain up`, `status` and `down` as commands: repeated, after killed processes, and beside other servers."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from flows.cli.background import Process, start_of
from flows.turn import SKIPPED
from tasks.running.liveness import HEARTBEAT
from tests.workers.laptop import Laptop, eventually, gone, make_block

NAMES = ["server", "worker jobs", "worker training"]

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def laptop(tmp_path: Path) -> Iterator[Laptop]:
    laptop = Laptop(tmp_path)
    yield laptop
    assert laptop.retrain("down").returncode == 0


def test_up_twice_then_down_leaves_nothing_running(laptop: Laptop) -> None:
    first = laptop.up()
    assert first.returncode == 0, first.stderr
    processes = [laptop.process(name) for name in NAMES]
    assert first.stdout.splitlines()[:3] == [
        f"{name:<12} runs, process {process.pid}" for name, process in zip(NAMES, processes, strict=True)
    ]
    assert first.stdout.splitlines()[3:] == [
        f"store        {laptop.store.url}",
        f"interface    http://127.0.0.1:{laptop.port}",
        f"password     in {laptop.folder / 'home/up/password'}",
        "reboot       ends all this, until `retrain up`; deployments/systemd/retrain.service calls it at boot",
        *(f"started the {name}" for name in NAMES),
    ]
    assert all(each.laddr.ip == "127.0.0.1" for each in processes[0].net_connections() if each.status == "LISTEN")
    deployments = laptop.api("POST", "deployments/filter", {})
    again = laptop.retrain("up")
    assert (again.returncode, again.stdout.splitlines()[-1]) == (0, "nothing had to be started")
    assert [laptop.process(name).pid for name in NAMES] == [process.pid for process in processes]
    assert len(laptop.api("POST", "deployments/filter", {})) == len(deployments) == 4
    assert laptop.retrain("status").returncode == 0

    # A run from the command line reports to this server.
    done = laptop.retrain("run", "--dataset", "digits", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert f"Prefect server http://127.0.0.1:{laptop.port}/api" in done.stderr

    laptop.start("retrain/ci", data={"dataset": "digits"}, recipe={"epochs": 1000})
    eventually(lambda: laptop.process("worker jobs").children())
    work = laptop.run_process("jobs")
    ended = laptop.retrain("down")
    assert ended.stdout.startswith("ended server, worker jobs, worker training. Runs, schedules and logs are kept in ")
    for process in (work, *processes):
        gone(process, 1)
    status = laptop.retrain("status")
    assert (status.returncode, status.stdout) == (1, "")
    assert "`retrain up` starts it" in status.stderr
    assert laptop.retrain("down").stderr == "nothing was started here\n"


# As another user of the machine: reads what it can, and asks the API for each thing that would run a program.
STRANGER = """
import encodings.idna, json, os, sys, urllib.error, urllib.request
os.setgroups([])
os.setgid(65534)
os.setuid(65534)  # after the imports: the interpreter's files may be the owner's
api, home = sys.argv[1:]
def answer(method, path, body=None, **headers):
    data = None if body is None else json.dumps(body).encode()
    headers["Content-Type"] = "application/json"
    request = urllib.request.Request(f"{api}/{path}", data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, response.headers.get("Access-Control-Allow-Origin")
    except urllib.error.HTTPError as error:
        return error.code, error.headers.get("Access-Control-Allow-Origin")
def can(use, path):
    try:
        return bool(use(path) or True)
    except OSError:
        return False
evil = {"Origin": "https://evil.example"}
print(json.dumps({
    "uid": os.getuid(),
    "flow": answer("POST", "flows/", {"name": "evil"}, **evil),
    "runs": answer("POST", "flow_runs/filter", {}, **evil),
    "read runs": answer("GET", "flow_runs/00000000-0000-0000-0000-000000000000", **evil),
    "csrf token": answer("GET", "csrf-token?client=evil"),
    "wrong password": answer("GET", "admin/version", Authorization="Basic YWRtaW46YWRtaW4="),
    "foreign host": answer("POST", "flow_runs/filter", {}, Host="evil.example"),
    "preflight": answer("OPTIONS", "flows/", **evil, **{"Access-Control-Request-Method": "POST"})[1],
    "health": answer("GET", "health"),
    "enters": [path for path in (home, f"{home}/up") if can(os.listdir, path)],
    "reads": [name for name in ("password", "state.json", "server.log") if can(open, f"{home}/up/{name}")],
}))
"""


def test_up_twice_at_once_starts_everything_once(laptop: Laptop) -> None:
    with ThreadPoolExecutor(2) as threads:
        both = list(threads.map(lambda _: laptop.up(), range(2)))
    assert [done.returncode for done in both] == [0, 0], [done.stderr for done in both]
    pids = [re.findall(r"process (\d+)", done.stdout) for done in both]
    assert pids == [[str(laptop.process(name).pid) for name in NAMES]] * 2
    assert sum("another `retrain up` or `retrain down` is at work" in done.stderr for done in both) == 1
    folder = str(laptop.folder / "home/up")
    started = [each for each in psutil.process_iter(["cwd", "cmdline"]) if each.info["cwd"] == folder]
    assert sum(each.info["cmdline"][2:5] == ["prefect", "worker", "start"] for each in started) == 2
    assert sum(each.info["cmdline"][2:5] == ["flows.cli.sqlite_server", "server", "start"] for each in started) == 1


@pytest.mark.parametrize("port", ["99999", "0", "-1", "4200.5", "http"])
def test_a_number_that_is_no_port_is_refused(port: str, laptop: Laptop) -> None:
    done = laptop.retrain("up", f"--port={port}")
    assert done.returncode == 2
    why = f"cannot use --port: {port!r} is not a port from 1 to 65535. See `retrain up --help`."
    assert done.stderr == f"retrain: {why}\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_only_the_owner_can_use_the_server_or_read_what_it_keeps(laptop: Laptop) -> None:
    assert laptop.up().returncode == 0
    laptop.folder.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, laptop.url, str(laptop.folder / "home")],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "uid": 65534,
        "flow": [403, None],  # no CSRF token, which needs the password
        "runs": [403, None],
        "read runs": [401, None],
        "csrf token": [401, None],
        "wrong password": [401, None],
        "foreign host": [403, None],
        "preflight": None,
        "health": [200, None],
        "enters": [],
        "reads": [],
    }
    # A page in the owner's browser that knows the password and no token changes nothing.
    refused = httpx.post(f"{laptop.url}/flows/", json={"name": "evil"}, auth=laptop.password, timeout=30)
    assert refused.status_code == 403
    assert laptop.api("POST", "flows/filter", {"flows": {"name": {"any_": ["evil"]}}}) == []
    files = [path for path in (laptop.folder / "home/up").iterdir() if path.is_file()]
    assert {path.name for path in files} >= {"password", "state.json", "server.log", "prefect.db"}
    assert [path.name for path in files if path.stat().st_mode & 0o077] == []
    password = laptop.password[1]
    assert len(password) >= 32
    assert laptop.retrain("down").returncode == 0
    assert laptop.up().returncode == 0
    assert laptop.password[1] == password  # what the interface remembers stays right


@pytest.mark.nightly
def test_a_server_of_an_earlier_version_gets_a_password(laptop: Laptop) -> None:
    assert laptop.up().returncode == 0
    state = laptop.folder / "home/up/state.json"
    earlier = json.loads(state.read_text())
    del earlier["has_password"]
    state.write_text(json.dumps(earlier))
    server = laptop.process("server")
    again = laptop.up()
    assert again.returncode == 0, again.stderr
    assert "started the server again: it had no password" in again.stdout
    assert not server.is_running()
    assert httpx.get(f"{laptop.url}/admin/version", timeout=30).status_code == 401


def test_what_was_killed_is_started_again_with_all_it_knew(laptop: Laptop) -> None:
    assert laptop.up().returncode == 0
    run = laptop.start("retrain/ci", data={"dataset": "digits"})
    assert laptop.ended(run)["state"]["name"] == "Published"
    for name in NAMES:
        laptop.kill(name)
    status = laptop.retrain("status")
    assert status.returncode == 1
    assert status.stdout.count("does not run") == 3
    again = laptop.retrain("up")  # with the port and the store it had
    assert again.returncode == 0, again.stderr
    assert f"the server that was started on port {laptop.port} is gone; starting it again" in again.stderr
    assert laptop.run(run)["state"]["name"] == "Published"


def test_a_number_that_another_process_has_got_is_left_alone(laptop: Laptop) -> None:
    other = psutil.Popen(["sleep", "100"])
    state = laptop.folder / "home/up/state.json"
    state.parent.mkdir(parents=True)
    earlier_version = {"pid": other.pid, "born": other.create_time() - 3600}
    before_the_reboot = {"pid": other.pid, "born": other.create_time(), "start": f"another-boot {start_of(other.pid)}"}
    for stale in (earlier_version, before_the_reboot):
        state.write_text(json.dumps({"port": laptop.port, "store": "file:///x", "processes": {"server": stale}}))
        assert "server       does not run" in laptop.retrain("status").stdout
        assert laptop.retrain("down").returncode == 0
        assert other.is_running()
        assert json.loads(state.read_text())["processes"] == {}
    other.kill()
    other.wait()


def test_a_process_is_known_whatever_happens_to_the_clock() -> None:
    process = psutil.Popen(["sleep", "100"])
    born, start = process.create_time(), start_of(process.pid)
    assert Process(pid=process.pid, born=born + 3600, start=start).running_process() == process
    assert Process(pid=process.pid, born=born).running_process() == process  # as earlier versions wrote it
    boot, tick = start.split()
    assert Process(pid=process.pid, born=born, start=f"{boot} {int(tick) - 1}").running_process() is None
    process.kill()
    process.wait()
    assert Process(pid=process.pid, born=born, start=start).running_process() is None


@pytest.mark.nightly
def test_a_folder_that_is_moved_keeps_its_processes_until_the_next_up(laptop: Laptop) -> None:
    assert laptop.up().returncode == 0
    processes = [laptop.process(name) for name in NAMES]
    shutil.move(laptop.folder / "home", laptop.folder / "moved")
    laptop.environment["RETRAIN_HOME"] = str(laptop.folder / "moved")
    assert laptop.retrain("status").returncode == 0
    again = laptop.retrain("up")
    assert again.returncode == 0, again.stderr
    assert "started the server again: PREFECT_API_DATABASE_CONNECTION_URL, PREFECT_HOME" in again.stdout
    assert not any(process.is_running() for process in processes)


@pytest.mark.nightly
def test_a_server_that_died_is_started_again_under_a_training_and_changed_settings_wait_for_its_end(
    laptop: Laptop,
) -> None:
    assert laptop.up().returncode == 0
    run = laptop.start("retrain/on-demand", data={"dataset": "digits"}, recipe={"epochs": 400})
    eventually(laptop.checkpoints, 120)
    before = [laptop.process(name).pid for name in NAMES]
    job, training = laptop.run_process("jobs"), laptop.run_process("training")
    laptop.kill("server")
    back = laptop.retrain("up")
    assert back.returncode == 0, back.stderr
    assert back.stdout.splitlines()[7:] == ["started the server"]
    after = [laptop.process(name).pid for name in NAMES]
    assert after[0] != before[0]
    assert after[1:] == before[1:]

    changed = laptop.retrain("up", AWS_SECRET_ACCESS_KEY="new")
    assert changed.returncode == 0, changed.stderr
    assert changed.stdout.splitlines()[7:] == [
        f"kept the {name}, so that its run goes on, with its former settings: AWS_SECRET_ACCESS_KEY has changed. "
        "Repeat `retrain up` when the run has ended"
        for name in NAMES[1:]
    ]
    assert [laptop.process(name).pid for name in NAMES] == after
    assert job.is_running()
    assert training.is_running()
    ended = laptop.ended(run)
    assert ended["state"]["name"] == "Published", ended["state"]
    eventually(
        lambda: not laptop.process("worker jobs").children() and not laptop.process("worker training").children()
    )

    applied = laptop.retrain("up", AWS_SECRET_ACCESS_KEY="new")
    assert [line for line in applied.stdout.splitlines()[7:] if not line.startswith("notice ")] == [
        f"started the {name} again: AWS_SECRET_ACCESS_KEY has changed" for name in NAMES[1:]
    ]
    assert laptop.process("worker jobs").environ()["AWS_SECRET_ACCESS_KEY"] == "new"
    assert "new" not in (laptop.folder / "home/up/state.json").read_text()


class Pretended:
    """A run that no worker takes, since it is due in 2040: the test reports for it what a real one reports."""

    def __init__(self, laptop: Laptop, client: httpx.Client, deployment: str = "") -> None:
        self.client, self.answers = client, Counter[int]()
        if deployment:
            id = laptop.api("GET", f"deployments/name/{deployment}")["id"]
            due = {"type": "SCHEDULED", "state_details": {"scheduled_time": "2040-01-01T00:00:00Z"}}
            run = self.post(
                f"deployments/{id}/create_flow_run", {"state": due, "name": "digits, 5 epochs, seed 0: published v1"}
            )
        else:
            flow = self.post("flows/", {"name": "retrain"})["id"]
            run = self.post("flow_runs/", {"flow_id": flow, "state": {"type": "PENDING"}})
        self.id, self.flow = run["id"], run["flow_id"]

    def post(self, path: str, body: object) -> Any:
        response = self.client.post(path, json=body)
        self.answers[response.status_code] += 1
        assert response.is_success, response.text
        return response.json() if response.content else None

    def enters(self, type: str, name: str | None = None, message: str | None = None, force: bool = True) -> None:
        self.post(
            f"flow_runs/{self.id}/set_state",
            {"force": force, "state": {"type": type, "name": name or type.title(), "message": message}},
        )

    def works(self, beats: int) -> None:
        """Start, and send heartbeats and log lines."""
        self.enters("PENDING")
        self.enters("RUNNING")
        for _ in range(beats):
            now = datetime.now(UTC).isoformat()
            related = {"prefect.resource.id": f"prefect.flow.{self.flow}", "prefect.resource.role": "flow"}
            heartbeat = {
                "event": HEARTBEAT,
                "id": str(uuid.uuid4()),
                "occurred": now,
                "resource": {"prefect.resource.id": f"prefect.flow-run.{self.id}"},
                "related": [related | {"prefect.resource.name": "retrain"}],
            }
            self.post("events", [heartbeat])
            line = {"name": "x", "level": 20, "message": "x", "timestamp": now, "flow_run_id": self.id}
            self.post("logs/", [line] * 3)
            time.sleep(0.3)


ENDS = [
    ("COMPLETED", "Published", "mnist version 7, accuracy 0.9803. Report: s3://models/prod/runs/x/report.html"),
    ("FAILED", "Rejected", "Rejected by the gate: accuracy. Report: s3://models/prod/runs/y/report.html"),
    ("FAILED", "Failed", "no mirror can be reached"),
    ("CRASHED", "Crashed", "no sign of life for 180 s"),
]


def test_the_team_is_told_once_how_each_run_ended_and_what_did_not_start(
    laptop: Laptop, inbox: tuple[str, list[dict[str, str]]]
) -> None:
    address, posted = inbox
    bystander = laptop.folder / "production.db"
    bystander.write_bytes(b"")
    laptop.environment |= {
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{bystander}",
        "PREFECT_SERVER_DATABASE_DRIVER": "postgresql+asyncpg",
        "PREFECT_API_DATABASE_HOST": "database.example.org",
    }
    assert laptop.up().returncode == 0
    refused = laptop.retrain("up", "--notify", "non-sense/ops")
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1] == (
        "retrain: cannot notify through 'non-sense/ops' (--notify): the server has no such block. Create it in the "
        "interface under Blocks, and name it as type/name, such as slack-webhook/ops."
    )
    make_block(laptop, address)
    told = laptop.retrain("up", "--notify", "custom-webhook/team")
    assert told.returncode == 0, told.stderr
    assert laptop.retrain("down").returncode == 0
    again = laptop.retrain("up")  # with port, store and notifications as before
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[3:5] == [f"store        {laptop.store.url}", f"interface    {laptop.url[:-4]}"]
    assert laptop.api("GET", "deployments/name/retrain/scheduled")["parameters"]["store"] == laptop.store.url
    assert bystander.read_bytes() == b""

    settings: dict[str, Any] = {"base_url": f"{laptop.url}/", "auth": laptop.password, "timeout": 100}
    with httpx.Client(**settings, headers=laptop.headers()) as client:
        ours = [Pretended(laptop, client, f"retrain/{name}") for name in ["scheduled", "on-demand"] * 8]
        others = [Pretended(laptop, client, name) for name in ["retrain/ci", "", "retrain/on-demand"]]

        def live(run: Pretended) -> None:
            run.works(beats=6)
            run.enters(
                *("COMPLETED", "Unchanged") if run is others[-1] else ENDS[ours.index(run) % 4 if run in ours else 1]
            )

        with ThreadPoolExecutor(20) as threads:
            list(threads.map(live, [*ours, *others]))
        eventually(lambda: len(posted) >= len(ours), 60)
        time.sleep(10)  # for any more
    assert {code for run in [*ours, *others] for code in run.answers} <= {200, 201, 204}
    pages = Counter(each["text"].split()[-1] for each in posted)
    assert pages == Counter(f"http://127.0.0.1:{laptop.port}/runs/flow-run/{run.id}" for run in ours)
    (first,) = [each for each in posted if ours[0].id in each["text"]]
    assert first["title"] == "retrain Published: digits, 5 epochs, seed 0"
    assert first["text"].splitlines()[0] == ENDS[0][2]
    assert first["text"].splitlines()[1].startswith("retrain/scheduled: http://")
    log = (laptop.folder / "home/up/server.log").read_text()
    assert "database is locked" not in log
    assert "Failed in consume_loop" not in log

    posted.clear()
    with httpx.Client(**settings, headers=laptop.headers()) as client:
        skipped = Pretended(laptop, client, "retrain/scheduled")
        skipped.enters("PENDING")
        skipped.enters("CANCELLED", None, f"{SKIPPED}: digits, 5 epochs, seed 0")
        eventually(lambda: posted)
        assert [each["title"] for each in posted] == ["retrain skipped: retrain/scheduled"]
        assert skipped.id in posted[0]["text"]

    # Nobody is left to start a run that is due; the ten minutes are made short.
    posted.clear()
    laptop.kill("worker jobs")
    (automation,) = [
        each for each in laptop.api("POST", "automations/filter", {}) if each["name"].endswith("does not start")
    ]
    automation["trigger"]["within"] = 10  # the least that the server permits
    del automation["trigger"]["id"]
    body = {name: automation[name] for name in ("name", "description", "enabled", "trigger", "actions")}
    with httpx.Client(**settings, headers=laptop.headers()) as client:
        changed = client.put(f"automations/{automation['id']}", json=body)
        assert changed.is_success, changed.text
    late = laptop.start("retrain/scheduled")
    eventually(lambda: posted, 90)
    assert [each["title"] for each in posted] == ["retrain not started: retrain/scheduled"]
    assert "is Late: no worker of the work pool retrain-jobs has started it" in posted[0]["text"]
    assert late in posted[0]["text"]

    silent = laptop.retrain("up", "--notify", "")
    assert silent.returncode == 0, silent.stderr
    names = [each["name"] for each in laptop.api("POST", "automations/filter", {})]
    assert names == ["retrain: a run whose machine is gone"]


def test_the_secret_of_a_block_is_found_nowhere_also_where_its_notice_is_refused(
    laptop: Laptop, inbox: tuple[str, list[dict[str, str]]]
) -> None:
    address, posted = inbox
    assert laptop.up().returncode == 0
    secret = "xq7Secret"
    headers = {"Authorization": "{{token}}"}
    make_block(laptop, f"{address}/refused/{{{{token}}}}", headers=headers, secrets={"token": secret})
    told = laptop.retrain("up", "--notify", "custom-webhook/team")
    assert told.returncode == 0, told.stderr
    settings: dict[str, Any] = {"base_url": f"{laptop.url}/", "auth": laptop.password, "timeout": 100}
    with httpx.Client(**settings, headers=laptop.headers()) as client:
        run = Pretended(laptop, client, "retrain/scheduled")
        run.works(beats=1)
        run.enters("FAILED", "Rejected")
    log = laptop.folder / "home/up/server.log"
    eventually(lambda: "a notice was not delivered: HTTPStatusError 404" in log.read_text(), 90)
    assert posted
    assert laptop.retrain("down").returncode == 0
    files = {str(path): path.read_bytes() for path in laptop.folder.rglob("*") if path.is_file()}
    assert not [name for name, content in files.items() if secret.encode() in content]
    assert secret not in told.stdout + told.stderr


@pytest.mark.nightly
def test_what_ends_after_a_restart_of_the_server_is_told_too(
    laptop: Laptop, inbox: tuple[str, list[dict[str, str]]]
) -> None:
    address, posted = inbox
    assert laptop.up().returncode == 0
    make_block(laptop, address)
    assert laptop.retrain("up", "--notify", "custom-webhook/team").returncode == 0
    id = laptop.api("GET", "deployments/name/retrain/on-demand")["id"]
    run = laptop.api("POST", f"deployments/{id}/create_flow_run", {"state": {"type": "PENDING"}})["id"]
    laptop.api("POST", f"flow_runs/{run}/set_state", {"state": {"type": "RUNNING"}})
    laptop.take_server_away()
    laptop.bring_server_back()
    laptop.api("POST", f"flow_runs/{run}/set_state", {"state": {"type": "FAILED", "name": "Rejected"}})
    eventually(lambda: posted, 120)
    assert [notice["text"].split()[-1].rpartition("/")[2] for notice in posted] == [run]


def test_a_port_that_is_taken_is_one_line(laptop: Laptop) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", laptop.port))
        taken.listen()
        done = laptop.up()
    assert done.returncode == 2
    assert done.stderr == (
        f"retrain: cannot start a server on port {laptop.port}: Address already in use. Give another --port.\n"
    )


def test_a_server_of_somebody_else_is_one_line(laptop: Laptop) -> None:
    class Healthy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    other = ThreadingHTTPServer(("127.0.0.1", laptop.port), Healthy)
    threading.Thread(target=other.serve_forever).start()
    done, deployed = laptop.up(), laptop.retrain("deploy")
    other.shutdown()
    other.server_close()
    assert "a Prefect server that was not started here answers there" in done.stderr
    assert f"set PREFECT_API_URL=http://127.0.0.1:{laptop.port}/api and use `retrain deploy`" in done.stderr
    assert deployed.stderr == (
        "retrain: cannot deploy: no Prefect server is set up. Set PREFECT_API_URL, or start one: retrain up\n"
    )
    elsewhere = laptop.retrain("up", PREFECT_API_URL="http://prefect.example.org/api")
    assert elsewhere.returncode == 2
    assert "a Prefect server is set up already: PREFECT_API_URL is http://prefect.example.org/api" in elsewhere.stderr


def test_a_server_that_cannot_start_says_why(laptop: Laptop) -> None:
    folder = laptop.folder / "home/up"
    folder.mkdir(parents=True)
    (folder / "prefect.db").write_text("this is no database, and long enough to be told from one")
    done = laptop.up()
    assert done.returncode == 1
    assert "retrain: the server did not start: " in done.stderr
    assert f"Its whole log is {folder / 'server.log'}" in done.stderr
