"""What the seeds of a version answer: kept by test set, counted only if it is whole and fits the published model."""

from __future__ import annotations

import hashlib
import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tasks.data.arrays import answers_to_npz
from tasks.registry.answers import FOLDER, SeedAnswers
from tasks.storage import open_store
from tasks.storage.verified import sealed

LABELS = np.arange(200, dtype=np.uint8) % 10
SEEDS = np.stack([np.roll(LABELS, shift) for shift in range(3)])
VERSION, OTHER = (hashlib.sha256(text).hexdigest() for text in (b"version", b"other"))
TEST_SET = ("1" * 64, "2" * 64)


def test_answers_are_read_as_they_were_kept(store_url: str) -> None:
    kept = SeedAnswers(open_store(store_url), *TEST_SET)
    assert kept.read(VERSION, SEEDS[1], LABELS) is None
    kept.keep(VERSION, SEEDS[:2], LABELS)
    kept.keep(VERSION, SEEDS, LABELS)
    read = kept.read(VERSION, SEEDS[1], LABELS)
    assert read is not None
    assert np.array_equal(read, SEEDS)
    assert kept.read(OTHER, SEEDS[1], LABELS) is None, "another version"
    assert SeedAnswers(open_store(store_url), "3" * 64, TEST_SET[1]).read(VERSION, SEEDS[1], LABELS) is None


def test_runs_that_keep_them_at_once_disturb_nothing(store_url: str) -> None:
    kept = SeedAnswers(open_store(store_url), *TEST_SET)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda seeds: kept.keep(VERSION, SEEDS[: 1 + seeds % 3], LABELS), range(40)))
    read = kept.read(VERSION, SEEDS[0], LABELS)
    assert read is not None
    assert np.array_equal(read, SEEDS[: len(read)])


def _kept(change: str) -> bytes:
    whole = answers_to_npz(SEEDS, LABELS)
    return {
        "a byte": sealed(whole)[:-1] + b"?",
        "cut": sealed(whole)[:-30],
        "empty": b"",
        "no answers": sealed(b"PK\x05\x06" + bytes(18)),
        "another model": sealed(answers_to_npz(SEEDS[2:], LABELS)),
        "other labels": sealed(answers_to_npz(SEEDS, LABELS[::-1].copy())),
        "other images": sealed(answers_to_npz(SEEDS[:, :-1], LABELS[:-1])),
        "too large": sealed(answers_to_npz(np.repeat(SEEDS, 80, axis=0), LABELS)),
        "of text": sealed(answers_to_npz(SEEDS.astype(np.float32), LABELS.astype(np.float32))),
    }[change]


@pytest.mark.parametrize(
    "change",
    ["a byte", "cut", "empty", "no answers", "another model", "other labels", "other images", "too large", "of text"],
)
def test_damaged_or_forged_answers_count_as_none(store_url: str, change: str, caplog: pytest.LogCaptureFixture) -> None:
    store = open_store(store_url)
    kept = SeedAnswers(store, *TEST_SET)
    kept.keep(VERSION, SEEDS, LABELS)
    (entry,) = store.list(FOLDER)
    store.put(entry.key, _kept(change))
    with caplog.at_level(logging.WARNING):
        assert kept.read(VERSION, SEEDS[1], LABELS) is None
    assert "counts as one seed" in caplog.text
