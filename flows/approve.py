"""A person's decision on a model that waits: `approve/approve` in the interface, with a form, and `retrain approve`.

If the champion is still the one that the model was compared with, the gate's verdict holds and nothing is computed.
Otherwise the model is judged again, with the limits of its run, on its own test images.
"""

from __future__ import annotations

from typing import Annotated, Literal

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed
from pydantic import Field

from flows.states import nothing_published, published
from tasks.approval import AS_ASKED, decline
from tasks.approval import approve as approve_version
from tasks.caching.steps import Run
from tasks.errors import ArtifactError, ChampionMoved, RegistryError
from tasks.gate.baselines import Baselines
from tasks.judge import find_baselines, judge, report_facts
from tasks.learning import model_file
from tasks.publish import ROUNDS
from tasks.record import record
from tasks.registry import Registry
from tasks.registry.registry import MODEL_FILE
from tasks.report.facts import Document, Facts
from tasks.report.step import report
from tasks.running.liveness import beats
from tasks.running.prefect_artifacts import show_verdict
from tasks.settings import ModelName, StoreAddress
from tasks.storage.probe import check, folders_of_run
from tasks.values import Decision, Outcome, Record


def _name() -> str:
    chosen = flow_run.parameters
    return f"{chosen['model']}, {chosen['answer']} version {chosen['version']}"


@flow(name="approve", flow_run_name=_name)
@beats
def approve(
    version: Annotated[int, Field(ge=1)],
    model: ModelName,
    answer: Literal["approve", "decline"] = "approve",
    reason: str = "",
    store: StoreAddress = "./store",
) -> State[Outcome]:
    """Approve or decline a model that waits.

    Args:
        version: The number of the version that waits.
        model: The model's name in the store.
        answer: approve makes the version the champion; decline never does.
        reason: Why; declining takes a reason. It is recorded, with who decided and when.
        store: Where the version is stored.
    """
    run = Run(str(flow_run.id), store, series=model)
    registry = Registry(run.store, model, check(run.store, folders_of_run(model, judges_only=False)), model_file.check)
    if answer == "decline":
        declined = decline(registry, version, reason)
        show_verdict("declined", f" version {version}")
        return Completed(name="Declined", message=f"{model} version {version} was {declined}", data=None)
    return _approved(registry, version, reason, run)


def _approved(registry: Registry, version: int, reason: str, run: Run) -> State[Outcome]:
    """Published; or Rejected, where the gate rejects the version beside a champion that is new since then."""
    document = Document.model_validate_json(registry.read(version, "report.json"))
    address, before = registry.address(version, "report.html"), registry.champion()
    after: str | None = AS_ASKED
    decision, recorded = document.decision, Record(report=address, model=registry.model)
    for _ in range(ROUNDS):
        try:
            pointer = approve_version(registry, version, reason, after)
        except ChampionMoved:
            decision, baselines, recorded = _judge_again(document.facts, registry, version, run)
            if decision.verdict != "publish":
                return nothing_published(decision, baselines, recorded, run)
            after = baselines.publish_id
        else:
            new = before is None or before.publish_id != pointer.publish_id
            shown = recorded.model_copy(update={"row": None})  # `approve_version` has entered it
            return published(decision, registry.receipt(version, pointer, new=new), shown, run)
    raise ChampionMoved(
        f"cannot approve version {version}", f"the champion changed {ROUNDS} times meanwhile", "Approve it again."
    )


def _judge_again(facts: Facts, registry: Registry, version: int, run: Run) -> tuple[Decision, Baselines, Record]:
    """The verdict on a version beside today's champion, recorded as that of a run.

    Raises:
        RegistryError: What it was judged with is no longer kept.
    """
    approval, candidate, decision = registry.requested(version), facts.candidate, facts.decision
    kept = [(candidate.trained.model, MODEL_FILE), (candidate.evaluation.predictions, "predictions.npz")]
    for artifact, path in kept:
        run.artifacts.put(registry.read(version, path), artifact.media_type)
    try:
        baselines = find_baselines(candidate, registry, run)
        force = decision.override.reason if decision.override else ""
        decision = judge(candidate, baselines, decision.stages, approval.gate, force, run)
        facts = report_facts(candidate, decision, baselines, facts.provenance, run)
        recorded = record(facts, decision, report(facts, run), baselines, run)
    except ArtifactError as error:
        raise RegistryError(
            f"cannot judge version {version} again, as the champion is another one by now",
            f"what it was judged with is no longer in the cache ({error.why})",
            "`retrain run` trains and judges a model anew; `retrain decline` declines this one.",
        ) from error
    return decision, baselines, recorded
