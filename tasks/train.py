"""The train step: fit the network on the prepared images, here or on a worker of the work pool."""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime

from tasks.caching.keys import installed
from tasks.caching.steps import Run, step
from tasks.data.arrays import Split, from_npy
from tasks.learning.checkpoints import Checkpoints
from tasks.learning.device import describe
from tasks.learning.model_file import to_bytes, weights_digest
from tasks.learning.plan import TrainingPlan
from tasks.learning.training import fit
from tasks.learning.work_pool import is_crash, train_on_pool
from tasks.report.prefect_artifacts import Progress
from tasks.settings import TrainOn
from tasks.values import Device, Epoch, Examples, Trained

LOG = logging.getLogger("retrain.train")

PACKAGES = ("keras", "numpy", "tensorflow")


@step(
    packages=PACKAGES,
    not_in_key=["train_on"],
    checkpoints=True,
    run_elsewhere=train_on_pool,
    retries=3,
    retry_delay_seconds=[10, 60, 300],
    retry_condition_fn=is_crash,
)
def train(plan: TrainingPlan, train_on: TrainOn, run: Run) -> Trained:
    """Train on the prepared examples and keep the model file; on the machine that `train_on` names."""
    images, watched = _read(plan.examples, run), _read(plan.validation, run) if plan.validation else None
    here, epochs = describe(plan.device), plan.recipe.epochs
    LOG.info("train: on the %s %s, %s images", here.kind.upper(), here.name, f"{len(images.labels):,}")
    with Progress("train", f"Epochs of {epochs}") as progress:
        fitted = fit(
            images,
            plan.recipe,
            plan.device.kind,
            watched,
            Checkpoints(run.store, f"{train.key(plan, train_on, run)}/{_bits(here)}"),
            lambda number, epoch: progress.show(number / epochs, _line(number, epochs, epoch)),
        )
    return Trained(
        model=run.artifacts.put(to_bytes(fitted.model), "application/vnd.keras"),
        weights_digest=weights_digest(fitted.model),
        parameters=fitted.model.count_params(),
        history=fitted.history,
        device=here,
        packages={name: found for name in PACKAGES if (found := installed(name))},
        finished=datetime.now(UTC).replace(microsecond=0),
    )


def _read(examples: Examples, run: Run) -> Split:
    return Split(from_npy(run.artifacts.get(examples.images)), from_npy(run.artifacts.get(examples.labels)))


def _bits(device: Device) -> str:
    """What of a device the key does not tell, though it changes the bits: a training goes on where it began."""
    return re.sub(r"[^A-Za-z0-9]+", "-", device.name) if device.kind == "gpu" else "cpu"


def _line(number: int, epochs: int, epoch: Epoch) -> str:
    watched = "" if epoch.validation_loss is None else f"  validation {epoch.validation_accuracy:.4f}"
    return (
        f"epoch {number}/{epochs}  loss {epoch.loss:.4f}  accuracy {epoch.accuracy:.4f}{watched}  {epoch.seconds:.1f} s"
    )
