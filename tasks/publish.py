"""The publish step: make a model that passed the gate the next version and the champion. Called by the flow.

Not cached: the registry says what is published already, so a repeated run changes nothing.
"""

from __future__ import annotations

import logging

from tasks.caching.steps import Run, step
from tasks.data.arrays import answers
from tasks.errors import ChampionMoved, StoreError
from tasks.gate.baselines import Baselines
from tasks.gate.candidate import Candidate
from tasks.record import complete
from tasks.registry import Registry
from tasks.registry.answers import SeedAnswers
from tasks.report.facts import Document, Facts, manifest_facts
from tasks.report.formatting import accuracy_line, verdict_line
from tasks.report.model_card import model_card
from tasks.report.step import report_files
from tasks.settings import Gate
from tasks.storage.probe import Capabilities
from tasks.values import Decision, Published, Reports

LOG = logging.getLogger("retrain.publish")

# How often a run judges and tries to publish, while other runs change the champion, before it fails.
ROUNDS = 5


@step(cached=False, retries=2, retry_delay_seconds=5)
def publish(
    facts: Facts,
    reports: Reports,
    baselines: Baselines,
    capabilities: Capabilities,
    gate: Gate,
    approve: bool,
    run: Run,
) -> Published:
    """Publish the model with its predictions and report, as the successor of the champion that it was compared with.

    With `approve` it waits until a person approves it.

    If another version is the champion by now, nothing is published: the receipt is None, and the run judges again.

    Raises:
        ChampionMoved: The champion changed in each of `ROUNDS` rounds.
    """
    candidate = facts.candidate
    registry = Registry(run.store, candidate.model_name, capabilities)
    files = report_files(complete(facts, facts.decision, reports, baselines.champion, run)) | {
        "model.keras": run.artifacts.get(candidate.trained.model),
        "predictions.npz": run.artifacts.get(candidate.evaluation.predictions),
    }
    files["README.md"] = model_card(Document.model_validate_json(files["report.json"]))
    if candidate.exported.file:
        files["model.onnx"] = run.artifacts.get(candidate.exported.file)
    known, why, after = manifest_facts(facts), reason(facts.decision), baselines.publish_id
    try:
        if approve:
            receipt = registry.propose(files, known, why, after, run.id, gate)
        else:
            receipt = registry.publish(files, known, why, after=after)
    except ChampionMoved as error:
        if sum(step.name == "publish" for step in run.steps) >= ROUNDS - 1:
            raise
        LOG.warning("publish: another run was first, so the model is judged again: %s", error)
        return Published(receipt=None)
    if len(candidate.by_seed) > 1:
        _keep_seeds(candidate, registry.manifest(receipt.version).identity, run)
    LOG.info(
        "publish: %s version %d%s, the champion is %s",
        candidate.model_name,
        receipt.version,
        {"": "", "waits": " waits for approval", "declined": " was declined"}[receipt.approval],
        f"version {receipt.champion}" if receipt.champion else "none yet",
    )
    return Published(receipt=receipt)


def _keep_seeds(candidate: Candidate, identity: str, run: Run) -> None:
    """Keep what the models of the other seeds answer. Without it they are trained again, when they are needed."""
    try:
        predicted, labels = answers(map(run.artifacts.get, candidate.by_seed))
        SeedAnswers(run.store, *candidate.prepared.test_set).keep(identity, predicted, labels)
    except StoreError as error:
        LOG.warning("publish: what the other seeds answer is not kept: %s", error)


def reason(decision: Decision) -> str:
    """Why the champion changes, as the history keeps it."""
    overridden = f"{verdict_line(decision)}; " if decision.override else ""
    return f"{overridden}{accuracy_line(decision)}"
