"""Trainings that are killed: real processes, SIGKILL, and another process that resumes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.learning.model_file import weights_digest
from tasks.learning.training import fit
from tests.tasks.learning.test_training import RECIPE, examples

LONG = RECIPE.model_copy(update={"epochs": 5})

# Trains in a process of its own and kills it at the given moment: before an epoch's checkpoint is written, or after.
KILLED = """
import os, signal, sys
from tasks.learning.checkpoints import Checkpoints
from tasks.storage import open_store
from tasks.learning.training import fit
from tests.faults.test_training import LONG
from tests.tasks.learning.test_training import examples

store, epoch, moment = sys.argv[1], int(sys.argv[2]), sys.argv[3]

class Deadly(Checkpoints):
    def keep(self, checkpoint):
        if moment == "before" and len(checkpoint.history) == epoch:
            os.kill(os.getpid(), signal.SIGKILL)
        super().keep(checkpoint)
        if moment == "after" and len(checkpoint.history) == epoch:
            os.kill(os.getpid(), signal.SIGKILL)

fit(examples(), LONG, checkpoints=Deadly(open_store(store), "train/key/cpu"))
"""

# Resumes in another process, and prints the digest of the weights and the losses.
RESUMED = """
import json, logging, sys
from tasks.learning.checkpoints import Checkpoints
from tasks.learning.model_file import weights_digest
from tasks.storage import open_store
from tasks.learning.training import fit
from tests.faults.test_training import LONG
from tests.tasks.learning.test_training import examples

logging.basicConfig(level="INFO", format="%(message)s")
fitted = fit(examples(), LONG, checkpoints=Checkpoints(open_store(sys.argv[1]), "train/key/cpu"))
print(json.dumps([weights_digest(fitted.model), [epoch.loss for epoch in fitted.history]]))
"""


def python(code: str, *arguments: str, **options: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), **options}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=150)


@pytest.fixture(scope="module")
def uninterrupted() -> tuple[str, list[float]]:
    fitted = fit(examples(), LONG)
    return weights_digest(fitted.model), [epoch.loss for epoch in fitted.history]


@pytest.mark.parametrize(
    ("epoch", "moment", "resumes"),
    [(2, "before", 1), pytest.param(3, "after", 3, marks=pytest.mark.nightly), (5, "after", 5)],
)
def test_a_training_that_is_killed_goes_on_elsewhere_and_ends_with_the_same_bits(
    tmp_path: Path, uninterrupted: tuple[str, list[float]], epoch: int, moment: str, resumes: int
) -> None:
    store = str(tmp_path / "store")
    killed = python(KILLED, store, str(epoch), moment, PYTHONHASHSEED="1")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (tmp_path / "elsewhere").mkdir()
    resumed = python(RESUMED, store, PYTHONHASHSEED="2", TMPDIR=str(tmp_path / "elsewhere"))
    assert resumed.returncode == 0, resumed.stderr
    assert f"train: resumes after epoch {resumes} of 5" in resumed.stderr
    assert json.loads(resumed.stdout.splitlines()[-1]) == list(uninterrupted)


# Trains once, then again with a memory limit that is really exceeded.
STARVED = """
import resource
from tasks.errors import RetrainError
from tasks.learning.training import fit
from tests.tasks.learning.test_training import RECIPE, examples

fit(examples(), RECIPE)
many = examples(60_000)
try:
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 100_000_000,) * 2)
    fit(many, RECIPE.model_copy(update={"batch_size": 60_000}))
except RetrainError as error:
    print(error)
"""


def test_memory_that_runs_out_is_one_clear_line() -> None:
    done = python(STARVED)
    assert done.returncode == 0, done.stderr
    line = "cannot train: memory ran out. Use a smaller --batch-size or a larger machine."
    assert done.stdout.splitlines()[-1].startswith(line)
