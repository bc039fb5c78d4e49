from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flows.cli.server import Server, configured_api_url
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


def test_a_temporary_server_that_dies_says_its_last_words(tmp_path: Path) -> None:
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-c", "raise SystemExit('no room left')"], stderr=log)
    with pytest.raises(ServerError, match="cannot start a temporary Prefect server: no room left"):
        Server("http://127.0.0.1:9/api", process, tmp_path).wait()
