"""What all tests share: folders of their own, one S3 server, one Prefect server, and no look at the user's settings."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import certifi
import pytest
from hypothesis import settings

from flows.cli import template
from tests import s3

# No case is late on a machine that does other things too. `--hypothesis-profile thorough` is of `make test-nightly`.
usual = settings(settings.get_profile("ci" if os.environ.get("CI") else "default"), deadline=None)
settings.register_profile("quick", usual, max_examples=40)
settings.register_profile("thorough", usual, max_examples=1000)
settings.load_profile("quick")

ROOT = Path(__file__).resolve().parents[1]

# Of the whole run of the tests: the processes of pytest-xdist take it over.
FIRST = "TESTS_SHARED" not in os.environ
SHARED = Path(os.environ.get("TESTS_SHARED") or tempfile.mkdtemp(prefix="retrain-tests-"))
os.environ["TESTS_SHARED"] = str(SHARED)

# Before anything imports Prefect: it reads these when it is imported.
HOME = Path(tempfile.mkdtemp(prefix="home-", dir=SHARED))


def _one_certificate() -> Path:
    """A file with one authority instead of certifi's 140: each of Prefect's clients reads it, and none needs any."""
    end = "-----END CERTIFICATE-----\n"
    file = HOME / "authority.pem"
    file.write_text(certifi.contents().partition(end)[0] + end)
    return file


for name in [name for name in os.environ if name.startswith(("PREFECT_", "RETRAIN_", "AWS_"))]:
    del os.environ[name]
# Hundreds of processes would each compile the project's modules anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ |= {
    "PREFECT_HOME": str(HOME / "prefect"),
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_API_SSL_CERT_FILE": str(_one_certificate()),
    "RETRAIN_HOME": str(HOME / "retrain"),
    "RETRAIN_CONFIG": os.devnull,  # not the retrain.toml of whoever runs the tests
    "RETRAIN_SEEDS": "1",  # a test of further seeds asks for them: they take time
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "CUDA_VISIBLE_DEVICES": "",
}


def pytest_unconfigure() -> None:
    """Leave nothing behind."""
    shutil.rmtree(SHARED if FIRST else HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server that the environment points at."""
    with s3.serving() as url:
        yield url


@pytest.fixture
def bucket(s3_server: str) -> str:
    """A new empty bucket, as `s3://name`."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    s3.make_bucket(name)
    return f"s3://{name}"


@pytest.fixture(scope="session")
def migrated() -> Path:
    """A new database with Prefect's tables, made once for all processes: to migrate one takes many seconds.

    It is also the one that `retrain` keeps for its temporary servers.
    """
    file = SHARED / "prefect.db"
    program = "import asyncio; from prefect.server.database import provide_database_interface; "
    program += "asyncio.run(provide_database_interface().create_db())"
    with (SHARED / "prefect.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            new = SHARED / "new.db"
            url = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{new}"}
            subprocess.run([sys.executable, "-c", program], env=os.environ | url, check=True)
            new.rename(file)
    template.keep(file, HOME)
    return file


@pytest.fixture(scope="session")
def prefect_server(migrated: Path) -> Iterator[None]:
    """A real Prefect server that flows report to."""
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import get_current_settings
    from prefect.testing.utilities import prefect_test_harness

    def start(server: SubprocessASGIServer) -> subprocess.Popen[bytes]:
        # Prefect's own way to start it, but for the transactions: on a busy machine they lock each other out, and the
        # server gives events up, such as the end of a task.
        program = "import uvicorn; from flows.cli.sqlite_server import lock_at_begin; lock_at_begin(); "
        program += "uvicorn.run('prefect.server.api.server:create_app', factory=True, log_level='error', "
        program += f"host='127.0.0.1', port={server.port}, lifespan='on')"
        settings = get_current_settings().to_environment_variables(exclude_unset=True)
        database = settings["PREFECT_SERVER_DATABASE_CONNECTION_URL"].removeprefix("sqlite+aiosqlite:///")
        shutil.copyfile(migrated, database)
        own = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
        return subprocess.Popen([sys.executable, "-c", program], env=os.environ | own | settings, cwd=ROOT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SubprocessASGIServer, "_run_uvicorn_command", start)
        with prefect_test_harness(server_startup_timeout=120):
            yield


@pytest.fixture(params=["local", "s3"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store of each kind."""
    if request.param == "local":
        return str(tmp_path / "store")
    return f"{request.getfixturevalue('bucket')}/some/prefix"
