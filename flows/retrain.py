"""The job: download → preprocess → train → evaluate → judge → publish.

Each line below is one cached step: it runs if its inputs or its code changed, and is reused otherwise, on any machine
that opens the same store. Run it with `retrain run`, from the Prefect interface, or as a scheduled deployment.
"""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from flows.seeds import evaluate_median, train_seeds
from flows.summary import step_rows
from tasks.caching.steps import Run
from tasks.device import resolve
from tasks.download import download
from tasks.errors import GateRejected
from tasks.export import exported
from tasks.judge import judge
from tasks.load_back import loaded_back
from tasks.page import show_table
from tasks.preprocess import preprocess
from tasks.provenance import provenance
from tasks.publish import publish, record
from tasks.report.facts import Facts
from tasks.report.step import report
from tasks.report.words import accuracy_line, verdict_line
from tasks.rivals import as_published, compared, meet
from tasks.settings import Data, DeviceChoice, Gate, Recipe, Seeds, StepName, TrainOn, defaults_for
from tasks.storage.probe import check
from tasks.values import Decision, Outcome, Receipt, Record, Rivals


def _name() -> str:
    data, recipe, gate, seeds = (flow_run.parameters[name] for name in ("data", "recipe", "gate", "seeds"))
    recipe, _ = defaults_for(data.dataset, recipe, gate)
    more = f" and {seeds - 1} more" if seeds > 1 else ""
    return f"{data.dataset}, {recipe.epochs} epochs, seed {recipe.seed}{more}"


@flow(name="retrain", flow_run_name=_name)
def retrain(
    data: Data = Data(),
    recipe: Recipe = Recipe(),
    gate: Gate = Gate(),
    device: DeviceChoice = "auto",
    train_on: TrainOn = "here",
    seeds: Seeds = 1,
    store: str = "./store",
    refresh: tuple[StepName, ...] = (),
    force_publish: str = "",
) -> State[Outcome]:
    """Retrain the model and publish it if it passes the gate.

    Args:
        data: What to learn from.
        recipe: How to train.
        gate: What a model must reach to be published.
        device: Where to train: auto takes a GPU where there is one, gpu fails without one.
        train_on: Which machine trains: here, this run's own; gpu, a worker of the work pool gpu.
        seeds: How many seeds to train, from the recipe's on; the median model by accuracy is judged.
        store: Where results, models and reports are kept: s3://bucket/prefix, file:///folder or a path.
        refresh: Steps to compute anew instead of reusing their cached results.
        force_publish: Publish even if the gate rejects the model, for this reason; empty: never. It is recorded.
    """
    run = Run(id=str(flow_run.id), url=store, refresh=refresh)
    capabilities = check(run.store)  # a store that cannot be written should not cost a training first
    kind = resolve(device, train_on)
    recipe, gate = defaults_for(data.dataset, recipe, gate)

    source = download(data.dataset, data.mirror, run)
    prepared = preprocess(source.files, data.validation_fraction, data.split_seed, run)
    trainings = train_seeds(prepared, recipe, seeds, kind, train_on, run)
    recipe, trained, evaluation, spread = evaluate_median(trainings, prepared.test, run)
    loaded = loaded_back(trained.model, prepared.test, evaluation.predictions, run)
    portable = exported(trained.model, prepared.test, evaluation.predictions, run)
    origin = provenance(source.source, run.seconds)

    receipt = None
    while receipt is None:  # once, unless another run changes the champion between its judgement and its publish
        rivals = meet(prepared, trained, capabilities, run)
        decision = judge(evaluation, loaded, rivals, gate, force_publish, run)
        facts = Facts(
            prepared=prepared,
            recipe=recipe,
            trained=trained,
            evaluation=evaluation,
            decision=decision,
            provenance=origin,
            exported=portable,
            comparison=compared(evaluation, rivals, run),
            spread=spread,
        )
        reports = report(as_published(facts, rivals), run)
        recorded = record(facts, reports, run)
        if decision.verdict != "publish":
            return nothing_published(decision, rivals, recorded, run)
        receipt = publish(facts, reports, rivals, capabilities, run).receipt
    return published(decision, receipt, recorded, run)


def nothing_published(decision: Decision, rivals: Rivals, recorded: Record, run: Run) -> State[Outcome]:
    """A final state for weights that are published already, or for a rejected model."""
    if decision.verdict == "no change" and rivals.same:
        return published(decision, rivals.same, recorded, run)
    return rejected(decision, recorded, run)


def rejected(decision: Decision, recorded: Record, run: Run) -> State[Outcome]:
    """A final state that is neither Completed nor taken for a crash."""
    outcome = _outcome("rejected", decision, None, recorded, run)
    message = f"{verdict_line(decision)}. Report: {recorded.report}"
    return Failed(name="Rejected", message=message, data=GateRejected(message, outcome))


def published(decision: Decision, receipt: Receipt, recorded: Record, run: Run) -> State[Outcome]:
    """A final state that names the version."""
    outcome = _outcome("published" if receipt.new else "already published", decision, receipt, recorded, run)
    said = f"{verdict_line(decision)}. " if decision.override else ""
    message = f"{receipt.model} version {receipt.version}, {said}{accuracy_line(decision)}. Report: {recorded.report}"
    return Completed(name="Published" if receipt.new else "Unchanged", message=message, data=outcome)


def _outcome(verdict: str, decision: Decision, receipt: Receipt | None, recorded: Record, run: Run) -> Outcome:
    show_table("steps", step_rows(run.steps), "Which steps ran, and why")
    return Outcome(
        verdict=verdict,
        run=run.id,
        store=run.store.url,
        decision=decision,
        receipt=receipt,
        report=recorded.report,
        steps=tuple(run.steps),
    )
