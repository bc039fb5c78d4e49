"""A verdict trains as many seeds as it needs, compares recipes, and keeps what the seeds answer."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, cast

import pytest

from tasks.errors import GateRejected
from tasks.registry import Registry
from tasks.registry.answers import FOLDER
from tasks.storage import open_store
from tasks.storage.objects import LARGEST_DOCUMENT
from tasks.values import Outcome
from tests.end_to_end.jobs import LENIENT, RECIPE, job, outcome, reused
from tests.mirrors import Mirror

# No class of 300 images is always right: each verdict takes every seed it may, and rejects.
STRICT = LENIENT.model_copy(update={"min_class_recall": 1.0})


def verdict(store: Path, mirror: Mirror, seed: int, **more: Any) -> Outcome:
    """A verdict of up to five seeds, from this one on; what it ended as, published or not."""
    state = job(str(store), mirror, RECIPE.model_copy(update={"seed": seed}), seeds="1..5", **more)
    try:
        return outcome(state)
    except GateRejected as rejected:
        return cast(Outcome, rejected.outcome)


def trained(result: Outcome) -> list[bool]:
    """Of each training whether it was reused."""
    return [step.cached for step in result.steps if step.name == "train"]


def kept(store: Path) -> list[str]:
    return [entry.key for entry in open_store(str(store)).list(FOLDER)]


def test_an_undecided_verdict_trains_further_seeds_of_both_and_says_so(
    trained_store: Path, mirror: Mirror, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first = verdict(trained_store, mirror, 10, gate=STRICT)
    assert [stage.seeds for stage in first.decision.stages] == [1, 3, 5]
    assert [stage.step for stage in first.decision.stages][:2] == ["more", "more"]
    # One of the candidate; the champion's own, which is there, and four of its seeds; four more of the candidate.
    assert trained(first) == [False, True, *[False] * 8]
    theirs = [step.reason.startswith("for champion v1: ") for step in first.steps if step.name == "train"]
    assert theirs == [False, *[True] * 5, *[False] * 4], "the summary says whose they are"
    assert "seeds: champion v1 is compared by 5, which are trained if they are missing" in caplog.text
    assert first.verdict == "rejected"
    assert first.decision.checks[-1].sentence.startswith("5 seeds against 5: ")
    report = json.loads(open_store(str(trained_store)).get(f"runs/{first.run}/report.json", LARGEST_DOCUMENT).data)
    whys = [stage["why"] for stage in report["decision"]["stages"]]
    assert all(why.startswith("lowest class recall") for why in whys)
    assert [why.endswith(" not certain") for why in whys] == [True, True, False]
    page = (trained_store / f"runs/{first.run}/report.md").read_text()
    assert "5 seeds were trained: after 1 (" in page
    assert len(kept(trained_store)) == 1

    again = verdict(trained_store, mirror, 10, gate=STRICT)
    assert len(trained(again)) == 5, "what the champion's seeds answer is kept"
    assert all(trained(again))
    assert (again.verdict, again.decision) == (first.verdict, first.decision)
    assert "report" in reused(again)


def test_the_same_job_takes_as_many_seeds_again_and_changes_nothing(
    trained_store: Path, mirror: Mirror, tmp_path: Path
) -> None:
    published = outcome(job(str(trained_store), mirror, RECIPE.model_copy(update={"seed": 20}), seeds="5"))
    assert published.receipt is not None
    assert published.receipt.version == 2
    facts = Registry(open_store(str(trained_store)), "mnist").manifest(2).facts
    assert len({score["weights"] for score in facts["seeds"]["scores"]}) == 5
    again = verdict(trained_store, mirror, 20)
    assert again.verdict == "already published"
    assert all(trained(again))
    elsewhere = outcome(job(str(tmp_path / "ci"), mirror, seeds="3", baseline=str(trained_store)))
    assert elsewhere.decision.checks[-1].sentence.startswith("3 seeds against 5: ")


@pytest.mark.nightly
def test_what_the_seeds_of_a_champion_answer_outlives_the_cache(
    trained_store: Path, mirror: Mirror, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    outcome(job(str(trained_store), mirror, RECIPE.model_copy(update={"seed": 30}), seeds="3"))
    store = open_store(str(trained_store))
    for entry in store.list("cache/"):
        store.delete(entry.key)
    result = verdict(trained_store, mirror, 40, gate=STRICT, dry_run=True)
    assert "5 seeds against 3: " in result.decision.checks[-1].sentence
    assert "champion v2 counts as 3, as its data, code or recipe are not what they were" in caplog.text

    (key,) = [key for key in kept(trained_store) if Registry(store, "mnist").manifest(2).identity in key]
    store.put(key, b"damaged")
    result = verdict(trained_store, mirror, 40, gate=STRICT, dry_run=True)
    assert "5 seeds against 1: " in result.decision.checks[-1].sentence
    assert "counts as one seed" in caplog.text


@pytest.mark.nightly
def test_a_champion_that_was_tested_on_other_images_is_evaluated_on_these(trained_store: Path, mirror: Mirror) -> None:
    outcome(job(str(trained_store), mirror, RECIPE.model_copy(update={"seed": 30}), seeds="3"))
    for key in kept(trained_store):  # as that of another test set
        open_store(str(trained_store)).delete(key)
    result = verdict(trained_store, mirror, 40, gate=STRICT, dry_run=True)
    assert "5 seeds against 5: " in result.decision.checks[-1].sentence
