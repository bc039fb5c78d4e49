"""The judge step: does the candidate pass the gate? Not cached: the champion may have changed.

`tasks.gate.checks` has the rows, `tasks.gate.baselines` reads the versions that the candidate is compared with. Called
by the flow.
"""

from __future__ import annotations

import getpass
import logging
import os
import platform

import numpy as np

from tasks.caching.steps import Run, step
from tasks.data.arrays import Bytes, from_npz
from tasks.evaluate import reevaluate
from tasks.gate.baselines import Baseline, Baselines, compare_with_champion, read_baselines
from tasks.gate.candidate import Candidate
from tasks.gate.checks import BaselineResults, CandidateResults, decide
from tasks.registry import Registry
from tasks.report.facts import Facts
from tasks.report.formatting import gate_rows, verdict_line
from tasks.report.prefect_artifacts import show_table
from tasks.settings import Gate
from tasks.values import Artifact, Decision, Override, Provenance

LOG = logging.getLogger("retrain.judge")


def find_baselines(candidate: Candidate, registry: Registry, run: Run) -> Baselines:
    """Read champion and pinned reference from the registry.

    Raises:
        RegistryError: The pointer to the champion is damaged, or there is no champion where one is required.
    """
    return read_baselines(candidate, registry, reevaluate, run)


def report_facts(candidate: Candidate, decision: Decision, baselines: Baselines, origin: Provenance, run: Run) -> Facts:
    """The content of the report. If nothing changes, it shows the decision with which the model was published."""
    if decision.verdict == "no change" and baselines.published_decision:
        decision = baselines.published_decision
    comparison = compare_with_champion(candidate, baselines, run)
    return Facts(candidate=candidate, decision=decision, comparison=comparison, provenance=origin)


@step(cached=False)
def judge(candidate: Candidate, baselines: Baselines, gate: Gate, force_publish: str, run: Run) -> Decision:
    """Judge the candidate, log each row, and show the rows as the artifact `gate` on the run's page.

    Args:
        candidate: The model with its measurements.
        baselines: The versions to compare it with.
        gate: The limits.
        force_publish: The reason to publish a model that the rows reject; "" for none.
        run: The run, with its store.
    """
    predicted, labels = _predictions(candidate.evaluation.predictions, run)
    results = CandidateResults(candidate.evaluation, predicted, labels, candidate.loaded, baselines.remark)
    champion, reference = (_results(baseline, run) for baseline in (baselines.champion, baselines.reference))
    override = Override(reason=force_publish, by=_user_and_machine()) if force_publish else None
    decision = decide(results, champion, reference, gate, override)
    show_table("gate", gate_rows(decision), verdict_line(decision))
    for check in decision.checks:
        LOG.info("judge: %s %s: %s", "pass" if check.passed else "FAIL", check.name, check.sentence)
    LOG.info("judge: %s", verdict_line(decision))
    return decision


def _results(baseline: Baseline | None, run: Run) -> BaselineResults | None:
    if baseline is None:
        return None
    if baseline.predictions is None:
        return BaselineResults(baseline.name, problem=baseline.problem)
    return BaselineResults(baseline.name, *_predictions(baseline.predictions, run))


def _predictions(artifact: Artifact, run: Run) -> tuple[Bytes, Bytes]:
    """The predicted classes and the labels, both uint8 (n,)."""
    probabilities, labels = from_npz(run.artifacts.get(artifact))
    return probabilities.argmax(axis=1).astype(np.uint8), labels


def _user_and_machine() -> str:
    """Who runs this: the user of the command, or the user of the worker that runs a deployment."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # the user of a container may have no name
        user = f"user {os.getuid()}"
    return f"{user} on {platform.node()}"
