"""Which Prefect server is used, and what a server that we start has and leaves alone. With a real one, over TLS too."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from prefect import context

from flows.cli.server import Server, choose_server, configured_api_url, existing_server, use_server
from tasks.errors import ServerError, UsageError
from tests.tls import certificate, terminating

URL = "http://prefect.example.org/api"
ROOT = Path(__file__).parents[3]


@contextmanager
def configured(folder: Path, settings: Mapping[str, str]) -> Iterator[pytest.MonkeyPatch]:
    """A user with these variables and no others of Prefect's, in this folder, which is also Prefect's home."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("PREFECT_")]:
            patch.delenv(name)
        for name, value in {"PREFECT_HOME": str(folder), **settings}.items():
            patch.setenv(name, value)
        patch.chdir(folder)
        context.refresh_global_settings_context()  # as in a new process
        outside = context.SettingsContext.__var__.set(None)  # type: ignore[arg-type]  # not the other tests' server
        try:
            yield patch
        finally:
            context.SettingsContext.__var__.reset(outside)
    context.refresh_global_settings_context()


@pytest.fixture
def user(tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    with configured(tmp_path, {}) as patch:
        yield patch


@pytest.fixture(scope="module")
def bystander(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that is somebody else's database."""
    file = tmp_path_factory.mktemp("somebody") / "production.db"
    file.write_bytes(b"")  # SQLite takes an empty file for a new database
    return file


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, bystander: Path) -> Iterator[Server]:
    """A temporary server of somebody whose every setting names a database."""
    folder = tmp_path_factory.mktemp("user")
    url = f"sqlite+aiosqlite:///{bystander}"
    (folder / ".env").write_text(f"PREFECT_SERVER_DATABASE_CONNECTION_URL={url}\n")
    (folder / "prefect.toml").write_text(f'[server.database]\nconnection_url = "{url}"\n')
    (folder / "profiles.toml").write_text(
        f'active = "own"\n[profiles.own]\nPREFECT_API_DATABASE_CONNECTION_URL = "{url}"\n'
    )
    settings = {
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": url,
        "PREFECT_SERVER_DATABASE_DRIVER": "postgresql+asyncpg",
        "PREFECT_API_DATABASE_HOST": "database.example.org",
        "PREFECT_SERVER_API_AUTH_STRING": "admin:of another server",
        "PREFECT_SERVER_API_BASE_PATH": "/elsewhere",
        "RETRAIN_HOME": str(folder / "home"),
    }
    with configured(folder, settings):
        server = choose_server()
        server.wait()
    assert (folder / "home").stat().st_mode & 0o077 == 0
    yield server
    server.stop()


def test_without_a_setting_no_server_is_configured_and_prefect_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "profiles.toml").write_text(
        'active = "ephemeral"\n[profiles.ephemeral]\nPREFECT_SERVER_ALLOW_EPHEMERAL_MODE = "true"\n'
    )
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\n')
    program = "from flows.cli.server import *; print(configured_api_url()); import sys; print('prefect' in sys.modules)"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**environment, "PREFECT_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["None", "False"]


PROFILES = (
    f'active = "one"\n[profiles.one]\nPREFECT_API_URL = "{URL}"\n[profiles.two]\nPREFECT_API_URL = "http://two/api"'
)


@pytest.mark.parametrize(
    ("files", "settings", "url"),
    [
        ({"profiles.toml": PROFILES}, {}, URL),
        ({"profiles.toml": PROFILES}, {"PREFECT_PROFILE": "two"}, "http://two/api"),
        ({"profiles.toml": 'active = "local"\n\n[profiles]\n'}, {}, "http://127.0.0.1:4200/api"),  # prefect profile use
        ({"prefect.toml": f'[api]\nurl = "{URL}"\n'}, {}, URL),
        ({"pyproject.toml": f'[tool.prefect.api]\nurl = "{URL}"\n'}, {}, URL),
        ({".env": f"PREFECT_API_URL={URL}\n"}, {}, URL),
        ({"mine.toml": PROFILES, ".env": "PREFECT_PROFILES_PATH=mine.toml\n"}, {}, URL),
        ({"profiles.toml": PROFILES, ".env": "PREFECT_API_URL=http://env/api"}, {"PREFECT_API_URL": f"{URL}/"}, URL),
    ],
)
def test_each_place_that_prefect_reads_names_the_server(
    tmp_path: Path, files: dict[str, str], settings: dict[str, str], url: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with configured(tmp_path, settings):
        assert configured_api_url() == url


def test_settings_that_prefect_cannot_read_are_one_line(user: pytest.MonkeyPatch) -> None:
    Path("prefect.toml").write_text("[api\n")
    with pytest.raises(
        UsageError, match=r"cannot read Prefect's settings: Failed to load .* prefect\.toml: invalid TOML"
    ):
        configured_api_url()


@pytest.mark.parametrize("ending", ["/api", "/api/", "", "/"])
def test_an_address_is_used_as_people_write_it(server: Server, user: pytest.MonkeyPatch, ending: str) -> None:
    user.setenv("PREFECT_API_URL", server.url.removesuffix("/api") + ending)
    user.setenv("PREFECT_API_AUTH_STRING", server.password or "")
    found = choose_server()
    assert (found.url, found.temporary) == (server.url, False)
    use_server(found)
    assert str(context.get_settings_context().settings.api.url) == server.url


def test_a_password_that_is_missing_or_wrong_is_one_line(server: Server, user: pytest.MonkeyPatch) -> None:
    user.setenv("PREFECT_API_URL", server.url)
    with pytest.raises(ServerError, match="it asks for a password"):
        choose_server()
    Path("profiles.toml").write_text('active = "one"\n[profiles.one]\nPREFECT_API_AUTH_STRING = "admin:wrong"\n')
    with pytest.raises(ServerError, match="it refuses the password"):
        choose_server()
    user.setenv("PREFECT_API_AUTH_STRING", server.password or "")
    assert choose_server().url == server.url
    # Configured by its address alone, the server of `retrain up` is used with its own password.
    user.delenv("PREFECT_API_AUTH_STRING")
    for url in (server.url, f"{server.url}/", server.url.removesuffix("/api")):
        user.setenv("PREFECT_API_URL", url)
        assert choose_server(Server(server.url, server.password)).password == server.password


def test_a_private_certificate_authority(server: Server, user: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pem = certificate(tmp_path)
    user.setenv("PREFECT_API_AUTH_STRING", server.password or "")
    with terminating(pem, httpx.URL(server.url).port or 0) as url:
        user.setenv("PREFECT_API_URL", url)
        with pytest.raises(ServerError, match=r"its certificate is not trusted: .*Set PREFECT_API_SSL_CERT_FILE to "):
            choose_server()
        user.setenv("PREFECT_API_SSL_CERT_FILE", str(tmp_path / "missing.pem"))
        with pytest.raises(ServerError, match="cannot read the certificates of PREFECT_API_SSL_CERT_FILE"):
            choose_server()
        user.setenv("PREFECT_API_SSL_CERT_FILE", str(pem))
        assert choose_server().url == f"{url}/api"
        user.delenv("PREFECT_API_SSL_CERT_FILE")
        Path(".env").write_text("PREFECT_API_TLS_INSECURE_SKIP_VERIFY=true\n")
        assert choose_server().url == f"{url}/api"


@contextmanager
def answering(headers: Mapping[str, str], body: bytes) -> Iterator[str]:
    """Something that answers this to whoever sends these headers, and 403 to others."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            allowed = all(self.headers.get(name) == value for name, value in headers.items())
            self.send_response(200 if allowed else 403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_headers_and_keys_of_the_settings_are_sent(user: pytest.MonkeyPatch) -> None:
    with answering({"X-Login": "me", "Authorization": "Bearer key"}, b'"3.8.8"') as url:
        user.setenv("PREFECT_API_URL", f"{url}/api")
        user.setenv("PREFECT_API_KEY", "wrong")
        with pytest.raises(ServerError, match="it refuses the key"):
            existing_server(None)
        user.setenv("PREFECT_API_KEY", "key")
        user.setenv("PREFECT_CLIENT_CUSTOM_HEADERS", json.dumps({"X-Login": "me"}))
        assert existing_server(None)


def test_what_is_no_prefect_server_is_one_line(user: pytest.MonkeyPatch) -> None:
    with answering({}, b"<html>Log in</html>") as url:
        user.setenv("PREFECT_API_URL", url)
        with pytest.raises(
            ServerError, match=f"cannot use the Prefect server {url}/api: what answers there is no Prefect"
        ):
            existing_server(None)
    with pytest.raises(ServerError, match=r"it does not answer \(.*Connection refused\)\. Start it, or correct"):
        existing_server(None)


def test_a_temporary_server_lets_nobody_else_in(server: Server) -> None:
    answers = [httpx.get(f"{server.url}/admin/version", headers=headers) for headers in ({}, server.headers)]
    assert [answer.status_code for answer in answers] == [401, 200]
    assert httpx.post(f"{server.url}/flow_runs/filter", headers=server.headers).status_code == 403  # no CSRF token


def test_a_temporary_server_leaves_the_databases_of_others_alone(server: Server, bystander: Path) -> None:
    assert httpx.get(f"{server.url}/health").status_code == 200
    assert bystander.read_bytes() == b""
    assert [path.name for path in bystander.parent.iterdir()] == [bystander.name]


def test_a_temporary_server_that_dies_says_its_last_words(tmp_path: Path) -> None:
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-c", "raise SystemExit('no room left')"], stderr=log)
    with pytest.raises(ServerError, match="cannot start a temporary Prefect server: no room left"):
        Server("http://127.0.0.1:9/api", None, process, tmp_path).wait()


def test_prefect_says_nothing_of_telemetry_in_a_terminal(tmp_path: Path) -> None:
    program = (
        "from flows.cli.server import *; use_server(Server('http://127.0.0.1:9/api')); import prefect; print('end')"
    )
    silent = re.compile("PREFECT_|CI$|CI_|GITHUB_|GITLAB_|JENKINS|TF_BUILD|DO_NOT_TRACK")
    environment = {name: value for name, value in os.environ.items() if not silent.match(name)}
    ours, its = pty.openpty()
    with os.fdopen(its, "wb") as terminal:
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**environment, "PREFECT_HOME": str(tmp_path)},
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            check=True,
        )
    os.set_blocking(ours, False)
    assert os.read(ours, 10000).decode().split() == ["end"]
    os.close(ours)
