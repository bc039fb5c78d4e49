"""`retrain up` for the tests, and what a person does in the interface: start a run, watch it, cancel it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil

from tasks.storage import ObjectStore, open_store

FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


class Laptop:
    """One machine, with its own RETRAIN_HOME and store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")},
            "RETRAIN_HOME": str(folder / "home"),
        }
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.store: ObjectStore = open_store(str(folder / "store"))

    def retrain(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run a command in this machine's folder."""
        return subprocess.run(
            [sys.executable, "-m", "flows.cli.main", *arguments],
            cwd=self.folder,
            env={**self.environment, "PYTHONPATH": str(Path(__file__).parents[2]), **settings},
            capture_output=True,
            text=True,
            check=False,
            timeout=170,
        )

    def up(self) -> subprocess.CompletedProcess[str]:
        """`retrain up`."""
        return self.retrain("up", "--port", str(self.port), "--store", str(self.folder / "store"))

    @property
    def url(self) -> str:
        """The address of the server's API."""
        return f"http://127.0.0.1:{self.port}/api"

    @property
    def password(self) -> tuple[str, str]:
        """User and password of the server."""
        user, _, password = (self.folder / "home/up/password").read_text().strip().partition(":")
        return user, password

    @property
    def settings(self) -> dict[str, str]:
        """What another machine needs to use the server."""
        return {"PREFECT_API_URL": self.url, "PREFECT_API_AUTH_STRING": ":".join(self.password)}

    def headers(self) -> dict[str, str]:
        """What a request that changes something needs beside the password: a CSRF token."""
        client = str(uuid.uuid4())
        answer = httpx.get(f"{self.url}/csrf-token", params={"client": client}, auth=self.password, timeout=30)
        return {"Prefect-Csrf-Token": answer.json()["token"], "Prefect-Csrf-Client": client}

    def api(self, method: str, path: str, body: object = None) -> Any:
        """One request to the server; repeated while the answer is 503, which means that its database is busy."""
        for attempt in range(10):
            try:
                headers = {} if method == "GET" else self.headers()
                response = httpx.request(
                    method, f"{self.url}/{path}", json=body, auth=self.password, headers=headers, timeout=30
                )
            except httpx.TransportError:  # what changes something is not repeated: it may have been done
                if attempt == 9 or not (method == "GET" or path.endswith("filter")):
                    raise
                continue
            if response.status_code != 503:
                break
            time.sleep(1)
        assert response.is_success, response.text
        return response.json() if response.content else None

    def process(self, name: str) -> psutil.Process:
        """The process that `retrain up` has started under this name."""
        state = json.loads((self.folder / "home/up/state.json").read_text())
        return psutil.Process(state["processes"][name]["pid"])

    def kill(self, name: str) -> None:
        """SIGKILL."""
        process = self.process(name)
        process.kill()
        gone(process)

    def take_server_away(self) -> None:
        """SIGKILL to the server, which then stays away."""
        server = self.process("server")
        self._server = server.cmdline(), server.cwd(), server.environ()
        self.kill("server")

    def bring_server_back(self) -> None:
        """Start the killed server again, as a supervisor would: nothing else is touched."""
        command, folder, environment = self._server
        with (self.folder / "home/up/server.log").open("ab") as log:
            process = subprocess.Popen(
                command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        threading.Thread(target=process.wait, daemon=True).start()  # who ends it waits for it to be gone
        path = self.folder / "home/up/state.json"
        state = json.loads(path.read_text())
        born = psutil.Process(process.pid).create_time()
        state["processes"]["server"] |= {"pid": process.pid, "born": born, "start": ""}
        path.write_text(json.dumps(state))
        eventually(self.answers, 120)

    def answers(self) -> bool:
        """Whether the server does."""
        try:
            return httpx.get(f"{self.url}/health", timeout=5).is_success
        except httpx.TransportError:
            return False

    def run_process(self, worker: str) -> psutil.Process:
        """The process of the only run of the worker."""
        (process,) = self.process(f"worker {worker}").children()
        return process

    def start(self, deployment: str, **parameters: object) -> str:
        """Start a run and return its id."""
        id = self.api("GET", f"deployments/name/{deployment}")["id"]
        return str(self.api("POST", f"deployments/{id}/create_flow_run", {"parameters": parameters})["id"])

    def run(self, run: str) -> dict[str, Any]:
        """A run as the server knows it."""
        return dict(self.api("GET", f"flow_runs/{run}"))

    def ended(self, run: str, timeout: float = 300) -> dict[str, Any]:
        """Wait until the run has ended, and return it."""
        eventually(lambda: self.run(run)["state"]["type"] in FINAL, timeout)
        return self.run(run)

    def runs(self, deployment: str) -> list[dict[str, Any]]:
        """All runs of a deployment, by start time."""
        id = self.api("GET", f"deployments/name/{deployment}")["id"]
        query = {"deployments": {"id": {"any_": [id]}}, "sort": "START_TIME_ASC"}
        return list(self.api("POST", "flow_runs/filter", query))

    def log(self, run: str) -> str:
        """The log of a run; the server gives 200 lines at once."""
        query: dict[str, Any] = {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC", "limit": 200}
        lines: list[str] = []
        while page := self.api("POST", "logs/filter", query | {"offset": len(lines)}):
            lines += [line["message"] for line in page]
        return "\n".join(lines)

    def checkpoints(self) -> list[str]:
        """The keys of all checkpoints."""
        return [entry.key for entry in self.store.list("checkpoints/train/")]


def make_block(laptop: Laptop, address: str, **more: object) -> None:
    """What a person does in the interface under Blocks."""
    kind = laptop.api("GET", "block_types/slug/custom-webhook")["id"]
    (schema, *_) = laptop.api("POST", "block_schemas/filter", {"block_schemas": {"block_type_id": {"any_": [kind]}}})
    data = {"name": "team", "url": address, "json_data": {"title": "{{subject}}", "text": "{{body}}"}, **more}
    block = {"name": "team", "block_type_id": kind, "block_schema_id": schema["id"], "data": data}
    laptop.api("POST", "block_documents/", block)


def eventually(condition: Callable[[], object], timeout: float = 60) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def gone(process: psutil.Process, timeout: float = 60) -> None:
    """Wait until a process has ended; a zombie counts as ended."""
    eventually(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, timeout)


def kill_all(*processes: psutil.Process) -> None:
    """SIGKILL to all at the same moment, like a power failure: none can react to the end of another."""
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    for process in processes:
        process.kill()
