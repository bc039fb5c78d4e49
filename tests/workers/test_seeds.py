"""The benchmark of several seeds, with a real server and two workers; it ends the processes that it has started."""

from __future__ import annotations

import psutil
import pytest

from tests.benchmarks import seeds


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_seeds_are_measured_here_and_over_the_pool(capsys: pytest.CaptureFixture[str]) -> None:
    before = set(psutil.Process().children())
    seeds.main(["--dataset", "digits", "--seeds", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| 2 seeds",
        "|---|---|---|",
        f"| {seeds.HERE}",
        f"| {seeds.ONE}",
        f"| {seeds.TWO}",
    ]
    assert set(psutil.Process().children()) <= before
