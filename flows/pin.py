"""Trains the seeds of a pinned version, by whose mean every candidate is judged for years.

Its trainings are those of `flows.retrain`, under the same cache keys. Started by `retrain pin`.
"""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.data import Choice, batches_of_run, prepare
from flows.seeds import complete, known_seeds
from tasks.caching.steps import Run
from tasks.evaluate import evaluate_published
from tasks.gate.baselines import read_version
from tasks.learning import model_file
from tasks.learning.device import resolve
from tasks.registry import Registry
from tasks.running.liveness import beats
from tasks.settings import Data, DeviceChoice, StoreAddress, TrainOn
from tasks.storage.probe import check, folders_of_run


@flow(name="pin")
@beats
def pin(
    model: str,
    version: int,
    seeds: int,
    data: Data,
    device: DeviceChoice = "auto",
    train_on: TrainOn = "here",
    store: StoreAddress = "./store",
) -> State[int]:
    """Train the seeds of a version that are missing, and keep what they answer; the result is how many are known.

    Args:
        model: The model's name.
        version: The version.
        seeds: How many it needs.
        data: What its candidates are tested on.
        device: Where to train, as for `flows.retrain`.
        train_on: Which machine trains.
        store: Where results and versions are stored.
    """
    run = Run(id=str(flow_run.id), url=store, series=model)
    check(run.store, folders_of_run(model, judges_only=True))
    kind = resolve(device, train_on)

    prepared, _ = prepare(data, batches_of_run(model, data, Choice(), run), run)
    registry = Registry(run.store, model, check_model=model_file.check)
    reference = read_version("reference", version, prepared, registry, evaluate_published, run)
    if complete(reference, seeds, prepared.test, kind, train_on, run):
        reference = read_version("reference", version, prepared, registry, evaluate_published, run)
    return Completed(data=known_seeds(reference, run))
