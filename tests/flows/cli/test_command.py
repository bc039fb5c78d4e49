"""The types of arguments."""

from __future__ import annotations

import pytest

from flows.cli.command import escaped
from flows.cli.main import main


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
    assert f"retrain {arguments[0]}: error: argument " in capsys.readouterr().err.splitlines()[-1]


def test_a_reason_of_another_writer_is_one_row() -> None:
    assert escaped("a\n   9  version 3  fake\x1b[2J") == "a\\n   9  version 3  fake\\x1b[2J"
    assert escaped("größer – besser ✓") == "größer – besser ✓"
