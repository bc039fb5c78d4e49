"""The files that the operating guide hands out: environments, Helm values, systemd units."""

from __future__ import annotations

import re
import shlex
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.setup import POOLS
from flows.cli.main import parser
from tests.documents.project import is_variable

DEPLOYMENTS = Path(__file__).parents[2] / "deployments"
UNITS = sorted((DEPLOYMENTS / "systemd").glob("*.service"))
VALUES = sorted((DEPLOYMENTS / "helm").glob("*.yaml"))
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOYMENTS / "compose.yaml").read_text())


def assigned(name: str) -> dict[str, str]:
    """The variables of an example, those that are commented out among them."""
    return dict(re.findall(r"^#?([A-Z_0-9]+)=(.*)$", (DEPLOYMENTS / name).read_text(), re.MULTILINE))


def test_the_environment_of_a_gpu_box_has_what_the_compose_file_gives_its_worker() -> None:
    names = assigned("gpu.env.example").keys()
    assert [name for name in names if not is_variable(name)] == []
    service = set(COMPOSE["services"]["trainer-gpu"]["environment"])
    # Set by the image, or by `docker run` in the guide.
    assert {name for name in service - names if name.startswith(("PREFECT_API", "AWS_"))} == set()


def test_the_secrets_of_the_example_are_empty() -> None:
    values = assigned("gpu.env.example") | assigned(".env.example")
    secrets = [name for name in values if name.endswith(("_PASSWORD", "_KEY", "_STRING", "_TOKEN"))]
    assert len(secrets) >= 6
    assert [values[name] for name in secrets if values[name]] == []


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_starts_commands_that_exist(path: Path) -> None:
    unit = ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(path.read_text())
    commands = [shlex.split(unit["Service"][name]) for name in ("ExecStart", "ExecStop") if name in unit["Service"]]
    assert commands
    assert unit["Install"]["WantedBy"] == "default.target"
    for program, *arguments in commands:
        if program.endswith("/retrain"):
            parser().parse_args(arguments)
        else:
            assert Path(program).name in {"prefect", "ssh"}


@pytest.mark.parametrize("path", VALUES, ids=lambda path: path.name)
def test_helm_values_are_yaml_whose_variables_exist(path: Path) -> None:
    text = path.read_text()
    assert yaml.safe_load(text)
    names = re.findall(r"\b(?:PREFECT|RETRAIN)_[A-Z_]+\b", text)
    assert [name for name in names if not is_variable(name)] == []


def test_every_worker_serves_a_pool_that_is_there_and_has_deployments() -> None:
    files = [*UNITS, *VALUES, DEPLOYMENTS / "compose.yaml", DEPLOYMENTS.parent / "Dockerfile"]
    told = {path.name: re.findall(r"(?:--pool[\s\",]+|workPool: )([\w-]+)", path.read_text()) for path in files}
    assert {name: pools for name, pools in told.items() if not set(POOLS).issuperset(pools)} == {}
    assert len(told["worker-jobs.yaml"]) == len(told["worker-training.yaml"]) + 1 == 2


def test_the_guide_names_services_that_are_there() -> None:
    guide = (DEPLOYMENTS / "README.md").read_text()
    named = re.findall(r"\bdc (?:exec(?: -T)?|run --rm|stop|restart|logs --follow|create) ([a-z][\w-]*)", guide)
    assert len(named) >= 10
    assert set(named) <= set(COMPOSE["services"])


def test_there_are_units_and_values() -> None:
    assert {path.stem for path in UNITS} == {"retrain", "retrain-tunnel", "retrain-trainer-gpu"}
    assert {path.stem for path in VALUES} == {"server", "worker-jobs", "worker-training"}
