"""Which test images the judge takes for new ones: by the batches of the data, and by what the champion recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.caching.steps import Run
from tasks.data.arrays import Bytes, to_npy, to_npz
from tasks.gate.baselines import Baseline, Baselines
from tasks.gate.candidate import Candidate
from tasks.gate.checks import PARTS, decide
from tasks.judge import _new_images, _results
from tasks.learning.metrics import score
from tasks.report.facts import manifest_facts
from tasks.settings import Gate
from tasks.values import NPY, NPZ, Batch, Decision, Examples, LoadBack, Prepared
from tests.tasks.report.examples import example

COLOURS, GREY = (4, 4, 3), (4, 4)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(id="run", url=str(tmp_path / "store"))


def pictures(number: int, shape: tuple[int, ...] = GREY, seed: int = 0) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, (number, *shape), dtype=np.uint8)


def batch(name: str, images: Bytes, run: Run, digest: str = "") -> Batch:
    test = run.artifacts.put(to_npy(images), NPY) if len(images) else None
    digest = digest or name[-1] * 64
    return Batch(name=name, digest=digest, images=60, test_images=len(images), test=test)


def prepared(images: Bytes, batches: list[Batch], run: Run) -> Prepared:
    flat = run.artifacts.put(to_npy(images.reshape(len(images), -1)), NPY)
    data = example().facts.candidate.prepared
    test = Examples(images=flat, labels=data.test.labels)
    return data.model_copy(update={"test": test, "batches": tuple(batches), "shape": images.shape[1:]})


def champion(*batches: Batch) -> Baseline:
    sample = example()
    learned = sample.facts.candidate.prepared.model_copy(update={"batches": batches})
    return Baseline(name="champion v3", version=3, facts=manifest_facts(sample.with_candidate(prepared=learned).facts))


@pytest.mark.parametrize("shape", [GREY, COLOURS])
def test_images_of_batches_that_the_champion_has_not_seen_are_new(shape: tuple[int, ...], run: Run) -> None:
    images = pictures(10, shape)
    old, both, new = batch("day-1", images[:4], run), batch("day-2", images[2:6], run), batch("day-3", images[5:9], run)
    data = prepared(images, [old, both, new], run)
    found = _new_images(data, champion(old, both), run)
    assert found is not None
    assert found.dtype == np.bool_
    assert np.flatnonzero(found).tolist() == [6, 7, 8], "an image of both is old, and one of no batch is"
    alone = _new_images(data, champion(old), run)
    assert alone is not None
    assert np.flatnonzero(alone).tolist() == [4, 5, 6, 7, 8]


def test_a_batch_is_known_by_its_content_and_not_by_its_name(run: Run) -> None:
    images = pictures(6)
    before = [batch("day-1", images[:3], run, "a" * 64), batch("day-2", images[3:], run, "b" * 64)]
    renamed = [before[0].model_copy(update={"name": "first"}), before[1]]
    changed = [before[0], before[1].model_copy(update={"digest": "c" * 64})]
    assert _new_images(prepared(images, renamed, run), champion(*before), run) is None
    found = _new_images(prepared(images, changed, run), champion(*before), run)
    assert found is not None
    assert found.tolist() == [False] * 3 + [True] * 3


def test_where_nothing_is_new_or_all_is_nobody_says_what_is(run: Run) -> None:
    images = pictures(6)
    batches = [batch("day-1", images[:3], run), batch("day-2", images[3:], run)]
    data = prepared(images, batches, run)
    assert _new_images(data, champion(*batches), run) is None
    assert _new_images(data, champion(batch("day-0", pictures(2, seed=1), run)), run) is None
    assert _new_images(data, champion(), run) is None, "it was published before the source grew"
    assert _new_images(data, None, run) is None
    assert _new_images(prepared(images, [], run), champion(*batches), run) is None


def test_a_new_batch_without_test_images_has_no_new_ones(run: Run) -> None:
    images = pictures(6)
    batches = [batch("day-1", images, run), batch("day-2", images[:0], run)]
    found = _new_images(prepared(images, batches, run), champion(batches[0]), run)
    assert found is not None
    assert not found.any()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just("a" * 64),
    lambda each: (
        st.lists(each, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "digest", "batches"]) | st.text(max_size=3), each, max_size=3)
    ),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(JSON, st.booleans())
def test_whatever_a_champion_recorded_is_read(run: Run, recorded: Any, deep: bool) -> None:
    images = pictures(6)
    batches = [batch("day-1", images[:3], run, "a" * 64), batch("day-2", images[3:], run, "b" * 64)]
    facts = {"data": {"batches": recorded} if deep else recorded}
    found = _new_images(prepared(images, batches, run), Baseline(name="champion v3", version=3, facts=facts), run)
    assert found is None or found.tolist() == [False] * 3 + [True] * 3


def judged(new: int, champion_batches: tuple[Batch, ...], batches: list[Batch], images: Bytes, run: Run) -> Decision:
    """The verdict on a model that gets `new` of the last images wrong, beside a champion that gets none wrong."""
    labels = (np.arange(len(images)) % 10).astype(np.uint8)
    right = np.eye(10, dtype=np.float32)[labels]
    answers = right.copy()
    answers[len(images) - new :] = np.roll(answers[len(images) - new :], 1, axis=1)
    file, champions = (run.artifacts.put(to_npz(each, labels), NPZ) for each in (answers, right))
    candidate: Candidate = example().facts.candidate.model_copy(
        update={
            "model": "letters",
            "prepared": prepared(images, batches, run),
            "evaluation": score(answers, labels, file),
            "loaded": LoadBack(images=len(images), same=len(images)),
        }
    )
    baselines = Baselines(champion=champion(*champion_batches).model_copy(update={"predictions": champions}))
    gate = Gate(min_accuracy=0.9, min_accuracy_lower_bound=0.8, min_class_recall=0.5, max_regression=0.03)
    return decide(*_results(candidate, baselines, False, run), gate)


def test_the_verdict_has_rows_of_earlier_and_new_images(run: Run) -> None:
    images = pictures(400)
    batches = [batch("day-1", images[:300], run), batch("day-2", images[300:], run)]
    decision = judged(14, (batches[0],), batches, images, run)
    assert [check.name for check in decision.checks[-3:]] == ["loss to champion v3", *PARTS]
    assert [check.passed for check in decision.checks[-3:]] == [True, True, False]
    assert len(judged(14, (), batches, images, run).checks) == 6
