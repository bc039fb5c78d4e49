"""Proposes the limits of the gate for data that nobody knows: trains several seeds, and sees how far they differ.

Its trainings are those of `flows.retrain`, under the same cache keys, so runs with these seeds reuse them. Started by
`retrain calibrate`.
"""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.data import Choice, batches_of_run, prepare
from flows.seeds import Seeds, training_plan
from tasks.caching.steps import Run
from tasks.gate.limits import Proposal, propose
from tasks.learning.device import resolve
from tasks.running.liveness import beats
from tasks.settings import Data, DeviceChoice, Recipe, StoreAddress, TrainOn
from tasks.storage.probe import check, folders_of_run


@flow(name="calibrate")
@beats
def calibrate(
    model: str,
    data: Data,
    recipe: Recipe,
    seeds: int,
    one_seed: bool = False,
    device: DeviceChoice = "auto",
    train_on: TrainOn = "here",
    store: StoreAddress = "./store",
) -> State[list[Proposal]]:
    """Train seeds of a recipe, and propose the limits that its healthy retrainings rarely fail.

    Args:
        model: The model's name.
        data: What to learn from.
        recipe: How to train; its seed is the first one.
        seeds: How many to train.
        one_seed: Whether verdicts are to compare two models, and not two recipes.
        device: Where to train, as for `flows.retrain`.
        train_on: Which machine trains.
        store: Where results are stored.
    """
    run = Run(id=str(flow_run.id), url=store, series=model)
    check(run.store, folders_of_run(model, judges_only=True))
    kind = resolve(device, train_on)

    prepared, _ = prepare(data, batches_of_run(model, data, Choice(), run), run)
    trained = Seeds(training_plan(prepared, recipe, kind), prepared.test, train_on, run)
    trained.at_least(seeds)
    predicted, labels = trained.predicted()
    return Completed(data=propose(predicted == labels, labels, one_seed))
