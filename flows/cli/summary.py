"""The result of a run, for a person (`as_text`) or a program (`as_json`). Called by `run`; no Prefect."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from flows.cli.layout import wrapped
from tasks.address import escaped
from tasks.report.formatting import accuracy_line, duration, gate_rows, verdict_line
from tasks.values import Decision, Outcome, StepRun


def as_json(outcome: Outcome) -> str:
    """One JSON object on one line."""
    return json.dumps(outcome.model_dump(mode="json"), sort_keys=True)


def as_text(outcome: Outcome, width: int) -> str:
    """The summary at the end of a run: steps, gate, addresses, and last, next to the prompt, the verdict.

    Nothing follows the verdict, so a terminal of any height shows it when the run has ended.

    Args:
        outcome: How the run ended.
        width: Columns of the terminal; the lines are wrapped at words.
    """
    parts = [_steps(outcome.steps), _gate(outcome), _addresses(outcome)]
    rows = [row for part in parts for row in (("", ""), *part)]
    rows += [("", line) for line in ("", *verdict(outcome).split("\n"))]
    return "\n".join(wrapped(prefix, escaped(text), width) for prefix, text in rows)


def verdict(outcome: Outcome) -> str:
    """How a run ended, with the accuracy: a line, and one more for an override."""
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
    if receipt.approval == "declined":
        return f"UNCHANGED: {receipt.model} version {receipt.version} is this model already, and was declined: {line}"
    if receipt.approval:
        waits = f"{receipt.model} version {receipt.version}: {line} `retrain approve {receipt.version}`"
        return f"{'WAITS FOR APPROVAL' if receipt.new else 'UNCHANGED, WAITS FOR APPROVAL'} {waits}"
    if receipt.new:
        return f"PUBLISHED {receipt.model} version {receipt.version}: {line}"
    return f"UNCHANGED: {receipt.model} version {receipt.version} is this model already: {line}"


def _remark(decision: Decision) -> str:
    return f" {decision.remark[:1].upper()}{decision.remark[1:]}." if decision.remark else ""


def _gate(outcome: Outcome) -> list[tuple[str, str]]:
    rows = gate_rows(outcome.decision)
    width = {name: max(len(row[name]) for row in rows) for name in rows[0]}
    columns = [
        f"{row['check']:<{width['check']}}  {row['value']:>{width['value']}}  {row['needs']:>{width['needs']}}"
        for row in rows
    ]
    return [(f"  {row['result']}  {each}  ", row["because"]) for row, each in zip(rows, columns, strict=True)]


def _steps(steps: Sequence[StepRun]) -> list[tuple[str, str]]:
    lines = [(f"  {step.name:<11} {duration(step.seconds):>8}  ", step.reason) for step in steps]
    cached = sum(step.cached for step in steps)
    total = sum(step.seconds for step in steps)
    remark = "" if "tensorflow" in sys.modules else ", TensorFlow was never imported"
    return [*lines, (f"  {'all steps':<11} {duration(total):>8}  ", f"{cached} reused{remark}")]


def _addresses(outcome: Outcome) -> list[tuple[str, str]]:
    model = [("  model   ", outcome.receipt.url)] if outcome.receipt else []
    return [*model, ("  report  ", outcome.report)]
