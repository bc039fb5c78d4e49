from __future__ import annotations

import base64
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from flows.cli.server import Server, choose_server, configured_api_url
from tasks.errors import ServerError


@pytest.fixture
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of Prefect's profiles file, which does not exist yet."""
    for name in ("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    return tmp_path / "profiles.toml"


def test_without_a_setting_no_server_is_configured(profiles: Path) -> None:
    assert configured_api_url() is None
    profiles.write_text('active = "ephemeral"\n[profiles.ephemeral]\nPREFECT_SERVER_ALLOW_EPHEMERAL_MODE = "true"\n')
    assert configured_api_url() is None


def test_the_active_profile_names_the_server(profiles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profiles.write_text(
        'active = "one"\n[profiles.one]\nPREFECT_API_URL = "http://one/api"\n'
        '[profiles.two]\nPREFECT_API_URL = "http://two/api"\n'
    )
    assert configured_api_url() == "http://one/api"
    monkeypatch.setenv("PREFECT_PROFILE", "two")
    assert configured_api_url() == "http://two/api"


def test_the_environment_goes_before_the_profile(profiles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profiles.write_text('active = "one"\n[profiles.one]\nPREFECT_API_URL = "http://one/api"\n')
    monkeypatch.setenv("PREFECT_API_URL", "http://mine/api")
    assert configured_api_url() == "http://mine/api"


@contextmanager
def refusing(password: str) -> Iterator[str]:
    """A Prefect server behind a password, as far as `retrain` asks it before a run."""
    expected = f"Basic {base64.b64encode(password.encode()).decode()}"

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            allowed = self.path == "/api/health" or self.headers.get("Authorization") == expected
            self.send_response(200 if allowed else 401)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/api"
        finally:
            server.shutdown()
            thread.join()


def test_a_password_that_is_missing_or_wrong_is_one_line(profiles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_AUTH_STRING", raising=False)
    with refusing("admin:right") as url:
        monkeypatch.setenv("PREFECT_API_URL", url)
        with pytest.raises(ServerError, match="it asks for a password"):
            choose_server()
        profiles.write_text('active = "one"\n[profiles.one]\nPREFECT_API_AUTH_STRING = "admin:wrong"\n')
        with pytest.raises(ServerError, match="it refuses the password"):
            choose_server()
        monkeypatch.setenv("PREFECT_API_AUTH_STRING", "admin:right")
        server = choose_server()
        assert (server.url, server.password, server.temporary) == (url, "admin:right", False)
        # Configured by its address alone, the server of `retrain up` is used with its own password.
        monkeypatch.delenv("PREFECT_API_AUTH_STRING")
        assert choose_server(Server(url, "admin:right")).password == "admin:right"


def test_a_temporary_server_lets_nobody_else_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profiles: Path
) -> None:
    monkeypatch.setenv("RETRAIN_HOME", str(tmp_path / "home"))
    server = choose_server()
    try:
        server.wait()
        answers = [httpx.get(f"{server.url}/admin/version", headers=headers) for headers in ({}, server.headers)]
        assert [answer.status_code for answer in answers] == [401, 200]
        assert httpx.post(f"{server.url}/flow_runs/filter", headers=server.headers).status_code == 403  # no CSRF token
        assert (tmp_path / "home").stat().st_mode & 0o077 == 0
    finally:
        server.stop()


def test_a_temporary_server_that_dies_says_its_last_words(tmp_path: Path) -> None:
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-c", "raise SystemExit('no room left')"], stderr=log)
    with pytest.raises(ServerError, match="cannot start a temporary Prefect server: no room left"):
        Server("http://127.0.0.1:9/api", None, process, tmp_path).wait()
