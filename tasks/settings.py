"""Every setting, its bounds and its default, on one screen.

The same fields are the cards of the Prefect run form, the options of `retrain run`, and `RETRAIN_*` environment
variables. Any module may import this one; it imports neither Prefect nor TensorFlow.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BeforeValidator, Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from tasks.values import Value

T = TypeVar("T", bound=Value)

Dataset = Literal["mnist", "digits"]
DeviceChoice = Literal["auto", "cpu", "gpu"]
# Earlier versions called the work pool gpu, and so did their deployments.
TrainOn = Annotated[Literal["here", "pool"], BeforeValidator(lambda value: "pool" if value == "gpu" else value)]
StepName = Literal["download", "preprocess", "train", "evaluate", "load_back", "export"]
Seeds = Annotated[int, Field(ge=1, le=100)]
Share = Annotated[float, Field(ge=0, le=1)]


class Data(Value):
    """What to learn from."""

    dataset: Dataset = Field(
        "mnist", description="Data set; digits is the small one inside scikit-learn, with defaults of its own."
    )
    mirror: tuple[str, ...] = Field(
        (), description="Mirrors to try, in order: https://, file:// or s3://. None: the public mirrors."
    )
    validation_fraction: float = Field(
        0.0, ge=0, le=0.5, description="Share of the training images held out. The recipe trains on all."
    )
    split_seed: int = Field(0, ge=0, lt=2**32, description="Seed of the validation split.")


class Recipe(Value):
    """How to train."""

    epochs: int = Field(5, ge=1, le=1000, description="Passes over the training images.")
    batch_size: int = Field(128, ge=1, le=65536, description="Images per step.")
    learning_rate: float = Field(0.001, gt=0, le=1, description="RMSprop's learning rate.")
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of the initial weights and of the image order.")


class Gate(Value):
    """What a model must reach to be published."""

    min_accuracy: Share = Field(0.97, description="Lowest test accuracy.")
    min_accuracy_lower_bound: Share = Field(
        0.97, description="Lowest one-sided 95 % lower confidence bound of the accuracy (Wilson)."
    )
    min_class_recall: Share = Field(0.90, description="Lowest recall of any one class.")
    max_regression: Share = Field(
        0.002,
        description="Largest loss of accuracy, to the champion and to a pinned version, that may be shown "
        "(Tango, one-sided 95 %).",
    )


# The digits are fewer: they take more epochs to learn, and 360 test images resolve less than 10,000. Twelve seeds of
# this recipe reached 0.964 to 0.989, their weakest classes 0.83 to 0.96. Of all pairs of 30 seeds, 0.940, 0.979 and
# 0.998 pass with a max_regression of 0.002, 0.005 and 0.01.
DIGITS_RECIPE = Recipe(epochs=20, batch_size=32)
DIGITS_GATE = Gate(min_accuracy=0.94, min_accuracy_lower_bound=0.92, min_class_recall=0.75, max_regression=0.005)


def defaults_for(dataset: Dataset, recipe: Recipe, gate: Gate) -> tuple[Recipe, Gate]:
    """The recipe and the gate, with the data set's own values wherever none was chosen."""
    if dataset == "mnist":
        return recipe, gate
    return _over(DIGITS_RECIPE, recipe), _over(DIGITS_GATE, gate)


def _over(defaults: T, chosen: T) -> T:
    return defaults.model_copy(update={name: getattr(chosen, name) for name in chosen.model_fields_set})


class Settings(Data, Recipe, Gate, BaseSettings):
    """All settings of a run in one flat list: the command line's options, and `RETRAIN_*` in the environment."""

    model_config = SettingsConfigDict(env_prefix="RETRAIN_", env_ignore_empty=True, frozen=True, extra="ignore")

    mirror: Annotated[tuple[str, ...], NoDecode] = Field((), description=Data.model_fields["mirror"].description)
    device: DeviceChoice = Field("auto", description="Where to train: auto takes a GPU where there is one.")
    train_on: TrainOn = Field(
        "here",
        description="Where to train: here, on this run's own machine; pool, on a worker of the pool retrain-training.",
    )
    seeds: Seeds = Field(
        1, description="How many seeds to train, from the recipe's on; the median model by accuracy is judged."
    )
    store: str = Field("./store", description="Where everything is kept: s3://bucket/prefix, file:///folder or a path.")
    refresh: Annotated[tuple[StepName, ...], NoDecode] = Field(
        (), description="Steps to compute anew instead of reusing their cached results."
    )

    @field_validator("mirror", "refresh", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """RETRAIN_MIRROR and RETRAIN_REFRESH hold words separated by spaces."""
        return tuple(value.split()) if isinstance(value, str) else value

    def cards(self) -> tuple[Data, Recipe, Gate]:
        """The settings as the flow takes them; a field that was not set stays unset."""
        given = self.model_dump(include=self.model_fields_set)

        def card(kind: type[T]) -> T:
            return kind(**{name: given[name] for name in kind.model_fields if name in given})

        return card(Data), card(Recipe), card(Gate)


def home() -> Path:
    """The folder for what can be computed again, such as copies of artifacts; `RETRAIN_HOME` moves it."""
    return Path(os.environ.get("RETRAIN_HOME") or Path.home() / ".retrain")


def allow_http() -> bool:
    """Whether `RETRAIN_ALLOW_HTTP` permits an S3 endpoint of another machine without encryption; see `--allow-http`."""
    return os.environ.get("RETRAIN_ALLOW_HTTP", "").lower() in {"1", "true", "yes", "on"}


def history_decides() -> bool:
    """Whether `RETRAIN_HISTORY_DECIDES` says that no store's conditional writes are to be relied on."""
    return os.environ.get("RETRAIN_HISTORY_DECIDES", "").lower() in {"1", "true", "yes", "on"}
