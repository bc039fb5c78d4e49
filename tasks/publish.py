"""The last steps: keep every run's decision and report; publish a model that passed.

Neither is cached: both ask the store what is there already, so that a repeated run changes nothing. What makes
publishing all-or-nothing is `tasks.storage.registry`.
"""

from __future__ import annotations

import logging
from typing import Any

from tasks.caching.keys import canonical
from tasks.caching.steps import Run, step
from tasks.page import show_markdown
from tasks.report.facts import Facts
from tasks.report.words import accuracy_line
from tasks.storage import Registry
from tasks.storage.documents import Pointer
from tasks.storage.probe import Capabilities
from tasks.values import Receipt, Record, Reports

LOG = logging.getLogger("retrain.publish")


@step(cached=False)
def record(facts: Facts, reports: Reports, run: Run) -> Record:
    """Keep the run's decision and report under `runs/`, accepted or not, and show the report on the run's page."""
    files = report_files(reports, run) | {"decision.json": canonical(facts.decision.model_dump(mode="json"))}
    for path, data in files.items():
        run.store.put(f"runs/{run.id}/{path}", data)
    show_markdown(
        "report", run.artifacts.get(reports.run_page).decode(), f"{facts.model}: {accuracy_line(facts.decision)}"
    )
    return Record(report=run.store.address(f"runs/{run.id}/report.html"))


@step(cached=False, retries=2, retry_delay_seconds=5)
def publish(facts: Facts, reports: Reports, capabilities: Capabilities, run: Run) -> Receipt:
    """Publish the model with its predictions and report. A whole champion with the same weights is left as it is."""
    registry = Registry(run.store, facts.model, capabilities)
    champion = registry.champion()
    if champion and _is(facts, champion, registry):
        LOG.info("publish: version %d has these weights already, nothing to do", champion.version)
        return registry.receipt(champion.version, champion, new=False)
    files = report_files(reports, run) | {
        "model.keras": run.artifacts.get(facts.trained.model),
        "predictions.npz": run.artifacts.get(facts.evaluation.predictions),
    }
    if facts.exported.file:
        files["model.onnx"] = run.artifacts.get(facts.exported.file)
    receipt = registry.publish(files, manifest_facts(facts), accuracy_line(facts.decision))
    LOG.info("publish: %s version %d, the champion is version %d", facts.model, receipt.version, receipt.champion)
    return receipt


def _is(facts: Facts, champion: Pointer, registry: Registry) -> bool:
    """Whether the champion has this model's weights and is whole; a damaged one is mended by publishing."""
    if problems := registry.verify(champion):
        LOG.warning("publish: the champion is damaged: %s", problems[0])
        return False
    return registry.manifest(champion).facts.get("weights_digest") == facts.trained.weights_digest


def report_files(reports: Reports, run: Run) -> dict[str, bytes]:
    """The report's files by name."""
    named = {"report.html": reports.html, "report.md": reports.markdown, "report.json": reports.data}
    return {name: run.artifacts.get(artifact) for name, artifact in named.items()}


def manifest_facts(facts: Facts) -> dict[str, Any]:
    """What a manifest tells of its version: digests of data, code and packages, metrics, the decision."""
    evaluation = facts.evaluation
    return {
        "weights_digest": facts.trained.weights_digest,
        "data": {name: getattr(facts.prepared, name).images.sha256 for name in ("train", "test")},
        "recipe": facts.recipe.model_dump(mode="json"),
        "device": facts.trained.device.model_dump(mode="json"),
        "provenance": facts.provenance.model_dump(mode="json"),
        "metrics": {"accuracy": evaluation.accuracy, "loss": evaluation.loss, "images": evaluation.images},
        "seeds": facts.spread and facts.spread.model_dump(mode="json"),
        "onnx": facts.exported.model_dump(mode="json"),
        "decision": facts.decision.model_dump(mode="json"),
    }
