"""The candidate: what a run proposes to publish, one value from training to publish. Any step may import it."""

from __future__ import annotations

from tasks.learning.plan import TrainingPlan
from tasks.settings import ModelName, Recipe
from tasks.values import (
    Evaluation,
    Export,
    LoadBack,
    PredictionsFile,
    Prepared,
    Spread,
    Trained,
    Value,
)


class Candidate(Value):
    """A trained model with all that was measured on it, before it is judged.

    The steps load_back and export fill in `loaded` and `exported`; without `loaded` the gate's row fails. `spread` is
    set if more than one seed was trained. `model` is the model's name; "" in documents of earlier versions.

    `plan` is the training of the first seed; `by_seed` has the predictions of each seed's model, () where models are
    compared and not recipes, and in earlier documents.
    """

    model: ModelName = ""
    prepared: Prepared
    recipe: Recipe
    trained: Trained
    evaluation: Evaluation
    loaded: LoadBack = LoadBack()
    exported: Export = Export()
    spread: Spread | None = None
    plan: TrainingPlan | None = None
    by_seed: tuple[PredictionsFile, ...] = ()

    @property
    def model_name(self) -> str:
        """The model's name in the store."""
        return self.model or self.prepared.dataset

    @property
    def first_weights(self) -> str:
        """The digest of the weights of the first seed's model."""
        return self.spread.scores[0].weights if self.spread else self.trained.weights_digest
