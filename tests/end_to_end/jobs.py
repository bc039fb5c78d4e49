"""Small runs of the whole job, for the tests of this folder."""

from __future__ import annotations

from typing import Any, cast

from prefect.client.schemas.objects import State

from flows.retrain import retrain
from tasks.settings import ONE_SEED, Data, GateSettings, RecipeSettings
from tasks.values import Check, Outcome
from tests.mirrors import Mirror

RECIPE = RecipeSettings(epochs=3, batch_size=32)
LENIENT = GateSettings(min_accuracy=0.5, min_accuracy_lower_bound=0.5, min_class_recall=0.2, max_regression=0.5)
CACHED = ["download", "preprocess", "train", "evaluate", "load_back", "export", "report"]


def job(
    store: str, mirror: Mirror, recipe: RecipeSettings = RECIPE, gate: GateSettings = LENIENT, **more: Any
) -> State[Outcome]:
    """A run with one seed, unless more are asked for."""
    data, options = Data(mirror=(mirror.url,)), {"device": "cpu", "seeds": ONE_SEED} | more
    return cast(State[Outcome], retrain(data, recipe, gate, store=store, return_state=True, **options))


def outcome(state: State[Outcome]) -> Outcome:
    return cast(Any, state.result())  # type: ignore[no-any-return]


def loaded_back(result: Outcome) -> Check:
    (row,) = [check for check in result.decision.checks if check.name == "loaded back"]
    return row


def reused(result: Outcome) -> list[str]:
    return [step.name for step in result.steps if step.cached]
