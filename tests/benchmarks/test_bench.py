"""The code of the benchmarks, with real processes and small data, and no expectation of any time.

PyTorch and JAX are not installed where the tests run, so the tests check that their rows are left out with a message.
The benchmark of several seeds needs a server and workers: see tests/workers/test_seeds.py.
"""

from __future__ import annotations

import json
import resource
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from prefect.settings import PREFECT_API_URL

from tests.benchmarks import bench, gpu, matmul, protocol, tables, training
from tests.benchmarks.measure import Measured, measure, rounds
from tests.benchmarks.peers import learned, peers
from tests.mirrors import gzipped, small_mnist


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mnist")
    for name, answer in gzipped(small_mnist()).items():
        (folder / name).write_bytes(answer.body)
    return folder


def test_the_largest_process_of_the_tree_is_measured() -> None:
    # A child's peak memory starts at its parent's, which other tests have raised.
    mine = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    grandchild = f"x = b'x' * {(mine + 50) * 2**20}"
    child = f"import os, subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}], check=True)"
    run = measure([sys.executable, "-c", f"{child}; print(os.environ['GIVEN'])"], {"GIVEN": "a"})
    assert run.printed == "a\n"
    assert run.seconds > 0
    assert run.megabytes > mine + 50


def test_a_failing_process_stops_the_benchmark() -> None:
    with pytest.raises(RuntimeError, match="exited with 1: why"):
        measure([sys.executable, "-c", "raise SystemExit('why')"], {})


def test_the_reference_reads_a_mirrors_files(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "BESIDE", data)
    assert bench.arrays(data.as_uri(), tmp_path / "copy") == data
    assert bench.arrays(None, tmp_path / "copy") == data
    result = protocol.parse(bench.script("reference", data).printed)
    assert 0 < result.accuracy <= 1
    assert len(result.epochs) == 5


def test_the_jobs_own_training_on_as_many_images_as_wanted(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training.main(data)
    training.main(data, 1500)
    recipe, one = map(protocol.parse, capsys.readouterr().out.splitlines())
    assert len(recipe.epochs) == 5
    assert one.epochs == (one.fit,)


def test_more_images_are_the_set_again_moved() -> None:
    images, labels = np.arange(1, 51, dtype=np.uint8).reshape(2, 25), np.array([3, 7], np.uint8)
    split = training.shifted(images, labels, 5)
    assert split.labels.tolist() == [3, 7, 3, 7, 3]
    assert (split.images[:2] == images).all()
    sets = [split.images[start : start + 1].tobytes() for start in (0, 2, 4)]
    assert len(set(sets)) == 3
    assert all(sorted(each) == sorted(sets[0]) for each in sets)


def test_a_scripts_line() -> None:
    assert protocol.parse(f"noise\n{protocol.line(0.98, [1.0, 4.0, 6.0])}\n") == (0.98, 5.0, 3.0, (3.0, 2.0))
    assert learned(Measured(1.0, 1.0, protocol.line(0.97, [0.0, 1.0]))).seconds == 1.0
    with pytest.raises(RuntimeError, match=r"did not reach an accuracy of 0\.97"):
        learned(Measured(1.0, 1.0, protocol.line(0.96, [0.0, 1.0])))


def test_what_there_is_no_package_for_is_left_out_aloud(tmp_path: Path) -> None:
    nothing = peers(None, tmp_path, tmp_path)
    assert not nothing.rows
    assert "Left out: JAX, an epoch one call: no --peers was given." in nothing.left_out
    here = peers(sys.executable, tmp_path, tmp_path)
    assert not here.rows
    assert "numpy" in here.versions
    assert f"Left out: PyTorch, eager: no torch for {sys.executable}." in here.left_out
    gone = peers(str(tmp_path / "python"), tmp_path, tmp_path)
    assert len(gone.left_out) == len(here.left_out) == 7
    assert "does not run" in gone.left_out[0]


def test_the_peers_that_there_are_have_rows(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho \'{"jax": "1.0"}\'\n')
    python.chmod(0o700)
    available = peers(str(python), tmp_path, tmp_path)
    assert list(available.rows) == ["JAX, an epoch one call", "JAX, an epoch one call, bf16"]
    assert len(available.left_out) == 5


def test_rows_take_turns_and_are_compared_round_by_round() -> None:
    order: list[str] = []

    def row(name: str, first: float, second: float, number: int) -> Measured:
        order.append(f"{name}{number}")
        printed = json.dumps({"steps": [{"name": "train", "seconds": 2.0}]})
        return Measured((first, second)[number], 100.0, printed)

    measured = rounds({"a": partial(row, "a", 2.0, 4.0), "b": partial(row, "b", 1.0, 4.0)}, 2)
    assert order == ["a0", "b0", "a1", "b1"]
    assert "| b | 2.5 (1.0 to 4.0) | 0.75 | 100 |" in tables.processes(measured)
    assert tables.steps(measured["a"]) == "train 2.0 s"


def test_trainings_are_compared_with_the_limit() -> None:
    runs = {
        "a": [Measured(9.0, 100.0, protocol.line(0.98, [0.0, 4.0, 6.0, 8.0]))],
        "b": [Measured(9.0, 100.0, protocol.line(0.97, [0.0, 2.0, 3.0, 4.0]))],
    }
    limit = 4 * 1000.0 * protocol.FLOPS_PER_IMAGE
    table = tables.trainings(runs, 1000, {"a": limit, "b": 10 * limit})
    assert "| a | 8.0 (8.0 to 8.0) | 1.00 | 4.0 s | 2.00 s | 12% | 0.9800 (0.9800 to 0.9800) |" in table
    assert "| b | 4.0 (4.0 to 4.0) | 0.50 | 2.0 s | 1.00 s | 2% | 0.9700 (0.9700 to 0.9700) |" in table


def test_memory_is_told_beyond_the_images() -> None:
    table = tables.scaling({1_000_000: [Measured(9.0, 1000.0, protocol.line(0.98, [0.0, 4.0]))]})
    assert "| 1,000,000 images | 4.0 | 250,000 | 1000 | 216 | 1 |" in table


def test_a_timeline_is_that_of_the_whole_run(tmp_path: Path, prefect_server: None) -> None:
    server = {"PREFECT_API_URL": PREFECT_API_URL.value() or ""}
    printed = bench.timeline(server, "--dataset", "digits", "--store", str(tmp_path / "store"))
    times = [float(line.split(" s ")[0]) for line in printed.splitlines()]
    assert times == sorted(times)
    parts = (
        "Python runs",
        "imports tensorflow",
        "train: started",
        "publish: digits version 1",
        "the process has ended",
    )
    assert [part for part in parts if part in printed] == list(parts)


def test_the_limits_are_positive() -> None:
    assert matmul.peak(64, 2) > 0
    assert matmul.peak(64, 2, bf16=True) > 0


def test_the_benchmark_of_a_gpu_runs_on_a_cpu(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main(data, 1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("CPU, TensorFlow ")
    assert "estimated" in lines[2]
    assert [line.split(" | ")[0] for line in lines[-2:]] == ["| data set on the device", "| the job's own training"]


def test_what_overlaps_is_work_once() -> None:
    assert gpu.union([(5.0, 1.0), (0.0, 2.0), (1.0, 2.0), (1.5, 0.5)]) == 4.0
    assert gpu.union([]) == 0
