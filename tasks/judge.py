"""The judge step: does the candidate pass the gate? Not cached: the champion may have changed.

`tasks.gate.checks` has the rows, `tasks.gate.baselines` reads the versions that the candidate is compared with. Called
by the flow.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tasks.caching.steps import Run, step
from tasks.data.arrays import answers, answers_from_npz, from_npy
from tasks.data.content import digests
from tasks.evaluate import evaluate_published
from tasks.gate.baselines import Baseline, Baselines, compare_with_champion, read_baselines
from tasks.gate.candidate import Candidate
from tasks.gate.checks import BaselineResults, CandidateResults, decide, next_step
from tasks.gate.recipes import Step
from tasks.registry import Registry
from tasks.registry.documents import now
from tasks.registry.looks import Look, Looks, published_look
from tasks.report.changes import batch_digests
from tasks.report.facts import Facts
from tasks.report.formatting import gate_rows, table, verdict_line
from tasks.running.prefect_artifacts import show_markdown
from tasks.running.who import who
from tasks.settings import Gate
from tasks.values import Batch, Decision, Override, Prepared, Provenance, Stage

LOG = logging.getLogger("retrain.judge")


def find_baselines(candidate: Candidate, registry: Registry, run: Run) -> Baselines:
    """Read champion and pinned reference from the registry.

    Raises:
        RegistryError: The pointer to the champion is damaged, or there is no champion where one is required.
    """
    return read_baselines(candidate, registry, evaluate_published, run)


def report_facts(candidate: Candidate, decision: Decision, baselines: Baselines, origin: Provenance, run: Run) -> Facts:
    """The content of the report. If nothing changes, it shows the decision with which the model was published."""
    if decision.verdict == "no change" and baselines.published_decision:
        decision = baselines.published_decision
    comparison = compare_with_champion(candidate, baselines, run)
    return Facts(candidate=candidate, decision=decision, comparison=comparison, provenance=origin)


@step(cached=False)
def judge(
    candidate: Candidate, baselines: Baselines, stages: tuple[Stage, ...], gate: Gate, force_publish: str, run: Run
) -> Decision:
    """Judge the candidate, log the verdict, and show the rows on the run's page.

    Args:
        candidate: The model with its measurements.
        baselines: The versions to compare it with.
        stages: How many seeds it took, and why; the last one says whether further ones could be trained.
        gate: The limits.
        force_publish: The reason to publish a model that the rows reject; "" for none.
        run: The run, with its store.
    """
    override = Override(reason=force_publish, by=who()) if force_publish else None
    seeds_left = bool(stages) and stages[-1].seeds_left
    decision = decide(*_results(candidate, baselines, seeds_left, run), gate, override)
    decision = decision.model_copy(update={"stages": stages})
    if not baselines.same_weights:  # nothing is decided of a model that is published already
        decision = decision.model_copy(update={"look": _looks(candidate, run).enter(*_look(candidate, baselines, run))})
    show_markdown("gate", run.series, table(gate_rows(decision)), verdict_line(decision))
    LOG.info("judge: %s", verdict_line(decision))
    return decision


def step_of(candidate: Candidate, baselines: Baselines, gate: Gate, seeds_left: bool, run: Run) -> tuple[Step, str]:
    """Whether the verdict on a candidate is known, or takes further seeds, and why. Decides nothing, and keeps nothing.

    Args:
        candidate: The median model of the seeds trained so far.
        baselines: The versions to compare it with.
        gate: The limits.
        seeds_left: Whether further seeds may be trained.
        run: The run, with its store.
    """
    return next_step(*_results(candidate, baselines, seeds_left, run), gate)


def _results(
    candidate: Candidate, baselines: Baselines, seeds_left: bool, run: Run
) -> tuple[CandidateResults, BaselineResults | None, BaselineResults | None]:
    """What the gate compares: candidate, champion, reference."""
    (predicted,), labels = answers([run.artifacts.get(candidate.evaluation.predictions)])
    recipes = candidate.by_seed if not baselines.same_weights else ()  # a model does not lose to itself
    by_seed = answers(map(run.artifacts.get, recipes))[0] if recipes else None
    results = CandidateResults(
        candidate.evaluation,
        predicted,
        labels,
        candidate.loaded,
        baselines.remark,
        candidate.prepared.classes,
        by_seed=by_seed,
        seeds_left=seeds_left,
        new=_new_images(candidate.prepared, baselines.champion, run),
    )
    champion, reference = (_baseline(each, run) for each in (baselines.champion, baselines.reference))
    if reference and by_seed is not None:
        reference = replace(reference, retries=_retries(candidate, baselines, run))
    return results, champion, reference


def _new_images(data: Prepared, champion: Baseline | None, run: Run) -> NDArray[np.bool_] | None:
    """Which test images are of batches alone that the champion has not learned from, bool (n,).

    None where all batches are new or none is, and where the champion does not say what it has learned from, as one that
    was published before the source grew.
    """
    known = set(batch_digests(champion.facts).values()) if champion else set()
    old, new = ([batch for batch in data.batches if (batch.digest in known) == learned] for learned in (True, False))
    if not (old and new):
        return None
    only_new = _test_images(new, run) - _test_images(old, run)
    images = digests(from_npy(run.artifacts.get(data.test.images)))
    return np.array([image.tobytes() in only_new for image in images], np.bool_)


def _test_images(batches: list[Batch], run: Run) -> set[bytes]:
    """The digests of the test images of these batches."""
    files = (run.artifacts.get(batch.test) for batch in batches if batch.test)
    return {image.tobytes() for file in files for image in digests(from_npy(file))}


def _baseline(baseline: Baseline | None, run: Run) -> BaselineResults | None:
    if baseline is None:
        return None
    if baseline.predictions is None:
        return BaselineResults(baseline.name, problem=baseline.problem)
    (predicted,), labels = answers([run.artifacts.get(baseline.predictions)])
    by_seed = answers_from_npz(run.artifacts.get(baseline.by_seed))[0] if baseline.by_seed else None
    return BaselineResults(baseline.name, predicted, labels, by_seed=by_seed)


def _retries(candidate: Candidate, baselines: Baselines, run: Run) -> int:
    """The verdicts on these test images between the champion's and this one.

    None of them has published, so each is a retry. Where nothing says with which look the champion was published, every
    look counts as one.
    """
    look, known = _look(candidate, baselines, run)
    number, _ = _looks(candidate, run).number(look, known)
    champion = published_look(baselines.champion.facts, *candidate.prepared.test_set) if baselines.champion else 0
    return max(0, number - champion - 1)


def _looks(candidate: Candidate, run: Run) -> Looks:
    return Looks(run.store, *candidate.prepared.test_set)


def _look(candidate: Candidate, baselines: Baselines, run: Run) -> tuple[Look, int]:
    """This verdict as a look at the test images, and the largest number that a baseline was published with."""
    champion, reference = baselines.champion, baselines.reference
    known = [published_look(each.facts, *candidate.prepared.test_set) for each in (champion, reference) if each]
    look = Look(
        run=run.id,
        model=candidate.model_name,
        candidate=candidate.trained.weights_digest,
        champion=champion.identity if champion else "",
        reference=reference.identity if reference else "",
        created=now(),
    )
    return look, max(known, default=0)
