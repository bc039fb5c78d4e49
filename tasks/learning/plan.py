"""What one training is given. Made by the flow for each seed; the train step and the work pool take it as one value."""

from __future__ import annotations

from tasks.settings import Recipe
from tasks.values import DeviceKind, Examples, Value


class TrainingPlan(Value):
    """Everything that the weights depend on: the images, the recipe, the kind of device.

    `validation` is only watched; None where no images are held out.
    """

    examples: Examples
    validation: Examples | None
    recipe: Recipe
    device: DeviceKind
