"""Settings from options, variables and `retrain.toml`: precedence, origins, and everything that means nothing."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from flows.cli.config import PLACES
from flows.cli.main import _settings, main, parser
from tasks.settings import OF_ONE_RUN, SECTIONS, Settings

EVERYTHING = """
store = "s3://models/prod"
device = "cpu"
seeds = 3
notify = "slack-webhook/ops"
[data]
dataset = "digits"
mirror = ["file:///a", "https://b/"]
validation_fraction = 0.1
split_seed = 7
[recipe]
epochs = 8
batch_size = 64
learning_rate = 0.01
seed = 5
[gate]
min_accuracy = 0.90
min_accuracy_lower_bound = 0.88
min_class_recall = 0.5
max_regression = 0.01
[schedule]
cron = "0 6 * * 5"
timezone = "America/New_York"
train_on = "here"
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RETRAIN_CONFIG", raising=False)
    return tmp_path


def effective(*arguments: str, command: str = "deploy") -> Settings:
    return _settings(parser().parse_args([command, *arguments]))


def test_the_file_sets_every_setting(folder: Path) -> None:
    (folder / "retrain.toml").write_text(EVERYTHING)
    content = tomllib.loads(EVERYTHING)
    written = {
        name: value
        for key, each in content.items()
        for name, value in (each if key in SECTIONS else {key: each}).items()
    }
    settings = effective()
    assert settings.model_fields_set == written.keys() == PLACES.keys()
    assert settings.model_dump(mode="json", exclude=set(OF_ONE_RUN)) == written
    assert PLACES.keys() == Settings.model_fields.keys() - set(OF_ONE_RUN)


def test_an_option_comes_before_its_variable_and_that_before_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "retrain.toml").write_text(
        "[recipe]\nepochs = 8\nbatch_size = 64\nseed = 5\n[gate]\nmin_accuracy = 0.9\n"
    )
    monkeypatch.setenv("RETRAIN_EPOCHS", "9")
    monkeypatch.setenv("RETRAIN_BATCH_SIZE", "32")
    monkeypatch.setenv("RETRAIN_SEED", "")  # as good as unset
    settings = effective("--epochs", "10", command="run")
    assert (settings.epochs, settings.batch_size, settings.seed) == (10, 32, 5)
    assert main(["config", "--epochs", "10", "--dataset", "digits"]) == 0
    printed = {line.split(" = ")[0]: " ".join(line.split()) for line in capsys.readouterr().out.splitlines()}
    assert printed["epochs"] == "epochs = 10 # --epochs"
    assert printed["batch_size"] == "batch_size = 32 # RETRAIN_BATCH_SIZE"
    assert printed["seed"] == "seed = 5 # retrain.toml"
    assert printed["learning_rate"] == "learning_rate = 0.001 # own value of digits"
    assert printed["min_accuracy"] == "min_accuracy = 0.9 # retrain.toml"
    assert printed["min_accuracy_lower_bound"] == "min_accuracy_lower_bound = 0.88 # follows min_accuracy"
    assert printed["max_regression"] == "max_regression = 0.005 # own value of digits"
    assert printed["timezone"] == 'timezone = "UTC" # default'


@pytest.mark.parametrize("command", ["config", "init"])
def test_what_is_printed_and_what_is_written_can_be_read_again(
    command: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "first.toml").write_text(EVERYTHING)
    assert main(["config", "--config", "first.toml"]) == 0
    (folder / "second.toml").write_text(capsys.readouterr().out)
    assert effective("--config", "second.toml") == effective("--config", "first.toml")
    assert main(["init", "--epochs", "3", "--mirror", 'file:///it"s', "--store", "a b#c"]) == 0
    assert effective() == Settings(epochs=3, mirror=('file:///it"s',), store="a b#c")
    assert effective().model_fields_set == {"epochs", "mirror", "store"}
    text = (folder / "retrain.toml").read_text()
    uncommented = "\n".join(line.removeprefix("#") if line[1:2] != " " else line for line in text.splitlines())
    (folder / "retrain.toml").write_text(uncommented)
    assert effective().model_fields_set == PLACES.keys(), "each commented line is a valid one"
    for name in PLACES:
        assert " ".join((Settings.model_fields[name].description or "").split()[:4]) in text


def test_a_file_that_is_there_is_not_overwritten(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "retrain.toml").write_text("this is no TOML")
    assert main(["init"]) == 2
    assert capsys.readouterr().err == (
        "retrain: cannot write retrain.toml: it is there already. Edit it, or name another --config.\n"
    )
    assert main(["init", "--config", "no/such/folder.toml"]) == 2
    assert (folder / "retrain.toml").read_text() == "this is no TOML"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            "min_accuracy = 0.9",
            "min_accuracy of FILE: there is no such setting here. It belongs in [gate].",
        ),
        (
            "[gate]\nmin_acuracy = 0.9",
            "min_acuracy in [gate] of FILE: there is no such setting here. Did you mean min_accuracy?",
        ),
        (
            "[gates]\nmin_accuracy = 0.9",
            "gates of FILE: there is no such setting here. Did you mean gate?",
        ),
        (
            "[gate]\nstore = 'x'",
            "store in [gate] of FILE: there is no such setting here. It belongs above all sections.",
        ),
        ("gate = 0.9", "gate of FILE: there is no such setting here. It is a section: write [gate]"),
        (
            "[gate]\nmin_accuracy = 97",
            "gate.min_accuracy of FILE: 97: input should be less than or equal to 1.",
        ),
        ("[recipe]\nepochs = true", "recipe.epochs of FILE: True: it is no switch."),
        ("[recipe]\nepochs = 1.5", "recipe.epochs of FILE: 1.5: input should be a valid integer"),
        (
            "[recipe]\nepochs = {a = 1}",
            "recipe.epochs of FILE: {'a': 1}: input should be a valid integer",
        ),
        (
            "[schedule]\ntimezone = 'Berlin'",
            "schedule.timezone of FILE: 'Berlin': no such time zone",
        ),
        ("store = 3", "store of FILE: 3: input should be a valid string"),
        ("[recipe]\nepochs = nan", "recipe.epochs of FILE: nan: input should be a finite number"),
        (
            "[recipe]\nepochs = 8\nepochs = 9",
            "in FILE: Cannot overwrite a value (at ",
        ),
        (
            "[recipe",
            "in FILE: Expected ']' at the end of a table declaration (at end of document)",
        ),
        (b"\xff\xfe", "in FILE: 'utf-8' codec can't decode byte 0xff"),
        (b"a\x00b", "in FILE: "),
    ],
)
@pytest.mark.parametrize("command", ["run", "deploy", "up", "config", "versions"])
def test_what_means_nothing_in_the_file_is_one_line(
    content: str | bytes, said: str, command: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "retrain.toml").write_bytes(content if isinstance(content, bytes) else content.encode())
    if "schedule" in said and command in {"run", "versions"}:
        return
    assert main([command]) == 2
    printed = capsys.readouterr().err
    assert said.replace("FILE", "retrain.toml") in printed
    assert printed.count("\n") == 1


def test_a_broken_file_keeps_nobody_from_ending_what_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "retrain.toml").write_text("[recipe")
    assert main(["down"]) == 0
    assert main(["status"]) == 1
    assert "retrain.toml" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("RETRAIN_MIN_ACURACY", "0.9999", "there is no such setting. Did you mean RETRAIN_MIN_ACCURACY?"),
        ("RETRAIN_HOMES", "/x", "there is no such setting. Did you mean RETRAIN_HOME?"),
        ("RETRAIN_FORCE_PUBLISH", "1", "there is no such setting. "),
        ("RETRAIN_XQZ", "1", "there is no such setting. `retrain config` prints all there are."),
        ("RETRAIN_EPOCHS", "zero", "input should be a valid integer"),
        ("RETRAIN_DATASET", "cifar", "input should be 'mnist' or 'digits'"),
        ("RETRAIN_CONFIG", "nowhere.toml", "there is no such file"),
    ],
)
def test_a_variable_that_means_nothing_is_one_line(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    assert main(["run"]) == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert (name if name != "RETRAIN_CONFIG" else value) in printed
    assert printed.count("\n") == 1


@given(st.sampled_from(sorted(PLACES)), st.data())
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_one_wrong_letter_names_the_right_setting(name: str, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(name) - 1))
    wrong = name[:position] + name[position + 1 :]
    if wrong in PLACES:
        return
    section = f"[{PLACES[name]}]\n" if PLACES[name] else ""
    Path("typo.toml").write_text(f"{section}{wrong} = 1\n")
    from tasks.errors import UsageError

    with pytest.raises(UsageError, match=f"Did you mean {name}"):
        effective("--config", "typo.toml")


def test_a_schedule_is_for_deployments_and_train_on_of_an_option_or_a_variable_for_all(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "retrain.toml").write_text('[schedule]\ntrain_on = "pool"\n')
    assert effective(command="run").train_on is None
    assert effective(command="up").train_on == "pool"
    monkeypatch.setenv("RETRAIN_TRAIN_ON", "gpu")  # as earlier versions called it
    assert effective(command="run").train_on == "pool"
    assert effective("--train-on", "gpu", command="run").train_on == "pool"


def test_a_store_in_a_file_starts_at_its_folder(folder: Path) -> None:
    (folder / "models").mkdir()
    for store, found in [("./store", "models/store"), ("s3://a/b", "s3://a/b"), ("/a", "/a"), ("~/a", "~/a")]:
        (folder / "models/retrain.toml").write_text(f'store = "{store}"\n')
        assert effective("--config", "models/retrain.toml", command="versions").store == found


def test_the_environment_of_make_reaches_the_run(folder: Path) -> None:
    """What `make run` calls, for each way to say where things are."""
    root = Path(__file__).parents[3]

    def called(*variables: str, **environment: str) -> list[str]:
        printed: Any = subprocess.run(
            ["make", "--dry-run", "--silent", "run", *variables],
            cwd=root,
            env={"PATH": "/usr/bin:/bin", **environment},
            capture_output=True,
            text=True,
            check=True,
        )
        return str(printed.stdout).splitlines()[-1].partition("bin/retrain")[2].split()

    assert called() == called(RETRAIN_STORE="s3://models", RETRAIN_MIRROR="file:///m") == ["run", "--or-digits"]
    assert called("STORE=s3://a") == ["run", "--or-digits", "--store", "'s3://a'"]
    assert called("MIRROR=file:///m", "ARGS=--json") == [*("run", "--or-digits", "--mirror", "'file:///m'", "--json")]


def test_config_imports_no_prefect() -> None:
    code = "import sys; from flows.cli.main import main; main(['config']); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'prefect'" not in done.stdout
