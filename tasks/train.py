"""The train step: trains the network on the prepared images, here or on a worker of the work pool.

Called by `flows.seeds` and, on a worker, by `flows.train`. Imports TensorFlow when it really trains.
"""

from __future__ import annotations

import logging
import platform
import re
from collections.abc import Callable
from datetime import UTC, datetime

from tasks.caching.keys import installed
from tasks.caching.steps import Run, step
from tasks.data.arrays import Split, from_npy, read_split
from tasks.errors import NetworkError
from tasks.learning import model_file
from tasks.learning.checkpoints import Checkpoints
from tasks.learning.device import describe
from tasks.learning.network import code, inputs_for
from tasks.learning.plan import TrainingPlan
from tasks.learning.training import fit
from tasks.learning.work_pool import is_crash, train_on_pool
from tasks.running.prefect_artifacts import LogArtifact
from tasks.settings import TrainOn
from tasks.values import KERAS, Artifact, Device, Epoch, Examples, Trained

LOG = logging.getLogger("retrain.train")

PACKAGES = ("keras", "numpy", "tensorflow")


def _fits(result: Trained, read: Callable[[Artifact], bytes], plan: TrainingPlan, *_: object) -> None:
    taken, returned = model_file.check(read(result.model)).shapes
    classes = int(from_npy(read(plan.examples.labels)).max()) + 1
    if taken not in inputs_for(plan.shape) or returned != (classes,):
        raise ValueError("its model is one of other images")
    if len(result.history) != plan.recipe.epochs:
        raise ValueError(f"it has {len(result.history)} epochs instead of {plan.recipe.epochs}")


@step(
    packages=PACKAGES,
    not_in_key=["train_on"],
    checkpoints=True,
    fits=_fits,
    run_elsewhere=train_on_pool,
    retries=3,
    retry_delay_seconds=[10, 60, 300],
    retry_condition_fn=is_crash,
)
def train(plan: TrainingPlan, train_on: TrainOn, run: Run) -> Trained:
    """Train on the machine that `train_on` names, and store the model file.

    Raises:
        NetworkError: The recipe's own network cannot be used on this machine.
        TrainingError: The training diverged, or memory ran out.
        DispatchError: The training on the work pool ended without a result.
    """
    _require_same_code(plan)
    images = _read(plan.examples, plan, run)
    validation = _read(plan.validation, plan, run) if plan.validation else None
    device, epochs = describe(plan.device), plan.recipe.epochs
    with LogArtifact(LOG, "train", run.series):
        where = f"{platform.node()}, the {device.kind.upper()} {device.name}"
        LOG.info("train: started on %s, %s images", where, f"{len(images.labels):,}")
        fitted = fit(
            images,
            plan.recipe,
            plan.device.kind,
            validation,
            Checkpoints(run.store, f"{train.key(plan, train_on, run)}/{_checkpoint_device(device)}"),
            lambda number, epoch: LOG.info("train: %3.0f %% %s", 100 * number / epochs, _line(number, epochs, epoch)),
        )
    return Trained(
        model=run.artifacts.put(model_file.to_bytes(fitted.model), KERAS),
        weights_digest=model_file.weights_digest(fitted.model),
        parameters=fitted.model.count_params(),
        history=fitted.history,
        device=device,
        packages={name: version for name in PACKAGES if (version := installed(name))},
        finished=datetime.now(UTC).replace(microsecond=0),
    )


def _require_same_code(plan: TrainingPlan) -> None:
    """On a worker the module of somebody's own network may be another one than on the machine of the run."""
    if code(plan.recipe.network) != plan.code:
        raise NetworkError(
            f"cannot use the network {plan.recipe.network}",
            f"its code on {platform.node()} is not that of the run that waits for the training",
            "Install the same version on every machine that trains.",
        )


def _read(examples: Examples, plan: TrainingPlan, run: Run) -> Split:
    images, labels = read_split(examples, run.artifacts.get)
    return Split(images.reshape(-1, *plan.shape), labels)


def _checkpoint_device(device: Device) -> str:
    """What changes the weights and is not in the key: the GPU's model. A training resumes only on the same one."""
    return re.sub(r"[^A-Za-z0-9]+", "-", device.name) if device.kind == "gpu" else "cpu"


def _line(number: int, epochs: int, epoch: Epoch) -> str:
    validation = "" if epoch.validation_loss is None else f"  validation {epoch.validation_accuracy:.4f}"
    metrics = f"loss {epoch.loss:.4f}  accuracy {epoch.accuracy:.4f}{validation}"
    return f"epoch {number}/{epochs}  {metrics}  {epoch.seconds:.1f} s"
