"""compose.yaml and the Dockerfile, as far as they can be checked without a container engine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import prefect.settings
import pytest
import yaml

from flows.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
DEPLOYMENTS = ROOT / "deployments"
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((DEPLOYMENTS / "compose.yaml").read_text())["services"]
REQUIRED = re.compile(r"\$\{(\w+):\?")

each_service = pytest.mark.parametrize("service", SERVICES.values(), ids=list(SERVICES))


@each_service
def test_a_service_runs_once_or_tells_whether_it_is_healthy(service: dict[str, Any]) -> None:
    assert (service["restart"] == "no") != ("healthcheck" in service)


@each_service
def test_an_image_is_built_here_or_pinned_to_a_version(service: dict[str, Any]) -> None:
    assert "build" in service or re.search(r":v?\d+\.\d+[\w.-]*$", service["image"])


@each_service
def test_a_port_is_open_on_this_machine_only(service: dict[str, Any]) -> None:
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


@each_service
def test_a_secret_comes_from_outside_and_must_be_there(service: dict[str, Any]) -> None:
    secrets = {name for name in service["environment"] if re.search("PASSWORD|SECRET|ACCESS_KEY|AUTH", name)}
    assert all(REQUIRED.search(service["environment"][name]) for name in secrets)


def test_the_example_names_each_secret_and_gives_none_away() -> None:
    lines = (DEPLOYMENTS / ".env.example").read_text().splitlines()
    example = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert example.pop("COMPOSE_PROFILES") in {
        profile for service in SERVICES.values() for profile in service.get("profiles", [])
    }
    assert example.keys() == set(REQUIRED.findall((DEPLOYMENTS / "compose.yaml").read_text()))
    assert not any(example.values())


@each_service
def test_prefect_knows_each_setting(service: dict[str, Any]) -> None:
    names = [name for name in service["environment"] if name.startswith("PREFECT_")]
    assert [name for name in names if not hasattr(prefect.settings, name)] == []


@pytest.mark.parametrize(
    "name", [name for name, service in SERVICES.items() if service.get("command", [""])[0] == "prefect"]
)
def test_prefect_knows_the_command_and_its_options(name: str) -> None:
    words = SERVICES[name]["command"]
    options = [word for word in words if word.startswith("--")]
    subcommand = words[1 : words.index(options[0])]
    help_text = subprocess.run(
        [sys.executable, "-m", "prefect", *subcommand, "--help"], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert [option for option in options if option not in help_text] == []


def test_retrain_knows_the_command() -> None:
    commands = {command.function.__name__ for command in COMMANDS}
    calls = [service["command"] for service in SERVICES.values() if service.get("command", [""])[0] == "retrain"]
    assert [words for words in calls if words[1] not in commands] == []


@pytest.mark.usefixtures("s3_server")
def test_the_bucket_is_made_once() -> None:
    python, *arguments = SERVICES["bucket"]["command"]
    region = SERVICES["bucket"]["environment"]["AWS_DEFAULT_REGION"]
    assert python == "python3"
    for _ in range(2):
        subprocess.run(
            [sys.executable, *arguments],
            env=os.environ | {"S3_BUCKET": "from-compose", "AWS_DEFAULT_REGION": region, "PYTHONPATH": str(ROOT)},
            check=True,
            timeout=60,
        )
    assert "from-compose" in [bucket["Name"] for bucket in boto3.client("s3").list_buckets()["Buckets"]]


def test_what_the_image_takes_from_here_is_here_and_let_through() -> None:
    copies = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    sources = {source for sources in copies for source in sources.split()}
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert sources == let_through
    assert all((ROOT / source).exists() for source in sources)
