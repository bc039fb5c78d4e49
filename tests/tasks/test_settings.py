"""The settings: the data sets' own values, and what follows what was chosen."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.errors import UsageError
from tasks.settings import (
    DEFAULTS,
    DIGITS_GATE,
    DIGITS_RECIPE,
    Gate,
    GateSettings,
    Recipe,
    RecipeSettings,
    Settings,
    gate_for,
    judges_only,
    recipe_for,
)

shares = st.none() | st.floats(0, 1)


def test_what_nobody_chose_is_the_data_sets_own() -> None:
    assert (recipe_for("mnist", RecipeSettings()), gate_for("mnist", GateSettings())) == (Recipe(), Gate())
    assert (recipe_for("digits", RecipeSettings()), gate_for("digits", GateSettings())) == (DIGITS_RECIPE, DIGITS_GATE)
    recipe = recipe_for("digits", RecipeSettings(epochs=5))
    gate = gate_for("digits", GateSettings(min_accuracy=0.97))
    assert (recipe.epochs, recipe.batch_size) == (5, DIGITS_RECIPE.batch_size)
    assert (gate.min_accuracy, gate.min_class_recall) == (0.97, DIGITS_GATE.min_class_recall)


def test_a_form_that_sends_its_empty_fields_chooses_nothing() -> None:
    sent = GateSettings.model_validate(dict.fromkeys(GateSettings.model_fields))
    assert (recipe_for("digits", RecipeSettings(epochs=None)), gate_for("digits", sent)) == (DIGITS_RECIPE, DIGITS_GATE)


def test_a_lower_accuracy_lowers_what_it_implies() -> None:
    gate = gate_for("mnist", GateSettings(min_accuracy=0.9))
    assert (gate.min_accuracy_lower_bound, gate.min_class_recall, gate.max_regression) == (0.9, 0.83, 0.0029)
    gate = gate_for("mnist", GateSettings(min_accuracy=0.9, min_class_recall=0.95))
    assert (gate.min_accuracy_lower_bound, gate.min_class_recall) == (0.9, 0.95)
    gate = gate_for("mnist", GateSettings(min_accuracy=0))
    assert (gate.min_accuracy_lower_bound, gate.min_class_recall) == (0, 0)


@given(st.sampled_from(["mnist", "digits"]), st.tuples(shares, shares, shares, shares))
def test_chosen_limits_hold_and_no_other_is_stricter_than_them(
    dataset: Literal["mnist", "digits"], limits: tuple[float | None, ...]
) -> None:
    chosen = GateSettings.model_validate(dict(zip(GateSettings.model_fields, limits, strict=True)))
    own = DEFAULTS[dataset][1]
    gate = gate_for(dataset, chosen)
    assert gate.model_dump() | chosen.model_dump(exclude_none=True) == gate.model_dump()
    Gate.model_validate(gate.model_dump())  # within bounds
    for name in ("min_accuracy_lower_bound", "min_class_recall"):
        if getattr(chosen, name) is None:
            assert getattr(gate, name) <= getattr(own, name), name
            assert getattr(gate, name) <= gate.min_accuracy + 1e-6, name


@pytest.mark.parametrize(("written", "meant"), [("gpu", "pool"), ("pool", "pool"), ("here", "here")])
def test_deployments_of_earlier_versions_name_the_pool_gpu(written: str, meant: str) -> None:
    assert Settings.model_validate({"train_on": written}).train_on == meant


def test_a_time_zone_is_one() -> None:
    assert Settings(timezone="America/New_York").timezone == "America/New_York"
    for name in ("Mars/Base", "../etc/passwd", ""):
        with pytest.raises(ValidationError, match="no such time zone"):
            Settings(timezone=name)


def test_every_setting_has_a_description() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name


def test_settings_cannot_be_changed_or_misspelt() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        RecipeSettings().epochs = 7  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs"):
        RecipeSettings(epoch=7)  # type: ignore[call-arg]


@pytest.mark.parametrize("reason", ["Audit passed.\n3  2026-01-01  version 1  forged", "\x1b[2J", " \t"])
def test_a_reason_to_publish_is_a_line_wherever_it_comes_from(reason: str) -> None:
    with pytest.raises(UsageError, match="the reason to publish: it is empty, or holds line breaks"):
        judges_only(dry_run=False, baseline="", force_publish=reason)
    assert not judges_only(dry_run=False, baseline="", force_publish="an audit – passed")
