"""The job: download → preprocess → train → evaluate → load back → export → judge → report → record → publish.

The result of a step is reused unless its inputs or its code changed, on any machine that opens the same store. Started
by `retrain run`, from the Prefect interface, or by a schedule.
"""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

from flows.data import Choice, batches_of_run, enter, prepare, refused_batches
from flows.parameters import keeps_no_secret
from flows.seeds import Seeds, gather_evidence, training_plan
from flows.states import nothing_published, published
from flows.turn import gives_way
from tasks.caching.steps import Run
from tasks.export import export_candidate
from tasks.gate.baselines import open_baselines
from tasks.judge import judge, report_facts
from tasks.learning.device import resolve
from tasks.load_back import load_back_candidate
from tasks.publish import publish
from tasks.record import record
from tasks.report.formatting import count
from tasks.report.provenance import provenance
from tasks.report.step import report
from tasks.running.liveness import beats
from tasks.settings import (
    ONE_SEED,
    BatchLimits,
    BatchName,
    Data,
    DeviceChoice,
    GateSettings,
    ModelName,
    RecipeSettings,
    SeedsSetting,
    StepName,
    StoreAddress,
    TrainOn,
    gate_for,
    has_batches,
    judges_only,
    model_name,
    recipe_for,
)
from tasks.storage.probe import check, folders_of_run
from tasks.values import Outcome


def _series(model: str, only_judges: bool) -> str:
    return f"{model}{' dry run' if only_judges else ''}"


def _name() -> str:
    chosen = flow_run.parameters
    source, recipe = chosen["data"].source, recipe_for(chosen["data"].source, chosen["recipe"])
    seeds = "" if chosen["seeds"] == ONE_SEED else f", {chosen['seeds']} seeds"
    series = _series(chosen["model"] or source, bool(chosen["dry_run"] or chosen["baseline"]))
    return f"{series}, {count(recipe.epochs, 'epoch')}, seed {recipe.seed}{seeds}"


@flow(name="retrain", flow_run_name=_name)
@beats
@gives_way
@keeps_no_secret
def retrain(
    data: Data = Data(),
    recipe: RecipeSettings = RecipeSettings(),
    gate: GateSettings = GateSettings(),
    device: DeviceChoice = "auto",
    train_on: TrainOn = "here",
    seeds: SeedsSetting = "1..5",
    store: StoreAddress = "./store",
    refresh: tuple[StepName, ...] = (),
    dry_run: bool = False,
    require_champion: bool = False,
    baseline: StoreAddress = "",
    force_publish: str = "",
    approve: bool = False,
    model: ModelName = "",
    batches: BatchLimits = BatchLimits(),
    until: BatchName = "",
    without: tuple[BatchName, ...] = (),
    accept_changed: tuple[BatchName, ...] = (),
) -> State[Outcome]:
    """Retrain the model and publish it if it passes the gate.

    Args:
        data: What to learn from.
        recipe: How to train.
        gate: What a model must reach to be published.
        device: Where to train: auto takes a GPU where there is one, gpu fails without one.
        train_on: Which machine trains: here, this run's own; pool, a worker of the work pool retrain-training.
        seeds: How many seeds to train, from the recipe's on: 1..5, as many as the verdict needs; 5, always five. The
            median model by accuracy is published.
        store: Where results, models and reports are stored: s3://bucket/prefix, file:///folder or a path.
        refresh: Steps to compute again instead of reusing their cached results.
        dry_run: Judge only: publish nothing, also if the model passes the gate.
        require_champion: Fail before the training if there is no champion to compare with.
        baseline: Another store, which is only read: its champion is what the model is compared with. Implies dry_run
            and require_champion; empty: the run's own store.
        force_publish: Publish even if the gate rejects the model, for this reason; empty: never. It is recorded.
        approve: A model that passes the gate waits until a person approves it.
        model: The model's name in the store and in Prefect; empty: that of a known data set.
        batches: What a new batch of a source that grows must reach before a model learns from it.
        until: The last batch to learn from, of a source that grows; empty: the last one there is.
        without: Batches to leave out, now and in all later runs.
        accept_changed: Batches that may be read again, though they changed after a model had learned from them.
    """
    dry_run, model = judges_only(dry_run, baseline, force_publish), model_name(model, data.source)
    run = Run(str(flow_run.id), store, refresh, _series(model, dry_run), only_judges=dry_run)
    capabilities = check(run.store, folders_of_run(model, dry_run, has_batches(data.source)))
    versions = open_baselines(model, baseline, require_champion, capabilities, run)
    kind = resolve(device, train_on)
    plan, limits = recipe_for(data.source, recipe), gate_for(data.source, gate, seeds)

    collected = batches_of_run(model, data, Choice(until, without, accept_changed), run)
    if refused := refused_batches(model, collected, versions, batches, run):  # before a training is spent
        return refused
    prepared, source = prepare(data, collected, run)
    trainings = Seeds(training_plan(prepared, plan, kind), prepared.test, train_on, run)

    receipt = None
    while receipt is None:  # once, unless another run changes the champion between judging and publishing
        candidate, baselines, stages = gather_evidence(model, prepared, trainings, seeds, limits, versions)
        enter(model, collected, dry_run, run)
        candidate = export_candidate(load_back_candidate(candidate, run), run)
        origin = provenance(source.source, run.seconds)
        decision = judge(candidate, baselines, stages, limits, force_publish, run)
        facts = report_facts(candidate, decision, baselines, origin, run)
        reports = report(facts, run)
        recorded = record(facts, decision, reports, baselines, run)
        if decision.verdict != "publish" or dry_run:
            return nothing_published(decision, baselines, recorded, run)
        receipt = publish(facts, reports, baselines, capabilities, limits, approve, run).receipt
    return published(decision, receipt, recorded, run)
