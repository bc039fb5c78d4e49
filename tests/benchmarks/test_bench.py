"""The benchmark's own code runs: real processes, small data, no expectation of any time."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import pytest

from tests.benchmarks import bench
from tests.benchmarks.bench import Measured, measure, rounds, steps, table
from tests.mirrors import gzipped, small_mnist


def test_the_largest_process_of_the_tree_is_measured() -> None:
    # A child's peak counts from its parent's, which other tests have raised.
    mine = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    grandchild = f"x = b'x' * {(mine + 50) * 2**20}"
    child = f"import os, subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}], check=True)"
    found = measure([sys.executable, "-c", f"{child}; print(os.environ['GIVEN'])"], {"GIVEN": "a"})
    assert found.printed == "a\n"
    assert found.seconds > 0
    assert found.megabytes > mine + 50


def test_a_failing_process_stops_the_benchmark() -> None:
    with pytest.raises(RuntimeError, match="exited with 1: why"):
        measure([sys.executable, "-c", "raise SystemExit('why')"], {})


def test_the_reference_reads_a_mirrors_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, answer in gzipped(small_mnist()).items():
        (tmp_path / name).write_bytes(answer.body)
    monkeypatch.setattr(bench, "BESIDE", tmp_path)
    assert bench.arrays(tmp_path.as_uri(), tmp_path / "copy") == tmp_path
    assert bench.arrays(None, tmp_path / "copy") == tmp_path
    found = measure([sys.executable, "-m", "tests.benchmarks.reference", str(tmp_path)], {})
    assert 0 < float(found.printed) <= 1


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
