"""The candidate: what a run proposes to publish, from training to publish one value."""

from __future__ import annotations

from tasks.settings import Recipe
from tasks.values import Evaluation, Export, LoadBack, Prepared, Spread, Trained, Value


class Candidate(Value):
    """A trained model with all that was measured on it, before it is judged.

    `loaded` and `exported` are filled in by the steps load_back and export; without the first, the gate's row fails.
    `spread` tells how the seeds differ, where more than one was trained.
    """

    prepared: Prepared
    recipe: Recipe
    trained: Trained
    evaluation: Evaluation
    loaded: LoadBack = LoadBack()
    exported: Export = Export()
    spread: Spread | None = None
