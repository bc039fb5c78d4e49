"""A source that grows: batches arrive, are checked, learned from once, and can be replayed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from prefect.client.orchestration import get_client

from flows.retrain import retrain
from tasks import check_batches
from tasks.errors import DataError, UsageError
from tasks.learning import predictions
from tasks.settings import BatchLimits, Data
from tasks.storage import open_store
from tasks.values import Outcome
from tests import batches
from tests.batches import GATE, MODEL, RECIPE, Images, Place, arrive, digits, name, refused

DIGITS = digits()
EARLIER = 4


@pytest.fixture(autouse=True)
def predicted_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The champion's opinion too is asked in this process."""
    monkeypatch.setattr(check_batches, "predict_isolated", predictions.predict)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Path:
    """A source of four batches, the last of which came by itself, and what the job made of them."""
    place = Place(tmp_path_factory.mktemp("begun") / "place")
    for number in range(EARLIER - 1):
        place.arrive(number)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(check_batches, "predict_isolated", predictions.predict)
        assert place.run().verdict == "published"
        place.arrive(EARLIER - 1)
        assert place.run().verdict == "published"
    shutil.copytree(place.folder.parent, place.folder.parents[1] / "kept")
    return place.folder.parent


@pytest.fixture
def place(begun: Path) -> Place:
    """That source and its store as they were, with the times of the files, at the address that they had."""
    shutil.rmtree(begun)
    shutil.copytree(begun.parent / "kept", begun)
    return Place(begun)


def steps(outcome: Outcome) -> dict[str, bool]:
    return {step.name: step.cached for step in outcome.steps}


def test_each_batch_is_learned_from_once_and_nothing_new_is_unchanged(place: Place) -> None:
    assert place.learned(1) == [name(0), name(1), name(2)]
    assert place.learned(2) == [name(0), name(1), name(2), name(3)]
    assert sum(each["images"] + each["test_images"] for each in place.facts(2)) == sum(
        len(DIGITS[n].labels) for n in range(4)
    )
    (place.folder / f"{name(0)}.npz").chmod(0)  # nobody reads it
    outcome = place.run()
    assert outcome.verdict == "already published"
    assert {step for step, cached in steps(outcome).items() if not cached} == {"collect", "judge", "record"}


POISONS: dict[str, tuple[Callable[[Images], Images], str]] = {
    "labels of other images": (batches.permuted, "labels"),
    "a fifth of the labels wrong": (lambda content: batches.permuted(content, 0.2), "labels"),
    "labels shifted by one": (batches.shifted, "labels"),
    "all of one class": (batches.of_one_class, "class shares"),
    "black is white": (batches.inverted, "pixel statistics"),
    "pictures of 320 pixels": (batches.enlarged, "image kind"),
    "an earlier batch again": (lambda _: DIGITS[0], "repeated images"),
    "classes that nobody has seen": (lambda content: content._replace(labels=content.labels + 10), "new classes"),
}


# What of them is tested nightly: rows that others of them fail too.
NIGHTLY = ("a fifth of the labels wrong", "labels shifted by one", "all of one class", "classes that nobody has seen")


@pytest.mark.parametrize(
    "poison", [pytest.param(name, marks=[pytest.mark.nightly] * (name in NIGHTLY)) for name in POISONS]
)
def test_a_poisoned_batch_is_refused_before_a_training_and_left_out(place: Place, poison: str) -> None:
    change, row = POISONS[poison]
    place.arrive(EARLIER, change(DIGITS[EARLIER]))
    for _ in range(2):  # a run that is repeated says the same
        state = place.state()
        assert row in refused(state)[name(EARLIER)]
        assert name(EARLIER) in str(state.message)
    assert place.registry.versions() == [1, 2]
    place.arrive(EARLIER + 1)
    assert refused(place.state())[name(EARLIER + 1)] == [], "the good one beside it is not blamed"
    outcome = place.run(without=(name(EARLIER),))
    assert outcome.verdict == "published"
    assert place.learned() == [name(n) for n in (0, 1, 2, 3, 5)]
    place.arrive(EARLIER + 2)
    assert place.run().verdict == "published"  # it stays out
    assert place.learned() == [name(n) for n in (0, 1, 2, 3, 5, 6)]


def test_test_images_in_a_new_batch_are_refused(place: Place) -> None:
    from tasks.data.arrays import Split
    from tasks.data.content import split_by_content

    tests = [split_by_content(Split(*DIGITS[number]))[1] for number in range(EARLIER)]
    images, labels = (np.concatenate(arrays) for arrays in zip(*tests, strict=True))
    nudged = np.clip(images.astype(int) + 1, 0, 255).astype(np.uint8)  # no longer the same, to the bit
    content = DIGITS[EARLIER]
    leaked = Images(np.concatenate([content.images, nudged]), np.concatenate([content.labels, labels]))
    place.arrive(EARLIER, leaked)
    assert "test images" in refused(place.state())[name(EARLIER)]


@pytest.mark.parametrize(
    "damage",
    [*(pytest.param(each, marks=pytest.mark.nightly) for each in ("half of it", "nothing in it")), "no file of arrays"],
)
def test_a_damaged_batch_is_left_out_until_it_is_whole(place: Place, damage: str) -> None:
    file = place.arrive(EARLIER)
    whole = file.read_bytes()
    file.write_bytes(
        {"half of it": whole[: len(whole) // 2], "nothing in it": b"", "no file of arrays": b"x" * 999}[damage]
    )
    place.arrive(EARLIER + 1)
    assert place.run().verdict == "published"
    assert place.learned() == [name(n) for n in (0, 1, 2, 3, 5)]
    file.write_bytes(whole)
    assert place.run().verdict == "published"
    assert place.learned() == [name(n) for n in range(6)]


def test_a_batch_that_changed_after_it_was_used_is_an_error_that_names_both_digests(place: Place) -> None:
    digest = place.facts(2)[1]["digest"]
    place.arrive(1, Images(DIGITS[1].images[:-40], DIGITS[1].labels[:-40]))
    state = place.state()
    with pytest.raises(DataError, match=digest) as error:
        cast(Any, state.result())
    assert f"--accept-changed {name(1)}" in str(error.value)
    accepted = place.run(accept_changed=(name(1),))
    assert accepted.verdict == "published"
    assert place.facts(3)[1]["digest"] in str(error.value)
    assert place.run().verdict == "already published"
    place.arrive(1)  # the first one again is a change too
    with pytest.raises(DataError, match=digest):
        cast(Any, place.state().result())


def test_one_that_was_copied_there_again_is_the_same(place: Place) -> None:
    file = place.arrive(1)
    os.utime(file, (1, 1))  # a clock that went back
    outcome = place.run()
    assert outcome.verdict == "already published"
    assert steps(outcome)["joined"], "the same digests are the same data"
    file.chmod(0)
    assert place.run().verdict == "already published", "it is known under its new time"


def test_one_that_disappeared_is_said_and_its_images_stay_out(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    (place.folder / f"{name(1)}.npz").unlink()
    assert place.run().verdict == "published"
    assert place.learned() == [name(n) for n in (0, 2, 3)]
    assert f"no longer there, so their images stay out: {name(1)}" in caplog.text


def test_a_late_one_is_learned_from_as_any_other(place: Place) -> None:
    late = "2026-10-31"
    arrive(place.folder, late, DIGITS[EARLIER])
    outcome = place.run()
    assert outcome.verdict == "published"
    assert place.learned() == [late, *(name(n) for n in range(EARLIER))]
    with get_client(sync_client=True) as client:  # its rows stand on the run's page
        shown = {one.key: str(one.data) for one in client.read_artifacts() if str(one.flow_run_id) == outcome.run}
    assert f"## Batch {late}, 150 images" in shown["batch-checks-grown"]
    assert "| labels  " in shown["batch-checks-grown"]


def test_window_and_until_choose_batches(place: Place) -> None:
    assert place.run(data={"window": 2}).verdict == "published"
    assert place.learned() == [name(2), name(3)]
    assert place.run(until=name(2)).verdict == "published"
    assert place.learned() == [name(0), name(1), name(2)]
    weights = [place.registry.manifest(version).fact("weights_digest") for version in (1, 4)]
    assert weights[0] == weights[1]


def test_a_run_that_only_judges_does_not_enter_what_it_saw(place: Place) -> None:
    place.arrive(EARLIER)
    assert place.run(dry_run=True).verdict == "passed"
    assert {entry.key.split("/")[3] for entry in open_store(place.store).list("batches/")} == {
        name(n) for n in range(EARLIER)
    }


def test_a_limit_may_be_moved_for_a_batch_that_is_right(place: Place) -> None:
    place.arrive(EARLIER, batches.inverted(DIGITS[EARLIER]))
    failed = refused(place.state())[name(EARLIER)]
    assert set(failed) <= {"pixel statistics", "labels", "test images"}
    moved = BatchLimits(min_p_pixels=0, min_p_labels=0, max_leaked=1)
    assert place.state(batches=moved).name in {"Published", "Rejected"}  # now the gate decides
    assert name(EARLIER) in place.learned() or len(place.registry.versions()) == 2


def test_history_is_rebuilt_bit_for_bit(place: Place, tmp_path: Path) -> None:
    place.arrive(EARLIER)
    assert place.run().verdict == "published"
    again = Place(place.folder.parent)
    again.store = str(tmp_path / "rebuilt")
    for number in range(2, EARLIER + 1):
        assert again.run(until=name(number)).verdict == "published"
    weights = [
        [registry.manifest(version).fact("weights_digest") for version in registry.versions()]
        for registry in (place.registry, again.registry)
    ]
    assert len(weights[0]) == 3
    assert weights[0] == weights[1]


@pytest.mark.parametrize("choice", ["until", "without", "accept_changed"])
def test_a_batch_that_is_not_there_is_one_line(place: Place, choice: str) -> None:
    value: Any = "2026-12-24" if choice == "until" else ("2026-12-24",)
    with pytest.raises(UsageError, match="2026-12-24"):
        cast(Any, place.state(**{choice: value}).result())


def test_batches_of_a_source_without_any_cannot_be_chosen(place: Place) -> None:
    file = str(place.folder / f"{name(0)}.npz")
    with pytest.raises(UsageError, match=r"/\* has batches"):
        retrain(Data(source=file), RECIPE, GATE, model=MODEL, store=place.store, until="x")


def test_a_source_without_a_batch_is_an_error(place: Place) -> None:
    shutil.rmtree(place.folder)
    place.folder.mkdir()
    with pytest.raises(DataError):
        cast(Any, place.state().result())


def test_the_cache_may_be_lost_between_two_runs(place: Place) -> None:
    shutil.rmtree(Path(place.store) / "cache")
    assert place.run().verdict == "already published"
