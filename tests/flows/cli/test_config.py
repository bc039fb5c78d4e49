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

from flows.cli import background
from flows.cli.config import PLACES, Given, described, located
from flows.cli.main import _settings, main, parser
from tasks.address import Address
from tasks.errors import StoreError, UsageError
from tasks.settings import OF_ONE_RUN, SECTIONS, Data, Settings

EVERYTHING = """
model = "postcodes"
store = "s3://models/prod"
device = "cpu"
seeds = "3..5"
approve = true
notify = "slack-webhook/ops"
[data]
source = "digits"
mirror = ["file:///a", "https://b/"]
validation_fraction = 0.1
split_seed = 7
window = 5
[recipe]
epochs = 8
batch_size = 64
learning_rate = 0.01
seed = 5
network = "letters.networks:small"
[gate]
min_accuracy = 0.90
min_accuracy_lower_bound = 0.88
min_class_recall = 0.5
max_regression = 0.01
[batches]
min_p_classes = 0.002
min_p_shares = 0.003
min_p_pixels = 0.004
min_p_labels = 0.005
max_new_classes = 1
max_repeated = 0.2
max_leaked = 0.3
[schedule]
cron = "0 6 * * 5"
timezone = "America/New_York"
train_on = "here"
[retention]
keep_champions = 5
keep_months = 12
keep_runs_days = 90
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RETRAIN_CONFIG", raising=False)
    monkeypatch.delenv("RETRAIN_SEEDS", raising=False)
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


def test_the_name_of_the_source_in_earlier_versions_is_read_everywhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert effective("--dataset", "digits").source == "digits"
    (folder / "retrain.toml").write_text('[data]\ndataset = "digits"\n')
    assert effective().source == "digits"
    monkeypatch.setenv("RETRAIN_DATASET", "mnist")
    assert effective().source == "mnist"
    assert effective("--source", "digits").source == "digits"
    assert Data.model_validate({"dataset": "digits"}) == Data(source=Address("digits"))


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
    assert printed["max_regression"] == "max_regression = 0.0105 # own value of digits"
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
        assert " ".join(described(name).split()[:4]) in text
    assert "# Passes over the training images, 1 to 1,000." in text


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
        ("[recipe]\nepochs = true", "recipe.epochs of FILE: true: it is no switch."),
        ("approve = 'yes'", "approve of FILE: 'yes': it is a switch, true or false."),
        ("approve = 1", "approve of FILE: 1: it is a switch, true or false."),
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
        (
            "RETRAIN_DATASET",
            "cifar",
            "fashion-mnist, kmnist); write a folder with a slash: ./cifar",
        ),
        ("RETRAIN_SOURCE", "mnst", "write a folder with a slash: ./mnst. Did you mean mnist?"),
        ("RETRAIN_REFRESH", "trian", "Did you mean train?"),
        ("RETRAIN_STORE", "gs://x", "cannot use the store 'gs://x' (RETRAIN_STORE): it is not the address of a store"),
        ("RETRAIN_BASELINE", "gs://x", "cannot use the store 'gs://x' (RETRAIN_BASELINE): it is not the address"),
        ("RETRAIN_CONFIG", "nowhere.toml", "in nowhere.toml (RETRAIN_CONFIG): there is no such file"),
        ("RETRAIN_ALLOW_HTTP", "perhaps", "it is neither yes nor no. Set it to 1 or 0."),
        ("RETRAIN_HISTORY_DECIDES", "perhaps", "it is neither yes nor no. Set it to 1 or 0."),
        ("RETRAIN_LONGEST_TRAINING", "soon", "it is not a number of seconds above 0"),
        ("RETRAIN_LONGEST_TRAINING", "nan", "it is not a number of seconds above 0"),
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


@pytest.mark.parametrize(
    ("chosen", "place"),
    [
        ({"cron": Given("x", "RETRAIN_CRON")}, "RETRAIN_CRON"),
        ({"cron": Given("x", "--cron"), "store": Given("y", "--store")}, "--cron"),
        ({"cron": Given("x", "retrain.toml")}, "schedule.cron of retrain.toml"),
        ({"store": Given("x", "a.toml"), "baseline": Given("x", "--baseline")}, "store of a.toml and --baseline"),
    ],
)
def test_an_error_that_is_found_later_names_the_place_of_its_value(chosen: dict[str, Given], place: str) -> None:
    assert (
        str(located(UsageError("cannot use 'x'", "why", "Do.", "x"), chosen)) == f"cannot use 'x' ({place}): why. Do."
    )
    for other in (UsageError("a", "b", "c", "z"), UsageError("a", "b", "c"), StoreError("a", "b", "c")):
        assert located(other, chosen) is other


def test_a_store_of_the_file_that_cannot_be_used_names_the_file(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "retrain.toml").write_text('store = "gs://x"\n')
    assert main(["versions"]) == 2
    assert "cannot use the store 'gs://x' (store of retrain.toml)" in capsys.readouterr().err


def test_many_long_values_are_several_lines_that_can_be_read_again(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mirrors = tuple(f"https://mirror-{number}.example.org/some/long/folder/" for number in range(3))
    (folder / "first.toml").write_text(f"[data]\nmirror = {list(mirrors)}\n".replace("'", '"'))
    assert main(["config", "--config", "first.toml"]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    (folder / "second.toml").write_text(printed)
    assert effective("--config", "second.toml").mirror == mirrors


@given(st.sampled_from(sorted(PLACES)), st.data())
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_one_wrong_letter_names_the_right_setting(name: str, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(name) - 1))
    wrong = name[:position] + name[position + 1 :]
    if wrong in PLACES:
        return
    section = f"[{PLACES[name]}]\n" if PLACES[name] else ""
    Path("typo.toml").write_text(f"{section}{wrong} = 1\n")
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


def write(folder: Path, **files: str) -> None:
    for name, content in files.items():
        (folder / f"{name}.toml").write_text(content)


def test_each_of_several_files_has_its_own_settings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(
        folder,
        a='model = "a"\n[data]\nsource = "digits"\n[recipe]\nepochs = 3\n',
        b='model = "b"\n[gate]\nmin_accuracy = 0.9\n[schedule]\ncron = "0 1 * * *"\n',
    )
    monkeypatch.setenv("RETRAIN_SEEDS", "3")
    options = parser().parse_args(["deploy", "--config", "a.toml", "--config", "b.toml", "--device", "cpu"])
    _settings(options)
    one, other = (model.settings for model in options.models)
    assert (one.model, one.source, one.epochs, one.min_accuracy, one.cron) == ("a", "digits", 3, None, "0 4 * * 1")
    assert (other.model, other.source, other.epochs, other.min_accuracy) == ("b", "mnist", None, 0.9)
    assert other.cron == "0 1 * * *"
    assert {(each.seeds, each.device) for each in (one, other)} == {("3", "cpu")}


@pytest.mark.parametrize(
    ("b", "said"),
    [
        ('model = "a"', "cannot deploy a.toml and b.toml together: both are the model a. Give each a model of its own"),
        (
            '[data]\nsource = "s3://x/y"\n[gate]\nmin_accuracy = 0.9',
            "cannot use the source s3://x/y (data.source of b.tom",
        ),
        ('model = "b"\n[data]\nsource = "s3://x/y"', "cannot judge a model of these data (data.source of b.toml): "),
        ('model = "b"\n[recipe]\nepochs = 0', "cannot use recipe.epochs of b.toml: 0: "),
        ('model = "b"\n[recipe]\nepoch = 1', "cannot use epoch in [recipe] of b.toml: there is no such setting here"),
        ('model = "B"', "cannot use model of b.toml: 'B': "),
        ('model = "b"\nstore = "gs://x"', "cannot use the store 'gs://x' (store of b.toml): "),
        (
            'model = "b"\n[data]\nmirror = ["https://u:p@x/"]',
            "cannot use data.mirror of b.toml https://x/: its address h",
        ),
        ("[recipe", "cannot read the settings in b.toml: "),
    ],
)
@pytest.mark.parametrize("command", ["deploy", "up"])
def test_what_is_wrong_with_one_of_several_files_is_one_line_which_names_it(
    b: str, said: str, command: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RETRAIN_HOME", str(folder / "home"))
    write(folder, a='model = "a"\n[data]\nsource = "digits"\n', b=b)
    assert main([command, "--config", "a.toml", "--config", "b.toml"]) == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.count("\n") == 1


def test_two_known_sets_by_their_own_names_would_have_one_deployment(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder, a='model = "digits"\n[data]\nsource = "digits"\n', b="")
    assert main(["deploy", "--config", "a.toml", "--config", "b.toml"]) == 2
    assert capsys.readouterr().err == (
        "retrain: cannot deploy a.toml and b.toml together: digits and mnist would both be retrain/scheduled, as none "
        "has another name than its source. Set model in one of them, such as mnist-weekly.\n"
    )


@pytest.mark.parametrize("command", ["run", "versions", "config", "init", "models"])
def test_two_files_are_for_up_and_deploy_alone(command: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder, a="", b="")
    assert main([command, "--config", "a.toml", "--config", "b.toml"]) == 2
    assert capsys.readouterr().err == (
        "retrain: cannot use 2 files of settings (--config): each is one model, and only up and deploy take several. "
        "Name one.\n"
    )


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        (
            'store = "s3://x"',
            'store = "s3://y"',
            "two stores in one `retrain up`: s3://x is that of a.toml and s3://y is",
        ),
        (
            'device = "cpu"',
            'device = "gpu"',
            "two devices in one `retrain up`: cpu is that of a.toml and gpu is that of b",
        ),
    ],
)
def test_what_a_machine_has_once_must_agree(
    a: str, b: str, said: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RETRAIN_HOME", str(folder / "home"))
    write(folder, a=f'model = "a"\n{a}\n', b=f'model = "b"\n{b}\n')
    assert main(["up", "--config", "a.toml", "--config", "b.toml"]) == 2
    assert f"cannot use {said}" in capsys.readouterr().err
    assert not (folder / "home/up/state.json").exists()


def test_up_remembers_the_files_where_it_finds_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RETRAIN_HOME", str(folder / "home"))
    write(folder, a='model = "a"\nstore = "s3://x/y"\n', b='model = "b"\n')
    options = parser().parse_args(["up", "--config", "a.toml", "--config", "b.toml"])
    _settings(options)
    state = background._remembered(options.models, 4321, None)
    assert (state.store, state.device, state.port) == ("s3://x/y", "auto", 4321)
    background._write_state(state)
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    options = parser().parse_args(["up"])
    _settings(options)
    assert [model.settings.model for model in options.models] == ["a", "b"]
    assert background._remembered(options.models, None, state) == state
    assert effective(command="deploy").model == "", "which deploys what it is told, to any server"
    write(folder / "elsewhere", retrain='model = "c"\n')
    assert effective(command="up").model == "c", "a file of this folder comes before those of the last time"
    (folder / "elsewhere/retrain.toml").unlink()
    (folder / "b.toml").unlink()
    assert main(["up"]) == 2
    assert capsys.readouterr().err == (
        f"retrain: cannot read the settings in {folder}/b.toml: the last `retrain up` has deployed them, and the file "
        "is gone. Put it back, or name the files with --config.\n"
    )


def test_two_files_whose_own_networks_have_one_name_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RETRAIN_NETWORK_PATH", raising=False)
    options = []
    for name in ("letters", "shapes"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "networks.py").write_text("")
        file = tmp_path / name / "retrain.toml"
        file.write_text(f'model = "{name}"\n[recipe]\nnetwork = "networks:small"\n')
        options += ["--config", str(file)]
    assert main(["deploy", *options]) == 2
    assert "each has a module networks of its own beside it, and Python knows one of a name" in capsys.readouterr().err
