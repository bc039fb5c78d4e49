"""compose.yaml and the Dockerfile, as far as they can be checked without a container engine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import boto3
import prefect.settings
import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL

from flows.cli.config import PLACES, variable
from flows.cli.main import COMMANDS
from tasks.settings import allow_http
from tests.commands import run_prefect

ROOT = Path(__file__).parents[2]
DEPLOYMENTS = ROOT / "deployments"
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((DEPLOYMENTS / "compose.yaml").read_text())["services"]
REQUIRED = re.compile(r"\$\{(\w+):\?")

EXAMPLE = dict(
    line.split("=", 1)
    for line in (DEPLOYMENTS / ".env.example").read_text().splitlines()
    if line and not line.startswith("#")
)
SECRETS = {name: f"the {name}" for name, value in EXAMPLE.items() if not value}

# The variables of .env that make each case of the guide.
BUNDLED = {"COMPOSE_PROFILES": "store", "RETRAIN_DEVICE": "gpu"}
ANOTHER = {"RETRAIN_STORE": "s3://ours/retrain", "S3_ENDPOINT": "https://s3.example.org", "S3_REGION": "eu-north-1"}
CASES = {
    "a CPU trainer": {**BUNDLED, "COMPOSE_PROFILES": "store,trainer-cpu", "RETRAIN_DEVICE": "cpu"},
    "a GPU trainer": {**BUNDLED, "COMPOSE_PROFILES": "store,trainer-gpu"},
    "a GPU box elsewhere": BUNDLED,
    "another store": {**ANOTHER, "COMPOSE_PROFILES": "trainer-cpu", "RETRAIN_DEVICE": "cpu"},
    "another store, a GPU box elsewhere": {**ANOTHER, "COMPOSE_PROFILES": "", "RETRAIN_DEVICE": "gpu"},
    "another store, its authority": {**ANOTHER, "COMPOSE_PROFILES": "trainer-gpu", "RETRAIN_DEVICE": "gpu"}
    | {"AWS_CA_BUNDLE": "/etc/ssl/private.pem"},
}
ALWAYS = {"database", "server", "setup", "jobs-worker"}
CHOICES = {"store": {"store", "bucket"}, "trainer-cpu": {"trainer-cpu"}, "trainer-gpu": {"trainer-gpu"}, "": set()}

each_case = pytest.mark.parametrize("variables", CASES.values(), ids=list(CASES))
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


def test_the_example_names_each_setting_and_gives_no_secret_away() -> None:
    text = (DEPLOYMENTS / "compose.yaml").read_text()
    assert SECRETS.keys() | {"RETRAIN_DEVICE"} == set(REQUIRED.findall(text))
    told = set(re.findall(r"^#?([A-Z_0-9]+)=", (DEPLOYMENTS / ".env.example").read_text(), re.MULTILINE))
    # S3_BUCKET is of .env files of earlier versions.
    settings = {variable(name) for name in PLACES} - {"RETRAIN_STORE", "RETRAIN_DEVICE"}
    assert told - settings == set(re.findall(r"(?<!\$)\$\{(\w+)", text)) - {"S3_BUCKET"}
    assert chosen(EXAMPLE | SECRETS) == chosen(CASES["a CPU trainer"] | SECRETS)


@each_case
def test_what_runs_is_what_the_profiles_say(variables: dict[str, str]) -> None:
    profiles = variables["COMPOSE_PROFILES"].split(",")
    services = chosen(variables | SECRETS)
    assert services.keys() == ALWAYS.union(*(CHOICES[profile] for profile in profiles))
    for service in services.values():
        waits = service.get("depends_on", {})
        assert [name for name, how in waits.items() if name not in services and how.get("required", True)] == []


@each_case
def test_every_process_has_the_same_store(variables: dict[str, str]) -> None:
    services = chosen(variables | SECRETS)
    used = [service["environment"] for service in services.values() if "RETRAIN_STORE" in service["environment"]]
    assert len(used) >= 2
    bundled = "store" in services
    for environment in used:
        assert environment["RETRAIN_STORE"] == ("s3://models/prod" if bundled else ANOTHER["RETRAIN_STORE"])
        assert environment["AWS_ENDPOINT_URL_S3"] == ("http://store:7070" if bundled else ANOTHER["S3_ENDPOINT"])
        assert environment["AWS_DEFAULT_REGION"] == ("us-east-1" if bundled else ANOTHER["S3_REGION"])
        assert environment["AWS_ACCESS_KEY_ID"] == SECRETS["S3_ACCESS_KEY"]
        assert environment.get("AWS_CA_BUNDLE") == variables.get("AWS_CA_BUNDLE")
        assert permits_http(environment) is bundled
    if bundled:
        assert services["store"]["environment"]["ROOT_ACCESS_KEY_ID"] == SECRETS["S3_ACCESS_KEY"]
        assert services["store"]["environment"]["VGW_REGION"] == "us-east-1"


def test_whoever_has_the_name_of_the_authoritys_file_has_the_file() -> None:
    path = "/etc/ssl/private.pem"
    for name, service in chosen(CASES["another store, its authority"] | SECRETS).items():
        mounts = [(each["source"], each["target"]) for each in service.get("volumes", []) if isinstance(each, dict)]
        assert mounts == ([(path, path)] if "AWS_CA_BUNDLE" in service["environment"] else []), name


@pytest.mark.usefixtures("prefect_server")
def test_another_store_without_encryption_has_to_be_permitted() -> None:
    variables = CASES["another store"] | {"S3_ENDPOINT": "http://minio:9000"}
    result = run("setup", variables, PREFECT_API_URL=PREFECT_API_URL.value() or "")
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert "cannot use the S3 endpoint http://minio:9000: it is not encrypted" in line
    assert permits_http(chosen(variables | SECRETS | {"RETRAIN_ALLOW_HTTP": "1"})["setup"]["environment"])


def test_a_bucket_that_an_earlier_version_named_stays_the_store() -> None:
    services = chosen(BUNDLED | SECRETS | {"S3_BUCKET": "ours"})
    assert {service["environment"].get("RETRAIN_STORE") for service in services.values()} == {None, "s3://ours/prod"}


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({**BUNDLED, "COMPOSE_PROFILES": "store,trainer-cpu"}, "RETRAIN_DEVICE=gpu, but the profile trainer-cpu"),
        (
            {**BUNDLED, "COMPOSE_PROFILES": "store, trainer-gpu", "RETRAIN_DEVICE": "cpu"},
            "RETRAIN_DEVICE=cpu, but the profile trainer-gpu",
        ),
        ({**BUNDLED, "COMPOSE_PROFILES": "store,trainer-cpu,trainer-gpu"}, "but the profile trainer-cpu"),
        ({**BUNDLED, "RETRAIN_DEVICE": "auto"}, "RETRAIN_DEVICE=auto is neither cpu nor gpu"),
        ({**BUNDLED, "COMPOSE_PROFILES": "store,gpu"}, "COMPOSE_PROFILES has 'gpu', which is not store"),
        ({**BUNDLED, "COMPOSE_PROFILES": "*"}, "COMPOSE_PROFILES has '*'"),
        ({**BUNDLED, "COMPOSE_PROFILES": ""}, "there is no store"),
        ({**ANOTHER, **BUNDLED}, "S3_ENDPOINT names another store, but the profile store starts"),
    ],
)
def test_settings_that_contradict_each_other_are_one_line(variables: dict[str, str], words: str) -> None:
    result = run("setup", variables)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert words in line
    assert line.endswith("Correct deployments/.env, as .env.example says.")


def test_a_device_has_to_be_chosen() -> None:
    with pytest.raises(ValueError, match="RETRAIN_DEVICE: gpu or cpu"):
        chosen(SECRETS | {"COMPOSE_PROFILES": "store"})


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("case", ["a GPU box elsewhere", "another store"])
def test_the_deployments_get_the_store_and_the_device(case: str) -> None:
    variables = CASES[case] | {"RETRAIN_MIN_ACCURACY": "0.975"}
    result = run("setup", variables, PREFECT_API_URL=PREFECT_API_URL.value() or "")
    assert result.returncode == 0, result.stderr
    with get_client(sync_client=True) as client:
        parameters = client.read_deployment_by_name("retrain/scheduled").parameters
    store = variables.get("RETRAIN_STORE", "s3://models/prod")
    expected = {"store": store, "device": variables["RETRAIN_DEVICE"], "train_on": "pool"}
    assert parameters == expected | {"gate": {"min_accuracy": 0.975}}


@pytest.mark.skipif(
    not shutil.which("docker")
    or bool(subprocess.run(["docker", "compose", "version"], capture_output=True).returncode),
    reason="there is no docker compose",
)
@each_case
def test_docker_compose_reads_it_in_the_same_way(variables: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "settings"
    file.write_text("".join(f"{name}={value}\n" for name, value in (SECRETS | variables).items()))
    command = ["docker", "compose", "--file", str(DEPLOYMENTS / "compose.yaml"), "--env-file", str(file), "config"]
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "DOCKER_CONFIG") if name in os.environ}
    result = subprocess.run([*command, "--format", "json"], env=environment, capture_output=True, text=True, check=True)
    theirs = json.loads(result.stdout)["services"]
    ours = chosen(variables | SECRETS)
    assert theirs.keys() == ours.keys()
    for name, service in theirs.items():
        read = {key: value for key, value in service["environment"].items() if value is not None}
        assert read == ours[name]["environment"]


@each_service
def test_prefect_knows_each_setting(service: dict[str, Any]) -> None:
    names = [name for name in service["environment"] if name.startswith("PREFECT_")]
    assert [name for name in names if not hasattr(prefect.settings, name)] == []


OF_PREFECT = [name for name, service in SERVICES.items() if service.get("command", [""])[0] == "prefect"]


def subcommand(name: str) -> list[str]:
    """The words of a service's command before its options."""
    words: list[str] = SERVICES[name]["command"][1:]
    return words[: next(number for number, word in enumerate(words) if word.startswith("--"))]


@pytest.fixture(scope="module")
def prefects_help() -> dict[str, str]:
    """What Prefect says of each service's command."""
    said = run_prefect([*subcommand(name), "--help"] for name in OF_PREFECT)
    return dict(zip(OF_PREFECT, said, strict=True))


@pytest.mark.parametrize("name", OF_PREFECT)
def test_prefect_knows_the_command_and_its_options(name: str, prefects_help: dict[str, str]) -> None:
    options = [word for word in SERVICES[name]["command"] if word.startswith("--")]
    assert f"prefect {' '.join(subcommand(name))}" in " ".join(prefects_help[name].split())
    assert [option for option in options if option not in prefects_help[name]] == []


def test_retrain_knows_the_command() -> None:
    commands = {command.function.__name__ for command in COMMANDS}
    calls = [service["command"] for service in SERVICES.values() if service.get("command", [""])[0] == "retrain"]
    assert [words for words in calls if words[1] not in commands] == []


def test_the_bucket_is_made_once(s3_server: str) -> None:
    settings = {**BUNDLED, "RETRAIN_STORE": "s3://from-compose/prod"}
    for _ in range(2):
        assert run("bucket", settings, AWS_ENDPOINT_URL_S3=s3_server).returncode == 0
    assert "from-compose" in [bucket["Name"] for bucket in boto3.client("s3").list_buckets()["Buckets"]]
    assert run("setup", settings, "retrain", "doctor", AWS_ENDPOINT_URL_S3=s3_server).returncode == 0


def test_another_store_is_never_given_a_bucket() -> None:
    services = chosen({**ANOTHER, **BUNDLED} | SECRETS)
    assert services["bucket"]["environment"]["AWS_ENDPOINT_URL_S3"] == "http://store:7070"


def test_what_the_image_takes_from_here_is_here_and_let_through() -> None:
    copies = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    sources = {source for sources in copies for source in sources.split()}
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert sources == let_through
    assert all((ROOT / source).exists() for source in sources)


def chosen(variables: dict[str, str]) -> dict[str, dict[str, Any]]:
    """The services that Compose starts with these variables, as it reads them.

    Raises:
        ValueError: A variable that is required is empty.
    """
    profiles = {profile.strip() for profile in variables.get("COMPOSE_PROFILES", "").split(",")}
    services = {name: _filled(service, variables) for name, service in SERVICES.items()}
    return {
        name: service
        for name, service in services.items()
        if "*" in profiles or not service.get("profiles") or profiles.intersection(service["profiles"])
    }


def _filled(value: Any, variables: dict[str, str]) -> Any:
    """The value with the variables in it; a name without a value takes it from the variable, or is left out."""
    if isinstance(value, str):
        text, _ = _interpolated(value, variables)
        return text
    if isinstance(value, list):
        return [_filled(each, variables) for each in value]
    if isinstance(value, dict):
        whole = {key: variables.get(key) if each is None else each for key, each in value.items()}
        return {key: _filled(each, variables) for key, each in whole.items() if each is not None}
    return value


def _interpolated(text: str, variables: dict[str, str], nested: bool = False) -> tuple[str, str]:
    """The text up to its end, or to the brace that closes it where it is nested, and what comes after."""
    done = ""
    while text and not (nested and text.startswith("}")):
        if start := re.match(r"\$\{(\w+)(:[-+?])?", text):
            name, operator = start.groups()
            argument, text = _interpolated(text[start.end() :], variables, nested=True)
            text = text.removeprefix("}")
            value = variables.get(name, "")
            if operator == ":?" and not value:
                raise ValueError(f"{name}: {argument}")
            done += (argument if value else "") if operator == ":+" else value or (argument if operator == ":-" else "")
        else:
            done, text = done + text[0], text.removeprefix("$$") if text.startswith("$$") else text[1:]
    return done, text


def permits_http(environment: dict[str, str]) -> bool:
    """Whether a process with this environment uses an endpoint without encryption."""
    with patch.dict(os.environ, environment):
        return allow_http()


def run(name: str, variables: dict[str, str], *command: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a service's command, or another one in its place, with its environment and these settings."""
    service = chosen(variables | SECRETS)[name]
    path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    private = {each: os.environ[each] for each in ("PREFECT_HOME", "RETRAIN_HOME")}
    return subprocess.run(
        command or service["command"],
        env=(variables if "env_file" in service else {}) | service["environment"] | private | path | settings,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
