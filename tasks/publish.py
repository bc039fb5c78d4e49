"""The last steps: keep every run's decision and report; publish a model that passed.

Neither is cached: both ask the store what is there already, so that a repeated run changes nothing. What makes
publishing all-or-nothing is `tasks.storage.registry`.
"""

from __future__ import annotations

import logging
from typing import Any

from tasks.caching.keys import canonical
from tasks.caching.steps import Run, step
from tasks.errors import ChampionMoved
from tasks.page import show_markdown
from tasks.report.card import card
from tasks.report.facts import Document, Facts
from tasks.report.schema import FILE, schema
from tasks.report.words import accuracy_line, verdict_line
from tasks.storage import Registry
from tasks.storage.probe import Capabilities
from tasks.values import Decision, Published, Record, Reports, Rivals

LOG = logging.getLogger("retrain.publish")

# How often a run judges, while other runs change the champion, before it gives up.
ROUNDS = 5


@step(cached=False)
def record(facts: Facts, reports: Reports, run: Run) -> Record:
    """Keep the run's decision and report under `runs/`, accepted or not, and show the report on the run's page."""
    files = report_files(reports, run) | {"decision.json": canonical(facts.decision.model_dump(mode="json"))}
    for path, data in files.items():
        run.store.put(f"runs/{run.id}/{path}", data)
    address = run.store.address(f"runs/{run.id}/report.html")
    page = f"The whole report: `{address}`\n\n{run.artifacts.get(reports.run_page).decode()}"
    show_markdown("report", page, f"{facts.model}: {accuracy_line(facts.decision)}")
    return Record(report=address)


@step(cached=False, retries=2, retry_delay_seconds=5)
def publish(facts: Facts, reports: Reports, rivals: Rivals, capabilities: Capabilities, run: Run) -> Published:
    """Publish the model with its predictions and report, in the place of the champion that it was compared with.

    Where that is no longer the champion nothing is published, and the run judges again. Raises ChampionMoved when that
    happens too often.
    """
    registry = Registry(run.store, facts.model, capabilities)
    files = report_files(reports, run) | {
        "model.keras": run.artifacts.get(facts.trained.model),
        "predictions.npz": run.artifacts.get(facts.evaluation.predictions),
    }
    files["README.md"] = card(Document.model_validate_json(files["report.json"]))
    if facts.exported.file:
        files["model.onnx"] = run.artifacts.get(facts.exported.file)
    try:
        receipt = registry.publish(files, manifest_facts(facts), reason(facts.decision), after=rivals.publish_id)
    except ChampionMoved as moved:
        if sum(step.name == "publish" for step in run.steps) >= ROUNDS - 1:
            raise
        LOG.warning("publish: another run was first, so the model is judged again: %s", moved)
        return Published(receipt=None)
    LOG.info("publish: %s version %d, the champion is version %d", facts.model, receipt.version, receipt.champion)
    return Published(receipt=receipt)


def reason(decision: Decision) -> str:
    """Why the champion changes, for the history."""
    overridden = f"{verdict_line(decision)}; " if decision.override else ""
    return f"{overridden}{accuracy_line(decision)}"


def report_files(reports: Reports, run: Run) -> dict[str, bytes]:
    """The report's files by name."""
    named = {"report.html": reports.html, "report.md": reports.markdown, "report.json": reports.data}
    return {name: run.artifacts.get(artifact) for name, artifact in named.items()} | {FILE: schema()}


def manifest_facts(facts: Facts) -> dict[str, Any]:
    """What a manifest tells of its version: digests of data, code and packages, metrics, the decision."""
    evaluation = facts.evaluation
    return {
        "weights_digest": facts.trained.weights_digest,
        "data": {
            "train": facts.prepared.train.images.sha256,
            "test": facts.prepared.test.images.sha256,
            "test_labels": facts.prepared.test.labels.sha256,
        },
        "recipe": facts.recipe.model_dump(mode="json"),
        "device": facts.trained.device.model_dump(mode="json"),
        "provenance": facts.provenance.model_dump(mode="json"),
        "metrics": {"accuracy": evaluation.accuracy, "loss": evaluation.loss, "images": evaluation.images},
        "seeds": facts.spread and facts.spread.model_dump(mode="json"),
        "onnx": facts.exported.model_dump(mode="json"),
        "decision": facts.decision.model_dump(mode="json"),
    }
