from __future__ import annotations

import json
from typing import Any

import pytest

from tests.operating.batches import (
    DIGITS_BATCHES,
    EARLIER,
    JSON,
    ROWS,
    Counts,
    digits,
    digits_rates,
    markdown,
)

Rates = dict[str, dict[str, dict[str, Any]]]

# What is put into a batch that a row finds whatever the data.
GROSS = (
    "labels permuted",
    "labels shifted by one",
    "one class only",
    "images inverted",
    "5 % are test images",
    "5 % are test images as JPEG",
    "an earlier batch again",
    "images of another size",
)


@pytest.fixture(scope="module")
def saved() -> Rates:
    content: Rates = json.loads(JSON.read_text())
    return content


@pytest.mark.parametrize("data", ["mnist", "digits", "days"])
def test_no_row_refuses_more_than_one_healthy_batch_in_a_hundred(saved: Rates, data: str) -> None:
    kept = saved["healthy"][data]
    assert kept["batches"] >= 500
    assert {row: rate for row, rate in kept.items() if row in ROWS and rate > 0.01} == {}


def test_why_the_dispersion_is_taken_into_account(saved: Rates) -> None:
    assert saved["healthy"]["naive"]["class shares"] > 0.1
    assert saved["healthy"]["naive"]["pixel statistics"] > 0.1


@pytest.mark.parametrize("poison", GROSS)
def test_gross_poisons_are_found_in_nearly_every_batch(saved: Rates, poison: str) -> None:
    for number in set(EARLIER):
        assert saved["poisoned"][f"mnist, {number} earlier: {poison}"]["any"] >= 0.95
    assert saved["poisoned"][f"digits, batch {DIGITS_BATCHES}: {poison}"]["any"] >= 0.95


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_a_shorter_run_finds_the_same(saved: Rates) -> None:
    healthy: Counts = {}
    poisoned: Counts = {}
    digits_rates(digits(), healthy, poisoned, worlds=1)
    assert healthy["digits"].batches == DIGITS_BATCHES - 1
    assert healthy["digits"].rates().get("any", 0) <= 1 / (DIGITS_BATCHES - 1)
    found = [name for name, count in poisoned.items() if count.rows["any"]]
    assert set(found) >= {name for name, each in saved["poisoned"].items() if "digits" in name and each.get("any") == 1}


def test_the_readme_quotes_the_tables(saved: Rates) -> None:
    readme = (JSON.parents[2] / "tasks/gate/README.md").read_text()
    for table in markdown(saved).split("\n\n"):
        assert table.strip() in readme
