"""Whole runs as a user starts them: the quick start, an override, a run that only judges, the model card's lines."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from flows.cli.main import main
from tests.commands import digits, retrain, server
from tests.mirrors import serving

__all__ = ["digits", "server"]  # fixtures


def test_the_quick_start_falls_back_to_the_digits_and_says_so(
    digits: tuple[Path, subprocess.CompletedProcess[str]], server: dict[str, str]
) -> None:
    with serving({}) as mirror:
        closed = mirror.url
    arguments = ("run", "--store", str(digits[0]), "--or-digits")
    own = retrain(*arguments, RETRAIN_MIRROR=closed, **server)
    fallback = retrain(*arguments, HTTPS_PROXY=closed, **server)
    assert own.returncode == 1, "data of one's own are not replaced"
    assert own.stderr.splitlines()[-1].startswith(f"retrain: cannot download mnist: {closed}: cannot connect")
    assert fallback.returncode == 0, fallback.stderr
    assert "no mirror of MNIST can be reached: training on scikit-learn's digits" in fallback.stderr
    assert "digits version 1" in fallback.stdout


def test_the_lines_on_the_model_card_load_the_model(
    digits: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    assert main(["fetch", str(folder), "--store", str(digits[0]), "--dataset", "digits"]) == 0
    lines = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    done = subprocess.run(
        [sys.executable, "-c", f"{lines}\nprint(probabilities.shape, probabilities.dtype)"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "(1, 10) float32\n", done.stderr


def test_a_rejected_model_is_published_by_override_and_the_summary_says_so(
    digits: tuple[Path, subprocess.CompletedProcess[str]], server: dict[str, str], tmp_path: Path
) -> None:
    store = shutil.copytree(digits[0], tmp_path / "store")
    shutil.rmtree(store / "models")  # now the trained model is cached, and not published
    strict = ("--dataset", "digits", "--store", str(store), "--min-accuracy", "0.999")
    done = retrain("run", *strict, "--force-publish", "the audit wants it", **server)
    assert done.returncode == 0
    verdict = " ".join(done.stdout.split("\n\n")[-1].split())
    assert verdict.startswith("PUBLISHED digits version 1: accuracy 0.")
    assert "Rejected by the gate: accuracy" in verdict
    assert ". Published all the same by " in verdict
    assert verdict.endswith(": the audit wants it.")
    assert "FAIL  accuracy  " in done.stdout


def test_a_run_that_only_judges_says_so(
    digits: tuple[Path, subprocess.CompletedProcess[str]], server: dict[str, str], tmp_path: Path
) -> None:
    where = ("--dataset", "digits", "--store", str(tmp_path / "own"))
    versions = sorted((digits[0] / "models/digits").rglob("*"))
    missing = retrain("run", *where, "--baseline", str(tmp_path / "mistyped"), **server)
    assert missing.returncode == 1
    assert missing.stderr.splitlines()[-1] == (
        f"retrain: cannot compare with the champion of digits: there is none in {(tmp_path / 'mistyped').as_uri()}. "
        "Publish one there first, or check the store's address."
    )
    done = retrain("run", *where, "--baseline", str(digits[0]), "--seed", "1", "--max-regression", "0.1", **server)
    assert done.returncode == 0, done.stderr
    verdict = " ".join(done.stdout.split("\n\n")[-1].split())
    assert verdict.startswith("PASSED: accuracy 0.")
    assert verdict.endswith("Nothing was published (--dry-run).")
    assert "loss to champion v1" in done.stdout
    assert sorted((digits[0] / "models/digits").rglob("*")) == versions
    assert not (tmp_path / "own/models").exists()
