"""The command line as a user runs it: processes, exit codes, standard output and standard error."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import get_args
from xml.etree import ElementTree

import jsonschema
import pytest

from flows.cli import run
from flows.cli.main import _settings, main, parser
from tasks.learning import device
from tasks.settings import Data, GateSettings, RecipeSettings, StepName
from tests.commands import command, digits, retrain, server
from tests.terminal import in_terminal

__all__ = ["digits", "server"]  # fixtures

# The content of `--report-dir`.
REPORT_FILES = ["comment.md", "junit.xml", "report.html", "report.json", "report.md", "report.schema.json"]


def test_a_run_ends_with_a_summary(digits: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    store, done = digits
    assert done.returncode == 0, done.stderr
    verdict = " ".join(done.stdout.split("\n\n")[-1].split())
    assert verdict.startswith("PUBLISHED digits version 1: accuracy 0.")
    assert verdict.endswith("No champion yet.")
    assert "95 % interval" in verdict
    for part in ("pass  accuracy lower bound", "  train  ", f"{store}/models/digits/versions/1\n"):
        assert part in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    told = " ".join((done.stdout + done.stderr).split())
    assert told.count("10 of 10 classes have test images") == 1, "the gate is told once"
    assert "epoch 20/20" in done.stderr
    assert "oneDNN" not in done.stderr, "TensorFlow starts quietly"
    assert "Traceback" not in done.stderr
    (report,) = re.findall(r"\S+/report\.html", done.stdout)
    assert Path(report).read_text().startswith("<!doctype html>")


def test_a_second_run_reuses_everything_and_never_imports_tensorflow(
    digits: tuple[Path, subprocess.CompletedProcess[str]], server: dict[str, str]
) -> None:
    done = retrain("run", "--dataset", "digits", "--store", str(digits[0]), PYTHONPROFILEIMPORTTIME="1", **server)
    assert done.returncode == 0
    assert done.stdout.split("\n\n")[-1].startswith("UNCHANGED: digits version 1 is this model already")
    assert "7 reused" in done.stdout
    code, shown = in_terminal(command("run", "--dataset", "digits", "--store", str(digits[0])), NO_COLOR="1", **server)
    assert code == 0
    last, piped = (text.split("\n\n")[-1] for text in (shown, done.stdout))
    assert last.split() == piped.split(), "the verdict is last in a terminal too"
    assert "\x1b" not in shown
    imported = [line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time")]
    assert "prefect" in imported
    assert not {"tensorflow", "keras", "sklearn", "matplotlib", "boto3"} & set(imported)


def test_a_rejected_run_exits_with_3_and_its_report_is_copied(
    digits: tuple[Path, subprocess.CompletedProcess[str]], server: dict[str, str], tmp_path: Path
) -> None:
    strict = ("--min-accuracy", "0.999", "--report-dir", str(tmp_path), "--json")
    done = retrain("run", "--dataset", "digits", "--store", str(digits[0]), *strict, **server)
    assert done.returncode == 3
    outcome = json.loads(done.stdout)
    assert (outcome["verdict"], outcome["receipt"]) == ("rejected", None)
    assert sorted(path.name for path in tmp_path.iterdir()) == REPORT_FILES
    schema = json.loads((tmp_path / "report.schema.json").read_text())
    jsonschema.validate(json.loads((tmp_path / "report.json").read_text()), schema)
    assert ElementTree.parse(tmp_path / "junit.xml").getroot().get("failures") == "1"
    assert "❌ digits: Rejected by the gate" in (tmp_path / "comment.md").read_text()
    assert json.loads((tmp_path / "report.json").read_text())["decision"] == outcome["decision"]


def test_versions_champion_and_show_read_the_store_alone(
    digits: tuple[Path, subprocess.CompletedProcess[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--store", str(digits[0]), "--dataset", "digits"]
    assert main(["versions", *where]) == 0
    assert main(["champion", *where]) == 0
    assert main(["show", "1", *where]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].split()[-1] == "champion"
    assert "generation 1" in printed
    assert "digits: Passed the gate" in printed
    assert main(["show", "1", *where, "--markdown"]) == 0
    assert capsys.readouterr().out.startswith("# digits: Passed the gate")
    assert main(["show", "7", *where]) == 1
    assert main(["champion", "--store", str(digits[0])]) == 2
    errors = capsys.readouterr().err
    assert "cannot read version 7 of digits: there is no such version" in errors
    assert "there is no champion of mnist: nothing was published yet" in errors


def test_cache_shows_step_age_and_size_and_clears_what_is_old(
    digits: tuple[Path, subprocess.CompletedProcess[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--store", str(digits[0])]
    assert main(["cache", *where]) == 0
    *rows, total, copies = capsys.readouterr().out.splitlines()
    assert {row.split()[0] for row in rows} == {*get_args(StepName), "report"}
    train = next(row.split() for row in rows if row.startswith("train"))
    assert int(train[3].replace(",", "")) > 1_600_000
    assert total.endswith(digits[0].as_uri())
    assert "objects" in copies
    assert main(["cache", "clear", *where]) == 0
    assert "nothing to remove" in capsys.readouterr().out
    assert main(["cache", "clear", "--older-than", "0", "--dry-run", *where]) == 0
    assert "could be removed" in capsys.readouterr().out
    assert main(["cache", *where]) == 0
    assert capsys.readouterr().out.splitlines()[:-1] == [*rows, total]


def test_help_and_reading_import_neither_prefect_nor_tensorflow_nor_boto3() -> None:
    calls = "main(['versions', '--store', '.']); main(['cache', '--store', '/nowhere'])"
    code = f"import sys; from flows.cli.main import parser, _settings, main; {calls}; print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for package in ("prefect", "tensorflow", "keras", "boto3", "sklearn", "scipy", "matplotlib", "jinja2"):
        assert f"'{package}'" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--epochs", "0"], "cannot use --epochs '0': input should be greater than or equal to 1"),
        (["--min-accuracy", "97"], "cannot use --min-accuracy '97': input should be less than or equal to 1"),
        (["--learning-rate", "fast"], "cannot use --learning-rate 'fast': input should be a valid number"),
        (
            ["--dataset", "cifar"],
            "cannot use --source 'cifar': it is no known data set (mnist, digits, ",
        ),
        (["--store", "gs://bucket"], "cannot use the store 'gs://bucket'"),
    ],
)
def test_a_setting_that_cannot_be_used_is_one_line_and_exit_code_2(
    arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["versions" if arguments[0] == "--store" else "run", *arguments]) == 2
    printed = capsys.readouterr().err
    assert why in printed
    assert printed.count("\n") == 1


def test_a_server_that_does_not_answer_is_named(tmp_path: Path) -> None:
    done = retrain("run", "--store", str(tmp_path), PREFECT_API_URL="http://127.0.0.1:9/api")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("retrain: cannot reach the Prefect server http://127.0.0.1:9/api")


def test_a_gpu_that_is_not_there_ends_the_run_before_the_download(
    tmp_path: Path,
    server: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In this process, and with TensorFlow's answer: another test asks it, which takes ten seconds."""
    trained_once(tmp_path)
    monkeypatch.setattr(device, "_what_tensorflow_sees", lambda: "TensorFlow 2.21.0 sees ['/physical_device:CPU:0']")
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(run, "show_progress", lambda: None)  # it changes the logger for the rest of the process
    for name, value in {**server, "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"}.items():
        monkeypatch.setenv(name, value)
    assert main(["run", "--device", "gpu", "--store", str(tmp_path), "--mirror", "file:///nowhere"]) == 1
    printed = capsys.readouterr().err
    assert "retrain: cannot train on a GPU: no NVIDIA GPU is visible; TensorFlow 2" in printed
    assert "sees ['/physical_device:CPU:0']" in printed
    assert "Use --device cpu" in printed
    assert f"Prefect server {server['PREFECT_API_URL']}" in caplog.text
    assert "download" not in caplog.text


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ()),
        (["--refresh"], ("download", "preprocess", "train", "evaluate", "load_back", "export")),
        (["--refresh", "train"], ("train",)),
        (["--refresh", "train", "evaluate"], ("train", "evaluate")),
    ],
)
def test_refresh_names_steps_or_means_all(arguments: list[str], expected: tuple[str, ...]) -> None:
    assert _settings(parser().parse_args(["run", *arguments])).refresh == expected


def test_an_override_has_to_be_said_each_time_and_needs_a_reason(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert parser().parse_args(["run"]).force_publish is None
    assert parser().parse_args(["run", "--force-publish", "the audit wants it"]).force_publish == "the audit wants it"
    with pytest.raises(SystemExit):
        parser().parse_args(["run", "--force-publish", " "])
    assert "give a reason" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_error(digits: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    show = command("show", "1", "--store", str(digits[0]), "--dataset", "digits")
    with subprocess.Popen(show, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as showing:
        assert showing.stdout
        showing.stdout.close()
        assert showing.stderr
        assert showing.stderr.read() == ""
    assert showing.returncode == 141


def test_debug_shows_the_traceback() -> None:
    done = retrain("versions", "--store", "gs://bucket", "--debug")
    assert "Traceback" in done.stderr
    assert "UsageError" in done.stderr


def test_the_environment_sets_what_the_command_line_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRAIN_EPOCHS", "7")
    monkeypatch.setenv("RETRAIN_MIRROR", "file:///a https://b/")
    monkeypatch.setenv("RETRAIN_MIN_ACCURACY", "0.5")
    monkeypatch.setenv("RETRAIN_REFRESH", "train evaluate")
    settings = _settings(parser().parse_args(["run", "--seed", "3"]))
    assert settings.refresh == ("train", "evaluate")
    assert settings.card(Data) == Data(mirror=("file:///a", "https://b/"))
    assert settings.card(RecipeSettings) == RecipeSettings(epochs=7, seed=3)
    gate = settings.card(GateSettings)
    assert gate == GateSettings(min_accuracy=0.5)
    assert gate.model_fields_set == {"min_accuracy"}, "limits that nobody chose stay unset"


@pytest.mark.parametrize(
    ("value", "expected"), [("1", True), ("true", True), ("YES", True), ("0", False), ("false", False), ("", False)]
)
def test_switches_are_options_and_variables(value: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("dry_run", "require_champion"):
        monkeypatch.setenv(f"RETRAIN_{name.upper()}", value)
        assert getattr(_settings(parser().parse_args(["run"])), name) is expected
        assert getattr(_settings(parser().parse_args(["run", f"--{name.replace('_', '-')}"])), name) is True


def test_a_switch_of_one_run_is_no_setting_of_another_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for words in (["deploy", "--dry-run"], ["gc", "--dry-run"]):
        assert _settings(parser().parse_args(words)).dry_run is False


def test_a_switch_that_is_neither_yes_nor_no_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RETRAIN_DRY_RUN", "perhaps")
    assert main(["run"]) == 2
    assert capsys.readouterr().err.startswith(
        "retrain: cannot use RETRAIN_DRY_RUN 'perhaps': input should be a valid b"
    )


def test_a_run_that_is_killed_leaves_no_server_and_no_folder_behind(tmp_path: Path) -> None:
    running = subprocess.Popen(
        command("run", "--dataset", "digits", "--store", str(tmp_path / "store")),
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stderr=subprocess.PIPE,
    )
    try:
        servers = _wait_for(lambda: _children(running.pid))
        assert all(_alive(server) for server in servers)
    finally:
        running.send_signal(signal.SIGKILL)
        running.communicate()
    _wait_for(lambda: not any(map(_alive, servers)))
    assert not list(tmp_path.glob("retrain-*"))


def _wait_for(condition: Callable[[], object]) -> list[int]:
    deadline = time.monotonic() + 30
    while not (result := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return result if isinstance(result, list) else []


def _children(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def _alive(process: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return False


def test_a_user_without_a_home_runs_every_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_home() -> Path:
        if not os.environ["HOME"]:
            raise RuntimeError("Could not determine home directory.")
        return Path(os.environ["HOME"])

    with monkeypatch.context() as patched:
        patched.setenv("HOME", "")
        patched.delenv("RETRAIN_HOME")
        patched.setattr(Path, "home", no_home)
        assert main(["cache", "--store", str(tmp_path)]) == 0
        assert os.environ["HOME"] == "/"


def test_a_proxy_gets_nothing_of_what_goes_to_this_machine(
    monkeypatch: pytest.MonkeyPatch, server: dict[str, str], tmp_path: Path
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    dead = "http://127.0.0.1:9"
    trained_once(tmp_path)
    proxies = {"HTTP_PROXY": dead, "HTTPS_PROXY": dead, "http_proxy": dead, "NO_PROXY": "example.org"}
    missing = retrain("run", "--store", str(tmp_path), "--require-champion", **server, **proxies)
    assert missing.stderr.splitlines()[-1].startswith(
        "retrain: cannot compare with the champion of mnist: there is none"
    )


def trained_once(store: Path) -> None:
    """Make it the store of a model that was trained before: for such a one TensorFlow is not imported in advance."""
    (store / "cache/last").mkdir(parents=True)
    (store / "cache/last/train.json").write_text("{}")


def test_a_socks_proxy_without_its_package_is_one_line(server: dict[str, str], tmp_path: Path) -> None:
    trained_once(tmp_path)
    done = retrain("run", "--store", str(tmp_path), **server, ALL_PROXY="socks5://127.0.0.1:9")
    assert (done.returncode, done.stderr) == (
        2,
        "retrain: cannot use a SOCKS proxy: a package is missing. "
        "Install it (pip install socksio), or unset ALL_PROXY.\n",
    )
