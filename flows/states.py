"""The final state of a run of the job, with its outcome as data. Called by the flow.

Published   Completed: a new version is the champion
Unchanged   Completed: a version with these weights exists already
Passed      Completed: the model passes the gate, and the run only judges
Rejected    Failed: the gate rejected the model; its name tells it from an error
"""

from __future__ import annotations

from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from tasks.caching.steps import Run
from tasks.errors import GateRejected
from tasks.gate.baselines import Baselines
from tasks.report.formatting import accuracy_line, step_rows, verdict_line
from tasks.report.prefect_artifacts import show_table
from tasks.values import Decision, Outcome, Receipt, Record


def published(decision: Decision, receipt: Receipt, recorded: Record, run: Run) -> State[Outcome]:
    """Completed, with the version's number: Published, or Unchanged where the version is not new."""
    outcome = _outcome("published" if receipt.new else "already published", decision, receipt, recorded, run)
    override = f"{verdict_line(decision)}. " if decision.override else ""
    accuracy = accuracy_line(decision)
    message = f"{receipt.model} version {receipt.version}, {override}{accuracy}. Report: {recorded.report}"
    return Completed(name="Published" if receipt.new else "Unchanged", message=message, data=outcome)


def nothing_published(decision: Decision, baselines: Baselines, recorded: Record, run: Run) -> State[Outcome]:
    """Completed as Unchanged for weights that are published already, or as Passed; Failed as Rejected by the gate."""
    if decision.verdict == "no change" and baselines.same_weights:
        return published(decision, baselines.same_weights, recorded, run)
    if decision.verdict == "publish":  # a dry run
        message = f"{accuracy_line(decision)}. Nothing was published (dry run). Report: {recorded.report}"
        return Completed(name="Passed", message=message, data=_outcome("passed", decision, None, recorded, run))
    outcome = _outcome("rejected", decision, None, recorded, run)
    message = f"{verdict_line(decision)}; {accuracy_line(decision)}. Report: {recorded.report}"
    return Failed(name="Rejected", message=message, data=GateRejected(message, outcome))


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
