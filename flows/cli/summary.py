"""The result of a run, for a person (`as_text`) or a program (`as_json`). Called by `run`; no Prefect."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from tasks.report.formatting import accuracy_line, duration, gate_rows, verdict_line
from tasks.values import Decision, Outcome, StepRun


def as_json(outcome: Outcome) -> str:
    """One JSON object on one line."""
    return json.dumps(outcome.model_dump(mode="json"), sort_keys=True)


def as_text(outcome: Outcome) -> str:
    """The summary at the end of a run: verdict, gate, times of the steps, addresses of model and report."""
    return "\n".join(["", _verdict(outcome), "", *_gate(outcome), "", *_steps(outcome.steps), "", *_addresses(outcome)])


def _verdict(outcome: Outcome) -> str:
    decision, receipt = outcome.decision, outcome.receipt
    line = f"{accuracy_line(decision)}."
    if outcome.verdict == "passed":
        return f"PASSED: {line}{_remark(decision)} Nothing was published (--dry-run)."
    if receipt is None:
        return f"REJECTED: {line} Nothing was published."
    if decision.override:
        line = f"{line}\n{verdict_line(decision)}."
    elif decision.remark and (receipt.new or receipt.version != receipt.champion):
        line += _remark(decision)
    if receipt.new:
        return f"PUBLISHED {receipt.model} version {receipt.version}: {line}"
    return f"UNCHANGED: {receipt.model} version {receipt.version} is this model already: {line}"


def _remark(decision: Decision) -> str:
    return f" {decision.remark[:1].upper()}{decision.remark[1:]}." if decision.remark else ""


def _gate(outcome: Outcome) -> list[str]:
    rows = gate_rows(outcome.decision)
    return [
        f"  {row['result']}  {row['check']:<22} {row['value']:>7}  {row['needs']:>9}  {row['because']}" for row in rows
    ]


def _steps(steps: Sequence[StepRun]) -> list[str]:
    lines = [f"  {step.name:<11} {duration(step.seconds):>8}  {step.reason}" for step in steps]
    cached = sum(step.cached for step in steps)
    total = sum(step.seconds for step in steps)
    remark = "" if "tensorflow" in sys.modules else ", TensorFlow was never imported"
    return [*lines, f"  {'all steps':<11} {duration(total):>8}  {cached} reused{remark}"]


def _addresses(outcome: Outcome) -> list[str]:
    model = [f"  model   {outcome.receipt.url}"] if outcome.receipt else []
    return [*model, f"  report  {outcome.report}"]
