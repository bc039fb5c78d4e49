from __future__ import annotations

import json
import sys

import pytest

from tests.benchmarks.bench import Measured, measure, rounds, steps, table


def test_a_process_is_measured_as_a_whole() -> None:
    found = measure(
        [sys.executable, "-c", "import os; x = bytes(50_000_000); print(os.environ['GIVEN'])"], {"GIVEN": "a"}
    )
    assert found.printed == "a\n"
    assert found.seconds > 0
    assert found.megabytes > 50


def test_a_failing_process_stops_the_benchmark() -> None:
    with pytest.raises(RuntimeError, match="exited with 3"):
        measure([sys.executable, "-c", "raise SystemExit(3)"], {})


def test_rows_take_turns_and_are_compared_round_by_round() -> None:
    order: list[str] = []

    def row(name: str, *seconds: float) -> Measured:
        order.append(name)
        printed = json.dumps({"steps": [{"name": "train", "seconds": 2.0}]})
        return Measured(seconds[order.count(name) - 1], 100.0, printed)

    found = rounds({"a": lambda: row("a", 2.0, 4.0), "b": lambda: row("b", 1.0, 4.0)}, 2)
    assert order == ["a", "b", "a", "b"]
    assert "| b | 2.5 (1.0 to 4.0) | 0.75 | 100 |" in table(found)
    assert steps(found["a"]) == "train 2.0 s"
