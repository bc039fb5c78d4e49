"""Limits that are written into a file of settings; tests/end_to_end/test_own_data.py runs the whole command."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.cli.calibrate import with_limits
from flows.cli.config import _commented
from flows.cli.main import main
from tasks.errors import UsageError
from tasks.settings import Settings

LIMITS = {"min_accuracy": 0.951, "min_accuracy_lower_bound": 0.93, "min_class_recall": 0.8, "max_regression": 0.004}


def test_the_limits_take_the_place_of_those_that_init_has_commented_out() -> None:
    before = "\n".join(_commented(Settings(), []))
    after = with_limits(before, LIMITS)
    assert tomllib.loads(after) == tomllib.loads(before) | {"gate": LIMITS}
    changed = [line for line in after.splitlines() if line not in before.splitlines()]
    assert changed == [f"{name} = {limit:g}" for name, limit in LIMITS.items()]
    assert len(after.splitlines()) == len(before.splitlines())
    assert with_limits(after, LIMITS) == after


@given(
    st.lists(st.sampled_from(["min_accuracy", "max_regression"]), unique=True),
    st.sampled_from(["", "# a note\n", "\n\n"]),
    st.sampled_from(["", "[schedule]\ncron = '0 4 * * 1'\n", "[recipe]\nepochs = 3 # min_accuracy = 5\n"]),
    st.booleans(),
)
def test_everything_else_in_the_file_stays(present: list[str], note: str, after: str, has_gate: bool) -> None:
    lines = "".join(f"{name} = 0.5 # why\n" for name in present)
    gate = f"[gate] # ours\n{note}{lines}" if has_gate else ""
    text = f'model = "letters"\n{note}{gate}{after}'
    changed = with_limits(text, LIMITS)
    parsed = tomllib.loads(text)
    assert tomllib.loads(changed) == parsed | {"gate": LIMITS}
    kept = [line for line in text.splitlines() if line and not line.startswith(("min_accuracy", "max_regression"))]
    assert [line for line in changed.splitlines() if line in kept][: len(kept)] == kept


@pytest.mark.parametrize(
    "text", ["gate.min_accuracy = 0.5\n", "gate = { min_accuracy = 0.5 }\n", 'a = """\n[gate]\n"""\n']
)
def test_a_file_that_is_laid_out_otherwise_is_left_alone(text: str) -> None:
    with pytest.raises(UsageError, match=r"Write them: min_accuracy = 0.951; "):
        with_limits(text, LIMITS)


@pytest.mark.parametrize("count", ["4", "101", "many", "-5"])
def test_a_number_of_seeds_that_tells_nothing_is_refused(count: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["calibrate", "--seeds", count])
    assert "is not a number of seeds: 5 to 100" in capsys.readouterr().err
