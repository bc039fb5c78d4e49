"""The job: download → preprocess → train → evaluate → load back → export → judge → report → record → publish.

The result of a step is reused unless its inputs or its code changed, on any machine that opens the same store. Started
by `retrain run`, from the Prefect interface, or by a schedule.
"""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

from flows.seeds import evaluate_median, train_seeds
from flows.states import nothing_published, published
from flows.turn import gives_way
from tasks.caching.steps import Run
from tasks.download import download
from tasks.export import export_candidate
from tasks.gate.baselines import open_baselines
from tasks.judge import find_baselines, judge, report_facts
from tasks.learning.device import resolve
from tasks.load_back import load_back_candidate
from tasks.preprocess import preprocess
from tasks.publish import publish
from tasks.record import record
from tasks.report.provenance import provenance
from tasks.report.step import report
from tasks.running.liveness import beats
from tasks.settings import (
    Data,
    DeviceChoice,
    GateSettings,
    RecipeSettings,
    Seeds,
    StepName,
    TrainOn,
    defaults_for,
    judges_only,
)
from tasks.storage.probe import check, folders_of_run
from tasks.values import Outcome


def _name() -> str:
    data, chosen, gate, seeds = (flow_run.parameters[name] for name in ("data", "recipe", "gate", "seeds"))
    recipe, _ = defaults_for(data.dataset, chosen, gate)
    more = f" and {seeds - 1} more" if seeds > 1 else ""
    return f"{data.dataset}, {recipe.epochs} epochs, seed {recipe.seed}{more}"


@flow(name="retrain", flow_run_name=_name)
@beats
@gives_way
def retrain(
    data: Data = Data(),
    recipe: RecipeSettings = RecipeSettings(),
    gate: GateSettings = GateSettings(),
    device: DeviceChoice = "auto",
    train_on: TrainOn = "here",
    seeds: Seeds = 1,
    store: str = "./store",
    refresh: tuple[StepName, ...] = (),
    dry_run: bool = False,
    require_champion: bool = False,
    baseline: str = "",
    force_publish: str = "",
) -> State[Outcome]:
    """Retrain the model and publish it if it passes the gate.

    Args:
        data: What to learn from.
        recipe: How to train.
        gate: What a model must reach to be published.
        device: Where to train: auto takes a GPU where there is one, gpu fails without one.
        train_on: Which machine trains: here, this run's own; pool, a worker of the work pool retrain-training.
        seeds: How many seeds to train, from the recipe's on; the median model by accuracy is judged.
        store: Where results, models and reports are stored: s3://bucket/prefix, file:///folder or a path.
        refresh: Steps to compute again instead of reusing their cached results.
        dry_run: Judge only: publish nothing, also if the model passes the gate.
        require_champion: Fail before the training if there is no champion to compare with.
        baseline: Another store, which is only read: its champion is what the model is compared with. Implies dry_run
            and require_champion; empty: the run's own store.
        force_publish: Publish even if the gate rejects the model, for this reason; empty: never. It is recorded.
    """
    dry_run = judges_only(dry_run, baseline, force_publish)
    run = Run(id=str(flow_run.id), url=store, refresh=refresh)
    capabilities = check(run.store, folders_of_run(data.dataset, dry_run))  # before a training is spent
    versions = open_baselines(data.dataset, baseline, require_champion, capabilities, run)
    kind = resolve(device, train_on)
    plan, limits = defaults_for(data.dataset, recipe, gate)

    source = download(data.dataset, data.mirror, run)
    prepared = preprocess(source.files, data.validation_fraction, data.split_seed, run)
    trainings = train_seeds(prepared, plan, seeds, kind, train_on, run)
    candidate = evaluate_median(trainings, prepared, run)
    candidate = export_candidate(load_back_candidate(candidate, run), run)
    origin = provenance(source.source, run.seconds)

    receipt = None
    while receipt is None:  # once, unless another run changes the champion between judging and publishing
        baselines = find_baselines(candidate, versions, run)
        decision = judge(candidate, baselines, limits, force_publish, run)
        facts = report_facts(candidate, decision, baselines, origin, run)
        reports = report(facts, run)
        recorded = record(prepared.dataset, decision, reports, run)
        if decision.verdict != "publish" or dry_run:
            return nothing_published(decision, baselines, recorded, run)
        receipt = publish(facts, reports, baselines, capabilities, run).receipt
    return published(decision, receipt, recorded, run)
