"""What all tests share: folders of their own, one S3 server, one Prefect server, and no look at the user's settings."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests import s3

# No case is late on a machine that does other things too.
settings.register_profile("patient", settings.get_profile("default"), deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "patient")

ROOT = Path(__file__).resolve().parents[1]

# Before anything imports Prefect: it reads these when it is imported.
HOME = Path(tempfile.mkdtemp(prefix="retrain-tests-"))
for name in [name for name in os.environ if name.startswith(("PREFECT_", "RETRAIN_", "AWS_"))]:
    del os.environ[name]
os.environ |= {
    "PREFECT_HOME": str(HOME / "prefect"),
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "RETRAIN_HOME": str(HOME / "retrain"),
    "RETRAIN_CONFIG": os.devnull,  # not the retrain.toml of whoever runs the tests
    "RETRAIN_SEEDS": "1",  # a test of further seeds asks for them: they take time
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "CUDA_VISIBLE_DEVICES": "",
}


def pytest_unconfigure() -> None:
    """Leave nothing behind."""
    shutil.rmtree(HOME, ignore_errors=True)


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
def prefect_server() -> Iterator[None]:
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
