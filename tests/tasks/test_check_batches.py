from __future__ import annotations

import numpy as np

from tasks.check_batches import Batch, Opinion, _verdict
from tasks.data.arrays import Labels, Probabilities
from tasks.settings import BatchLimits

NAMES = ("alpaca", "badger", "crane")


def batch(name: str, seed: int) -> Batch:
    images = np.random.default_rng(seed).integers(0, 256, (90, 8, 8), dtype=np.uint8)
    return Batch(name, "a" * 64, images, np.arange(90, dtype=np.uint8) % 3, 9, NAMES)


def sure(labels: Labels) -> Probabilities:
    """Probabilities of a champion that is sure of these classes."""
    probabilities: Probabilities = np.eye(3, dtype=np.float32)[labels]
    return probabilities


def test_a_refused_batch_has_what_the_champion_takes_each_contradicted_image_for() -> None:
    earlier, new = [batch("day-1", 1), batch("day-2", 2)], batch("day-3", 3)
    taken = new.labels.copy()
    taken[::4] = (taken[::4] + 1) % 3
    opinion = Opinion("champion v1", NAMES, {"day-3": sure(taken)}, sure(new.labels), new.labels)
    verdict = _verdict(new, earlier, opinion, BatchLimits())
    assert verdict.failed == ("labels",)
    images = verdict.offending["labels"]
    assert images
    assert all(image % 4 == 0 for image in images)
    assert verdict.guesses == {"labels": tuple(NAMES[taken[image]] for image in images)}


def test_where_the_champion_agrees_or_is_not_asked_there_are_no_guesses() -> None:
    earlier, new = [batch("day-1", 1), batch("day-2", 2)], batch("day-3", 3)
    agrees = Opinion("champion v1", NAMES, {"day-3": sure(new.labels)}, sure(new.labels), new.labels)
    for opinion in (agrees, None):
        verdict = _verdict(new, earlier, opinion, BatchLimits())
        assert (verdict.failed, verdict.guesses) == ((), {})
