"""One training for a run that waits for it elsewhere: `train/worker`, on the work pool `retrain-training`.

The result goes to the store, under the cache key by which the waiting run reads it; the flow returns no data. Started
by `tasks.learning.work_pool`. On a machine without the expected device it fails within seconds.
"""

from __future__ import annotations

import logging
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from tasks.caching.steps import Run
from tasks.errors import RetrainError
from tasks.learning.device import require
from tasks.learning.plan import TrainingPlan
from tasks.report.formatting import count
from tasks.running.liveness import beats
from tasks.train import train

LOG = logging.getLogger("retrain.train")


@flow(name="train")
@beats
def train_here(plan: TrainingPlan, store: str, refresh: bool = False, series: str = "") -> State[Any]:
    """Train for a run that waits elsewhere. Fails with the message of the error, which the waiting run shows.

    Args:
        plan: The images as artifacts of the store, the recipe, and the kind of device that the waiting run expects.
        store: Where the artifacts are and the result is stored.
        refresh: Train again even if the result is stored already.
        series: Names what the run shows in Prefect's interface.
    """
    try:
        require(plan.device)
        again = ("train",) if refresh else ()
        run = Run(id=str(flow_run.id), url=store, refresh=again, series=series, resumes=True)
        trained = train(plan, "here", run)
    except RetrainError as error:
        LOG.error("train: %s", error)
        return Failed(message=str(error))
    epochs, device = count(len(trained.history), "epoch"), trained.device
    return Completed(message=f"{epochs} on the {device.kind.upper()} {device.name}")
