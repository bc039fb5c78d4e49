"""The publish step: make a model that passed the gate the next version and the champion. Called by the flow.

Not cached: the registry says what is published already, so a repeated run changes nothing.
"""

from __future__ import annotations

import logging
from typing import Any

from tasks.caching.steps import Run, step
from tasks.errors import ChampionMoved
from tasks.gate.baselines import Baselines
from tasks.registry import Registry
from tasks.report.facts import Document, Facts
from tasks.report.formatting import accuracy_line, verdict_line
from tasks.report.model_card import model_card
from tasks.report.step import report_files
from tasks.storage.probe import Capabilities
from tasks.values import Decision, Published, Reports

LOG = logging.getLogger("retrain.publish")

# How often a run judges and tries to publish, while other runs change the champion, before it fails.
ROUNDS = 5


@step(cached=False, retries=2, retry_delay_seconds=5)
def publish(facts: Facts, reports: Reports, baselines: Baselines, capabilities: Capabilities, run: Run) -> Published:
    """Publish the model with its predictions and report, as the successor of the champion that it was compared with.

    If another version is the champion by now, nothing is published: the receipt is None, and the run judges again.

    Raises:
        ChampionMoved: The champion changed in each of `ROUNDS` rounds.
    """
    candidate = facts.candidate
    registry = Registry(run.store, candidate.prepared.dataset, capabilities)
    files = report_files(reports, run) | {
        "model.keras": run.artifacts.get(candidate.trained.model),
        "predictions.npz": run.artifacts.get(candidate.evaluation.predictions),
    }
    files["README.md"] = model_card(Document.model_validate_json(files["report.json"]))
    if candidate.exported.file:
        files["model.onnx"] = run.artifacts.get(candidate.exported.file)
    try:
        receipt = registry.publish(files, manifest_facts(facts), reason(facts.decision), after=baselines.publish_id)
    except ChampionMoved as error:
        if sum(step.name == "publish" for step in run.steps) >= ROUNDS - 1:
            raise
        LOG.warning("publish: another run was first, so the model is judged again: %s", error)
        return Published(receipt=None)
    LOG.info(
        "publish: %s version %d, the champion is version %d",
        candidate.prepared.dataset,
        receipt.version,
        receipt.champion,
    )
    return Published(receipt=receipt)


def reason(decision: Decision) -> str:
    """Why the champion changes, as the history keeps it."""
    overridden = f"{verdict_line(decision)}; " if decision.override else ""
    return f"{overridden}{accuracy_line(decision)}"


def manifest_facts(facts: Facts) -> dict[str, Any]:
    """The facts in a version's manifest: digests of data, code and packages, metrics, the decision."""
    candidate, evaluation = facts.candidate, facts.candidate.evaluation
    return {
        "weights_digest": candidate.trained.weights_digest,
        "data": {
            "train": candidate.prepared.train.images.sha256,
            "test": candidate.prepared.test.images.sha256,
            "test_labels": candidate.prepared.test.labels.sha256,
        },
        "recipe": candidate.recipe.model_dump(mode="json"),
        "device": candidate.trained.device.model_dump(mode="json"),
        "provenance": facts.provenance.model_dump(mode="json"),
        "metrics": {"accuracy": evaluation.accuracy, "loss": evaluation.loss, "images": evaluation.images},
        "seeds": candidate.spread and candidate.spread.model_dump(mode="json"),
        "onnx": candidate.exported.model_dump(mode="json"),
        "decision": facts.decision.model_dump(mode="json"),
    }
