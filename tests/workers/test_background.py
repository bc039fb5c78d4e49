"""`retrain up`, `status` and `down` as commands: repeated, after killed processes, and beside other servers."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from tests.workers.laptop import Laptop, eventually, gone

NAMES = ["server", "worker cpu", "worker gpu"]

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
    eventually(lambda: laptop.process("worker cpu").children())
    work = laptop.run_process("cpu")
    ended = laptop.retrain("down")
    assert ended.stdout.startswith("ended server, worker cpu, worker gpu. Runs, schedules and logs are kept in ")
    for process in (work, *processes):
        gone(process, 1)
    status = laptop.retrain("status")
    assert (status.returncode, status.stdout) == (1, "")
    assert "`retrain up` starts it" in status.stderr
    assert laptop.retrain("down").stderr == "nothing was started here\n"


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
