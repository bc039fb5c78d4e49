"""The types of arguments."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from flows.cli.main import main, parser
from tasks.address import escaped


@pytest.mark.parametrize(
    "arguments",
    [
        ["fetch", "folder", "--version", "0"],
        ["fetch", "folder", "--version", "-1"],
        ["show", "0"],
        ["verify", "0"],
        ["pin", "0"],
        ["rollback", "--to", "0"],
        *(["gc", "--older-than", age] for age in ("nan", "inf", "-1", "1e9", "soon")),
        ["cache", "clear", "--older-than", "nan"],
        *(["doctor", "--race", number] for number in ("0", "-1", "20000", "two", "1e3")),
        *(["rollback", "--reason", text] for text in ("", " ", "a\nb", "a\x1b[2Jb", "a\rb", "a\u2028b", "a\u202eb")),
        ["pin", "1", "--reason", "a\nb"],
        ["run", "--force-publish", "a\nb"],
    ],
)
def test_an_argument_out_of_bounds_is_a_usage_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("retrain: cannot use ")
    assert line.endswith(f"See `retrain {arguments[0]} --help`.")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["verson"], "there is no command 'verson'. Did you mean versions?"),
        (["xqz"], "there is no command 'xqz'. See `retrain --help`."),
        (["run", "--min-acuracy", "0.9"], "there is no option --min-acuracy. Did you mean --min-accuracy?"),
        (["run", "--epocs=3"], "there is no option --epocs. Did you mean --epochs?"),
        (["versions", "--xqz"], "there is no option --xqz. See `retrain versions --help`."),
        (["versions", "extra"], "cannot use the argument 'extra'. See `retrain versions --help`."),
        (["show"], "the following arguments are required: VERSION. See `retrain show --help`."),
        (["run", "--store"], "cannot use --store: expected one argument. See `retrain run --help`."),
        (["--store", "x", "versions"], "there is no option --store before the command. Put options after the command."),
        (["--verson"], "there is no option --verson before the command. Did you mean --version?"),
        (["cache", "cleer"], "cannot use action 'cleer': it is none of clear. Did you mean clear?"),
        (
            ["run", "--refresh", "trian"],
            "cannot use --refresh 'trian': it is none of download, preprocess, train, evaluate, load_back, export. "
            "Did you mean train?",
        ),
    ],
)
def test_a_mistyped_word_is_one_line_that_names_the_nearest(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr() == ("", f"retrain: {said}\n")


def test_without_a_command_the_help_is_shown_and_a_script_does_not_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    printed, errors = capsys.readouterr()
    assert printed == ""
    assert errors == parser().format_help()
    assert "run the whole job" in errors


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    assert capsys.readouterr().out == f"retrain {project['version']}\n"


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--epochs", "Passes over the training images, 1 to 1,000. Unset: 5 for mnist, 20 for digits."),
        ("--learning-rate", "RMSprop's learning rate, above 0 and at most 1."),
        ("--min-accuracy", "Lowest test accuracy, 0 to 1."),
        ("--validation-fraction", "Share of the training images held out, 0 to 0.5."),
        ("--seed", "image order, 0 to 4,294,967,295. Default: 0."),
        ("--seeds", "always five. The median model by accuracy is published. Default: 1..5."),
        ("--older-than", "at least this old, in days: 0 to 36,500. Default: 7"),
        ("--port", "the server's port, 1 to 65535."),
        ("--race", "let N writers (1 to 256) race"),
    ],
)
def test_the_help_tells_the_bounds_of_a_value(option: str, said: str) -> None:
    command = {"--older-than": "gc", "--port": "up", "--race": "doctor"}.get(option, "run")
    help_of = next(action for action in parser()._actions if isinstance(action.choices, dict)).choices
    assert help_of is not None
    assert said in " ".join(help_of[command].format_help().split())  # type: ignore[index]


def test_a_reason_of_another_writer_is_one_row() -> None:
    assert escaped("a\n   9  version 3  fake\x1b[2J") == "a\\n   9  version 3  fake\\x1b[2J"
    assert escaped("größer – besser ✓") == "größer – besser ✓"
