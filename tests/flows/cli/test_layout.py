"""What a terminal of 80 × 24 shows, and what a pipe gets."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from flows.cli.layout import wrapped
from flows.cli.summary import as_text
from tasks.registry import Registry
from tasks.report.formatting import count
from tasks.storage.local import LocalStore
from tasks.values import Check, Decision, Outcome, Receipt, StepRun
from tests.commands import command, parts, several
from tests.model_files import small_model
from tests.terminal import COLUMNS, ROWS, in_terminal

ESCAPES = re.compile(r"\x1b\[[0-9;]*[mAK]")
LONG = "accuracy 0.9806, 95 % interval 0.9604 to 0.9905, published because the audit of the second quarter asked for it"
REPORT = f"""# digits: Passed the gate

{LONG}

| check | value | needs | margin | result | because |
| --- | --- | --- | --- | --- | --- |
| accuracy lower bound | 0.9645 | ≥ 0.9200 | +0.0445 | pass | at least 0.9645 with 95 % confidence, says Wilson |

- **Model file, SHA-256**: {"0" * 64}
- a title \x1b]0;owned\x07 and [a link](https://example.org/)
"""


def example(verdict: str = "published", rows: int = 10) -> Outcome:
    """A run with many rows and long reasons."""
    checks = tuple(
        Check(name=f"loss to champion v{number}", value=0.5, limit=0.4, margin=0.1, passed=True, sentence=LONG)
        for number in range(rows)
    )
    steps = tuple(
        StepRun(
            name=f"step{number}", cached=False, reason=", ".join(["code tasks.x changed"] * 6), seconds=1, computed=1
        )
        for number in range(11)
    )
    return Outcome.model_validate(
        {
            "verdict": verdict,
            "run": "1",
            "store": "s3://bucket",
            "decision": Decision(
                verdict="publish", accuracy=0.98, interval=(0.97, 0.99), checks=checks, remark="no champion yet"
            ),
            "receipt": None
            if verdict == "rejected"
            else Receipt(model="m", version=1, new=True, champion=1, decides="pointer", url="s3://bucket/models/m/1"),
            "report": f"/tmp/{'a-long-folder/' * 8}report.html",
            "steps": steps,
        }
    )


@pytest.mark.parametrize(
    ("verdict", "word"), [("published", "PUBLISHED"), ("rejected", "REJECTED"), ("passed", "PASSED")]
)
@pytest.mark.parametrize("rows", [5, 10])
def test_the_verdict_is_the_last_that_a_screen_shows(verdict: str, word: str, rows: int) -> None:
    lines = as_text(example(verdict, rows), COLUMNS).splitlines()
    screen = lines[1 - ROWS :]  # the prompt has the last row
    (row,) = [number for number, line in enumerate(screen) if line.startswith(word)]
    assert len(screen) - row <= 3
    assert [line for line in lines if len(line) > COLUMNS] == [line for line in lines if "a-long-folder" in line]
    words = " ".join(lines).split()
    assert words.count("quarter") == rows, "no word is broken, and no row told twice"
    assert sum(line.startswith("  pass  loss to champion") for line in lines) == rows


def test_later_lines_begin_below_the_text_and_no_word_is_broken() -> None:
    assert wrapped("  a  ", "one two three four five six", 24) == "  a\n    one two three four\n    five six"
    assert wrapped("  a  ", "one two three four five six seven", 30) == "  a  one two three four five\n     six seven"
    assert wrapped("  model  ", f"s3://{'x' * 70}", 80) == f"  model\n    s3://{'x' * 70}"
    assert wrapped("  model  ", f"s3://{'x' * 90}", 80) == f"  model  s3://{'x' * 90}"
    assert wrapped("", "well-kept", 5) == "well-kept"
    assert wrapped("  a  ", "", 80) == "  a"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    store = LocalStore(tmp_path_factory.mktemp("layout") / "store")
    files = {"model.keras": small_model(), "report.md": REPORT.encode()}
    Registry(store, "mnist").publish(files, {"metrics": {"accuracy": 0.98}}, LONG)
    Registry(store, "mnist").pin(1, LONG)
    store.put("models/mnist/versions/2/left.keras", b"left")
    return store


COMMANDS = {
    "versions": ["versions"],
    "champion": ["champion"],
    "history": ["history"],
    "plot": ["history", "--plot"],
    "show": ["show", "1"],
    "compare": ["compare", "1", "1"],
    "verify": ["verify"],
    "gc": ["gc", "--older-than", "0", "--dry-run"],
    "cache": ["cache"],
    "doctor": ["doctor"],
    "config": ["config", "--mirror", "https://mirror.example.org/one", "--mirror", "https://mirror.example.org/two"],
    "status": ["status"],
    "help": ["run", "--help"],
}


class Printed(NamedTuple):
    """The exit code of a command, what a terminal without colours shows, and what a pipe gets."""

    code: int
    shown: str
    piped: str


@pytest.fixture(scope="module")
def printed(store: LocalStore) -> dict[str, Printed]:
    """What each command prints, and `show --markdown`."""
    commands = COMMANDS | {"markdown": ["show", "1", "--markdown"]}
    where = {name: ["--store", str(store.root)] for name in commands.keys() - {"status", "help"}}
    all_of_them = several([[*words, *where.get(name, [])] for name, words in commands.items()])
    _, terminal = in_terminal(all_of_them, NO_COLOR="1")
    pipe = subprocess.run(all_of_them, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True).stdout
    both = zip(commands, parts(terminal), parts(pipe), strict=True)
    return {name: Printed(code, shown, piped) for name, (code, shown), (_, piped) in both}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_fits_80_columns(name: str, store: LocalStore, printed: dict[str, Printed]) -> None:
    code, shown, piped = printed[name]
    assert code == (1 if name == "status" else 0), shown
    assert shown.strip()
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]", shown), "NO_COLOR is obeyed"
    for line in ESCAPES.sub("", shown).splitlines():
        assert len(line) <= COLUMNS or len(line.split()) == 1 or str(store.root) in line, line
    assert "\x1b" not in piped


def test_a_report_reads_as_text_and_its_control_characters_are_escaped(
    store: LocalStore, printed: dict[str, Printed]
) -> None:
    show = command("show", "1", "--store", str(store.root))
    _, shown = in_terminal(show)
    piped = printed["show"].piped
    forced = subprocess.run([*show], capture_output=True, text=True, check=True, env={**os.environ, "FORCE_COLOR": "1"})
    assert "\x1b[" in shown
    assert forced.stdout == piped
    for text in (ESCAPES.sub("", shown), piped):
        assert "\\x1b]0;owned\\x07" in text
        assert not {"\x1b", "\x07"} & set(text)
        assert "| check" not in text
        assert "**" not in text
        assert "0" * 64 in text
    assert printed["markdown"].piped == REPORT.replace("\x1b", "\\x1b").replace("\x07", "\\x07")


def test_a_row_of_a_list_is_one_line_in_a_pipe(printed: dict[str, Printed]) -> None:
    piped = printed["history"].piped
    assert len(piped.splitlines()) == 1
    assert piped.rstrip().endswith(LONG)


def test_the_places_of_what_runs_are_wrapped(tmp_path: Path) -> None:
    folder = tmp_path / "up"
    folder.mkdir()
    (folder / "state.json").write_text(
        '{"port": 4200, "store": "s3://b", "processes": {"server": {"pid": 1, "born": 0}}}'
    )
    code, shown = in_terminal(command("status"), RETRAIN_HOME=str(tmp_path))
    assert code == 1
    assert "server       does not run; see" in shown.replace("server\n   ", "server      ")
    assert "at boot" in shown
    for line in shown.splitlines():
        assert len(line) <= COLUMNS or str(tmp_path) in line, line


def test_progress_is_wrapped_in_a_terminal_and_one_line_elsewhere() -> None:
    code = f"from flows.cli.progress import LOG, show_progress; show_progress(); LOG.info({LONG!r})"
    program = [sys.executable, "-c", code]
    _, shown = in_terminal(program)
    first, second = shown.splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d  accuracy .{,70}", first)
    assert second == f"{' ' * 10}{LONG[len(first) - 10 :].strip()}"
    piped = subprocess.run(program, capture_output=True, text=True, check=True).stderr
    assert piped.endswith(f"  {LONG}\n")
    assert piped.count("\n") == 1


def test_how_far_a_step_is_is_a_bar_in_a_terminal_with_colours_and_a_line_elsewhere() -> None:
    messages = ["train:  50 % epoch 1/2  loss 0.7661  accuracy 0.7879  21.8 s", "judge: Passed the gate"]
    messages.insert(1, messages[0].replace(" 50", "100").replace("1/2", "2/2"))
    code = (
        f"from flows.cli.progress import LOG, show_progress; show_progress(); [LOG.info(each) for each in {messages}]"
    )
    program = [sys.executable, "-c", code]
    _, shown = in_terminal(program)
    first, second, third = shown.splitlines()
    assert second.startswith("\x1b[1A"), "the second one replaces the first"
    assert not third.startswith("\x1b[1A")
    for line in (first, second, third):
        assert len(ESCAPES.sub("", line)) < COLUMNS
    assert re.search(r"train: \S+  50 % epoch 1/2  loss 0.7661  accuracy 0.7879", ESCAPES.sub("", first))
    for plain in (
        in_terminal(program, NO_COLOR="1")[1],
        in_terminal(program, TERM="dumb")[1],
        subprocess.run(program, capture_output=True, text=True, check=True).stderr,
    ):
        assert [re.sub("^\\S+  ", "", line) for line in plain.splitlines()] == messages


def test_the_verdict_has_a_colour_in_a_terminal_alone() -> None:
    text = "  pass  accuracy\n  FAIL  recall\n\nREJECTED: accuracy [red]0.9[/red] REJECTED"
    program = [sys.executable, "-c", f"from flows.cli.layout import coloured; print(coloured({text!r}))"]
    _, shown = in_terminal(program)
    assert ESCAPES.sub("", shown) == f"{text}\n"
    assert len(ESCAPES.findall(shown)) == 6
    assert in_terminal(program, NO_COLOR="1")[1] == f"{text}\n"
    assert subprocess.run(program, capture_output=True, text=True, check=True).stdout == f"{text}\n"


def test_one_of_a_thing_is_singular() -> None:
    assert [count(number, "image") for number in (0, 1, 2, 10_000)] == [
        "0 images",
        "1 image",
        "2 images",
        "10,000 images",
    ]
