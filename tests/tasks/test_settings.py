from __future__ import annotations

import pytest
from pydantic import ValidationError

from tasks.settings import DIGITS_GATE, DIGITS_RECIPE, Data, Gate, Recipe, Settings, defaults_for


def test_mnist_takes_the_recipe_and_the_gate_as_they_are() -> None:
    assert defaults_for("mnist", Recipe(), Gate()) == (Recipe(), Gate())


def test_the_digits_have_defaults_of_their_own_unless_something_was_chosen() -> None:
    assert defaults_for("digits", Recipe(), Gate()) == (DIGITS_RECIPE, DIGITS_GATE)
    recipe, gate = defaults_for("digits", Recipe(epochs=5), Gate(min_accuracy=0.97))
    assert (recipe.epochs, recipe.batch_size) == (5, DIGITS_RECIPE.batch_size)
    assert (gate.min_accuracy, gate.min_class_recall) == (0.97, DIGITS_GATE.min_class_recall)


@pytest.mark.parametrize("card", [Data, Recipe, Gate])
def test_every_field_has_a_description_and_a_default(card: type[Data] | type[Recipe] | type[Gate]) -> None:
    card()
    for name, field in card.model_fields.items():
        assert field.description, name
        assert name in Settings.model_fields


def test_settings_cannot_be_changed_or_misspelt() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Recipe().epochs = 7  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs"):
        Recipe(epoch=7)  # type: ignore[call-arg]
