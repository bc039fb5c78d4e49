"""Verdicts on trainings that no choice rests on, through the command itself: `retrain run --dry-run` in a store.

python -m tests.operating.fresh FOLDER    # FOLDER has the four files of MNIST; an hour or more, goes on where it ended
python -m tests.operating.fresh           # prints the table

The champion has five seeds, none of those of `seeds.json`, and stays. Each verdict has seeds of its own. In each round
two candidates are healthy, and one each has 3 epochs instead of 5, half of the images, 2 % of its labels wrong.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from tasks.data.idx import decode, encode
from tasks.settings import Gate

FRESH = Path(__file__).with_name("fresh.json")
ROUNDS, CHAMPION = 30, 10_000
WRONG, LABELS = 0.02, "train-labels-idx1-ubyte"


def main() -> None:
    """Train and judge; keep each verdict at once."""
    folder = Path(sys.argv[1]).absolute()
    kept = json.loads(FRESH.read_text()) if FRESH.exists() else []
    with tempfile.TemporaryDirectory() as temporary:
        store = Path(temporary)
        wrong = _with_wrong_labels(folder, store / "wrong")
        mnist = ["--mirror", folder.as_uri()]
        champion = _run(store, [*mnist, "--seeds", "5", "--seed", str(CHAMPION)])
        kept = kept or [{"recipe": "champion", "seed": CHAMPION} | champion]
        for number, (recipe, options) in zip(count(), _candidates(mnist, wrong), strict=False):
            if number >= len(kept) - 1:
                seed = CHAMPION + 100 + 5 * number
                outcome = _run(store, [*options, "--dry-run", "--seed", str(seed)])
                kept.append({"recipe": recipe, "seed": seed} | outcome)
                write(kept)
                print(kept[-1], file=sys.stderr, flush=True)


def write(kept: list[dict[str, Any]]) -> None:
    """One verdict a line."""
    FRESH.write_text("[\n" + ",\n".join(map(json.dumps, kept)) + "\n]\n")


def table() -> list[str]:
    """The table for tasks/gate/README.md: of each recipe how many verdicts passed, and how many trainings they took.

    The mean loss is that of the first seeds to those of the healthy candidates; of the champion, that of all its seeds.
    """
    champion, *kept = json.loads(FRESH.read_text())
    healthy = fmean(each["accuracies"][0] for each in kept if each["recipe"] == "healthy")
    lines = ["| recipe | mean loss | verdicts | passed | trainings |", "|---|---|---|---|---|"]
    lines.append(f"| the champion's | {healthy - fmean(champion['accuracies']):.4f} |  |  | {_seeds(champion):.1f} |")
    for recipe in dict.fromkeys(each["recipe"] for each in kept):
        verdicts = [each for each in kept if each["recipe"] == recipe]
        loss = healthy - fmean(each["accuracies"][0] for each in verdicts)
        passed, trainings = sum(each["verdict"] == "passed" for each in verdicts), fmean(map(_seeds, verdicts))
        lines.append(f"| {recipe} | {loss:.4f} | {len(verdicts)} | {passed} | {trainings:.1f} |")
    return lines


def _seeds(verdict: dict[str, Any]) -> int:
    return len(verdict["accuracies"])


def _candidates(mnist: list[str], wrong: Path) -> Iterator[tuple[str, list[str]]]:
    limits = [f"--{name.replace('_', '-')}={limit}" for name, limit in Gate().model_dump().items()]
    for _ in range(ROUNDS):
        yield "healthy", mnist
        yield "3 epochs", [*mnist, "--epochs", "3"]
        yield "healthy", mnist
        yield "half of the images", [*mnist, "--validation-fraction", "0.5"]
        yield "2 % of the labels wrong", ["--source", str(wrong), "--model", "mnist", *limits]


def _run(store: Path, options: list[str]) -> dict[str, Any]:
    """What the command says: the verdict, and how many seeds it took."""
    start = "import sys; from flows.cli.start import start; sys.exit(start())"
    done = subprocess.run(
        [sys.executable, "-c", start, "run", "--json", "--store", str(store / "store"), *options],
        env=os.environ | {"RETRAIN_CONFIG": os.devnull},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in {0, 3}:
        raise RuntimeError(done.stderr)
    outcome = json.loads(done.stdout)
    report = json.loads((store / "store/runs" / outcome["run"] / "report.json").read_text())
    failed = [check["name"] for check in outcome["decision"]["checks"] if not check["passed"]]
    scores = report["spread"]["scores"] if report["spread"] else [report["evaluation"]]
    return {
        "verdict": outcome["verdict"],
        "failed": failed,
        "accuracies": [score["accuracy"] for score in scores],
    }


def _with_wrong_labels(folder: Path, copy: Path) -> Path:
    """MNIST with other labels for 2 % of the training images, drawn at random."""
    copy.mkdir()
    files = {file.name.removesuffix(".gz"): gzip.decompress(file.read_bytes()) for file in folder.glob("*-ubyte.gz")}
    labels, random = decode(files[LABELS], LABELS, (60_000,)).copy(), np.random.default_rng(0)
    chosen = random.choice(len(labels), round(WRONG * len(labels)), replace=False)
    labels[chosen] = (labels[chosen] + random.integers(1, 10, len(chosen))) % 10
    for name, data in (files | {LABELS: encode(labels)}).items():
        (copy / name).write_bytes(data)
    return copy


if __name__ == "__main__":
    main() if sys.argv[1:] else print("\n".join(table()))
