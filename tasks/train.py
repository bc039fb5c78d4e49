"""The train step: trains the network on the prepared images, here or on a worker of the work pool.

Called by `flows.seeds` and, on a worker, by `flows.train`. Imports TensorFlow when it really trains.
"""

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
    """Train on the machine that `train_on` names, and store the model file.

    Raises:
        TrainingError: The training diverged, or memory ran out.
        DispatchError: The training on the work pool ended without a result.
    """
    images, validation = _read(plan.examples, run), _read(plan.validation, run) if plan.validation else None
    device, epochs = describe(plan.device), plan.recipe.epochs
    LOG.info("train: on the %s %s, %s images", device.kind.upper(), device.name, f"{len(images.labels):,}")
    with Progress("train", f"Epochs of {epochs}") as progress:
        fitted = fit(
            images,
            plan.recipe,
            plan.device.kind,
            validation,
            Checkpoints(run.store, f"{train.key(plan, train_on, run)}/{_checkpoint_device(device)}"),
            lambda number, epoch: progress.show(number / epochs, _line(number, epochs, epoch)),
        )
    return Trained(
        model=run.artifacts.put(to_bytes(fitted.model), "application/vnd.keras"),
        weights_digest=weights_digest(fitted.model),
        parameters=fitted.model.count_params(),
        history=fitted.history,
        device=device,
        packages={name: version for name in PACKAGES if (version := installed(name))},
        finished=datetime.now(UTC).replace(microsecond=0),
    )


def _read(examples: Examples, run: Run) -> Split:
    return Split(from_npy(run.artifacts.get(examples.images)), from_npy(run.artifacts.get(examples.labels)))


def _checkpoint_device(device: Device) -> str:
    """What changes the weights and is not in the key: the GPU's model. A training resumes only on the same one."""
    return re.sub(r"[^A-Za-z0-9]+", "-", device.name) if device.kind == "gpu" else "cpu"


def _line(number: int, epochs: int, epoch: Epoch) -> str:
    validation = "" if epoch.validation_loss is None else f"  validation {epoch.validation_accuracy:.4f}"
    metrics = f"loss {epoch.loss:.4f}  accuracy {epoch.accuracy:.4f}{validation}"
    return f"epoch {number}/{epochs}  {metrics}  {epoch.seconds:.1f} s"
