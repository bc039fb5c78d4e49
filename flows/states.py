"""The final state of a run of the job, with its outcome as data. Called by the flows.

Published         Completed: a new version is the champion
AwaitingApproval  Completed: a new version waits until a person approves it
Unchanged         Completed: a version with these weights exists already
Passed            Completed: the model passes the gate, and the run only judges
Rejected          Failed: the gate rejected the model, or a check a new batch; its name tells it from an error
"""

from __future__ import annotations

from collections.abc import Sequence

from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from tasks.caching.steps import Run
from tasks.errors import GateRejected
from tasks.gate.baselines import Baselines
from tasks.model_page import enter
from tasks.report.formatting import accuracy_line, headline, step_rows, table, verdict_line
from tasks.running.prefect_artifacts import show_markdown, show_verdict
from tasks.values import BatchVerdict, Decision, Outcome, Receipt, Record, RunRow

# Refused batches in one message.
NAMED = 3


def published(decision: Decision, receipt: Receipt, recorded: Record, run: Run) -> State[Outcome]:
    """Completed, with the version's number: Published, AwaitingApproval, or Unchanged where the version is not new."""
    verdict = "waiting" if receipt.approval and receipt.new else "published" if receipt.new else "already published"
    outcome = _outcome(verdict, decision, receipt, recorded, run)
    override = f"{verdict_line(decision)}. " if decision.override else ""
    accuracy = accuracy_line(decision)
    before = f"Before: {recorded.before}. " if recorded.before and receipt.new else ""
    what = f"{receipt.model} version {receipt.version}, {override}{accuracy}."
    message = f"{what} {before}{_approval(receipt)}Report: {recorded.report}"
    name = {"waiting": "AwaitingApproval", "published": "Published"}.get(verdict, "Unchanged")
    return Completed(name=name, message=message, data=outcome)


def _approval(receipt: Receipt) -> str:
    """What is to be done about a version that is no champion, as a sentence; "" for any other."""
    if receipt.approval == "declined":
        return "It was declined: `retrain versions` says by whom. "
    command = f"retrain approve {receipt.version}"
    return f"It waits for approval: `{command}`, or start approve in the interface. " if receipt.approval else ""


def nothing_published(decision: Decision, baselines: Baselines, recorded: Record, run: Run) -> State[Outcome]:
    """Completed as Unchanged for weights that are published already, or as Passed; Failed as Rejected by the gate."""
    if decision.verdict == "no change" and baselines.same_weights:
        return published(decision, baselines.same_weights, recorded, run)
    if decision.verdict == "publish":  # a dry run
        message = f"{accuracy_line(decision)}. Nothing was published (dry run). Report: {recorded.report}"
        return Completed(name="Passed", message=message, data=_outcome("passed", decision, None, recorded, run))
    outcome = _outcome("rejected", decision, None, recorded, run)
    compare = f"`{recorded.compare}` shows what differs from the champion. " if baselines.champion else ""
    rows = f"{verdict_line(decision)}; {accuracy_line(decision)}. {headline(decision)}"
    message = f"{rows} {compare}Report: {recorded.report}"
    return Failed(name="Rejected", message=message, data=GateRejected(message, outcome))


def batches_rejected(verdicts: Sequence[BatchVerdict], recorded: Record, run: Run) -> State[Outcome]:
    """Failed as Rejected: a check refused new batches, and nothing was trained."""
    refused = [each for each in verdicts if each.failed]
    rows = "; ".join(f"batch {each.batch}: {', '.join(each.failed)}" for each in refused[:NAMED])
    more = f"; and {len(refused) - NAMED:,} more" if len(refused) > NAMED else ""
    leave_out = f"--without {refused[0].batch}"
    message = (
        f"{rows}{more}. Nothing was trained. Correct or remove it, or leave it out with `{leave_out}`; if it is right, "
        f"move its limit in [batches]. Report: {recorded.report}"
    )
    show_verdict("rejected")
    _enter("refused", 0, recorded, run)
    return Failed(name="Rejected", message=message, data=GateRejected(message, None))


def _outcome(verdict: str, decision: Decision, receipt: Receipt | None, recorded: Record, run: Run) -> Outcome:
    reused = sum(step.cached for step in run.steps)
    if run.steps:
        show_markdown("steps", run.series, table(step_rows(run.steps)), f"{reused} of {len(run.steps)} steps reused")
    version = f" version {receipt.version}" if receipt else ""
    shown = "unchanged" if verdict == "already published" else verdict
    show_verdict(shown, version)
    _enter(shown, receipt.version if receipt else 0, recorded, run)
    return Outcome(
        verdict=verdict,
        run=run.id,
        store=run.store.url,
        decision=decision,
        receipt=receipt,
        report=recorded.report,
        steps=tuple(run.steps),
    )


def _enter(verdict: str, version: int, recorded: Record, run: Run) -> None:
    """Enter the run on the model's page."""
    if recorded.row and not run.only_judges:
        row = recorded.row.model_dump() | {"verdict": verdict, "version": version}
        enter(run.store, recorded.model, RunRow.model_validate(row))
