"""`retrain up`, `status` and `down` as commands: repeated, after killed processes, and beside other servers."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import psutil
import pytest

from tests.workers.laptop import Laptop, eventually, gone

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
    ]
    assert all(each.laddr.ip == "127.0.0.1" for each in processes[0].net_connections() if each.status == "LISTEN")
    deployments = laptop.api("POST", "deployments/filter", {})
    assert laptop.up().returncode == 0
    assert [laptop.process(name).pid for name in NAMES] == [process.pid for process in processes]
    assert len(laptop.api("POST", "deployments/filter", {})) == len(deployments) == 5
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
    assert sum(each.info["cmdline"][2:5] == ["prefect", "server", "start"] for each in started) == 1


@pytest.mark.parametrize("port", ["99999", "0", "-1", "4200.5", "http"])
def test_a_number_that_is_no_port_is_refused(port: str, laptop: Laptop) -> None:
    done = laptop.retrain("up", f"--port={port}")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"retrain up: error: argument --port: {port!r} is not a port from 1 to 65535"


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


def test_a_server_of_an_earlier_version_gets_a_password(laptop: Laptop) -> None:
    assert laptop.up().returncode == 0
    state = laptop.folder / "home/up/state.json"
    earlier = json.loads(state.read_text())
    del earlier["has_password"]
    state.write_text(json.dumps(earlier))
    server = laptop.process("server")
    again = laptop.up()
    assert again.returncode == 0, again.stderr
    assert "has no password; starting it again with one" in again.stderr
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
    again = laptop.retrain("up", "--store", str(laptop.folder / "store"))  # the port it had
    assert again.returncode == 0, again.stderr
    assert f"the server that was started on port {laptop.port} is gone; starting it again" in again.stderr
    assert laptop.run(run)["state"]["name"] == "Published"


def test_a_number_that_another_process_has_got_is_left_alone(laptop: Laptop) -> None:
    other = psutil.Popen(["sleep", "100"])
    state = laptop.folder / "home/up/state.json"
    state.parent.mkdir(parents=True)
    stale = {"pid": other.pid, "born": other.create_time() - 3600}
    state.write_text(json.dumps({"port": laptop.port, "store": "file:///x", "processes": {"server": stale}}))
    assert "server       does not run" in laptop.retrain("status").stdout
    assert laptop.retrain("down").returncode == 0
    assert other.is_running()
    assert not state.exists()
    other.kill()
    other.wait()


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
