"""The input of one training, as one value. `flows.seeds` builds it for each seed; the train step and the work pool take
it. Only declares fields: the cache key leaves this module out.
"""

from __future__ import annotations

from tasks.settings import Recipe
from tasks.values import DeviceKind, Examples, Value


class TrainingPlan(Value):
    """Everything that the weights depend on: the images, the recipe, the kind of device.

    `validation` is only measured, never learned from; None if no images are held out. `shape` is that of an image.
    `code` is a digest of the module that the recipe's network is in, and of those that it imports; "" for the default.
    """

    examples: Examples
    validation: Examples | None
    shape: tuple[int, ...]
    recipe: Recipe
    code: str = ""
    device: DeviceKind
