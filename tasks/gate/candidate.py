"""The candidate: what a run proposes to publish, one value from training to publish. Any step may import it."""

from __future__ import annotations

from tasks.settings import Recipe
from tasks.values import Evaluation, Export, LoadBack, Prepared, Spread, Trained, Value


class Candidate(Value):
    """A trained model with all that was measured on it, before it is judged.

    The steps load_back and export fill in `loaded` and `exported`; without `loaded` the gate's row fails. `spread` is
    set if more than one seed was trained.
    """

    prepared: Prepared
    recipe: Recipe
    trained: Trained
    evaluation: Evaluation
    loaded: LoadBack = LoadBack()
    exported: Export = Export()
    spread: Spread | None = None
