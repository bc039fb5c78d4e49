"""Every setting, its bounds and its default, on one screen.

The same fields are the cards of the Prefect run form, the keys of `retrain.toml`, the options of the command line, and
`RETRAIN_*` environment variables; `flows.cli.config` reads the last three. Any module may import this one; it imports
neither Prefect nor TensorFlow.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, TypeVar
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, AliasChoices, BeforeValidator, ConfigDict, Field, field_validator

from tasks.address import PLAIN, Address, is_plain, without_secrets
from tasks.errors import UsageError
from tasks.values import Value

T = TypeVar("T", bound=Value)

# The variables of which a client of HTTP makes headers and addresses.
SENT = re.compile(r"AWS_|PREFECT_API_|(HTTPS?|ALL)_PROXY$")

DeviceChoice = Literal["auto", "cpu", "gpu"]
# Earlier versions called the work pool gpu, and so do their deployments.
TrainOn = Annotated[Literal["here", "pool"], BeforeValidator(lambda value: "pool" if value == "gpu" else value)]
StepName = Literal["download", "preprocess", "train", "evaluate", "load_back", "export"]
ONE_SEED = "1"
Epochs = Annotated[int, Field(ge=1, le=1000)]
BatchSize = Annotated[int, Field(ge=1, le=65536)]
LearningRate = Annotated[float, Field(gt=0, le=1)]
RandomSeed = Annotated[int, Field(ge=0, lt=2**32)]
Share = Annotated[float, Field(ge=0, le=1)]
# For the run form, what stands there is stored: the server refuses an address with a password or a signature.
FORM = Field(json_schema_extra={"pattern": PLAIN})
StoreAddress = Annotated[str, FORM]
MirrorAddress = Annotated[Address, FORM]
# A name is a folder of the store, a part of a deployment's name, and a tag.
MODEL_NAME = "[a-z0-9][a-z0-9-]{0,49}"
ModelName = Annotated[str, Field(pattern=f"^({MODEL_NAME})?$")]
# The name of a batch is a folder of the store.
BATCH_NAME = "[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}"
BatchName = Annotated[str, Field(pattern=f"^({BATCH_NAME})?$")]
NetworkName = Annotated[str, Field(pattern=r"^([A-Za-z_][\w.]*:[A-Za-z_]\w*)?$", max_length=200)]


def _time_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, OSError, ValueError):  # unknown; no name of a time zone at all
        raise ValueError("no such time zone; one is Europe/Berlin") from None
    return name


def _block_name(name: str) -> str:
    if name and not re.fullmatch(r"[a-z0-9-]+/[A-Za-z0-9_-]+", name):
        raise ValueError(
            "it takes the name of a notification block, type/name such as slack-webhook/ops, and no address; "
            "create the block in the Prefect interface under Blocks, which keeps the address secret"
        )
    return name


def _seeds(value: object) -> str:
    """Earlier versions had a number here, and so have their files and deployments."""
    if not re.fullmatch(r"100|[1-9][0-9]?|1\.\.3|1\.\.5|3\.\.5", str(value)):
        raise ValueError("it takes a number, 1 to 100, or as many as the verdict needs: 1..5, 1..3 or 3..5")
    return str(value)


SeedsSetting = Annotated[str, BeforeValidator(_seeds)]


# How the address of a folder of batches ends.
EACH = "/*"


def has_batches(source: str) -> bool:
    """Whether a source grows: each file or folder in it is a batch."""
    return source.endswith(EACH)


class Card(Value):
    """A group of settings: a card of the run form, where a field is called what it is called elsewhere."""

    model_config = ConfigDict(field_title_generator=lambda name, _: name)


class Data(Card):
    """What to learn from."""

    # Whoever starts runs over the API may still say dataset, as in earlier versions; the form does not show it.
    model_config = ConfigDict(json_schema_extra={"patternProperties": {"^dataset$": {"enum": ["mnist", "digits"]}}})

    source: MirrorAddress = Field(
        Address("mnist"),
        validation_alias=AliasChoices("source", "dataset"),  # dataset: earlier versions
        description="mnist, digits (the small set inside scikit-learn, with defaults of its own), fashion-mnist, "
        "kmnist, or where your own images are: a folder, file://, s3:// or https://; formats: tasks/data/README.md. "
        "Of a source that grows, the folder of its batches and /*: s3://data/letters/*.",
    )
    mirror: tuple[MirrorAddress, ...] = Field(
        (),
        description="Mirrors of a known set to try, in order: https://, file:// or s3://. None: the public ones.",
    )
    validation_fraction: float = Field(
        0.0, ge=0, le=0.5, description="Share of the training images held out. The recipe trains on all."
    )
    split_seed: RandomSeed = Field(0, description="Seed of the validation split.")
    window: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        0, description="Of a source that grows, how many batches to learn from: the last ones by name. 0: all."
    )

    @field_validator("source")
    @classmethod
    def _address(cls, source: Address) -> Address:
        """A single word is a mistyped name, and not a folder."""
        if source not in KNOWN and not re.search(r"[/\\]|^\.", source):
            known = ", ".join(KNOWN)
            raise ValueError(f"it is no known data set ({known}); write a folder with a slash: ./{source}")
        return source


class Recipe(Value):
    """How to train; the defaults are MNIST's."""

    epochs: Epochs = 5
    batch_size: BatchSize = 128
    learning_rate: LearningRate = 0.001
    seed: RandomSeed = 0
    network: NetworkName = ""


class Gate(Value):
    """What a model must reach to be published; the defaults are MNIST's."""

    min_accuracy: Share = 0.97
    min_accuracy_lower_bound: Share = 0.97
    min_class_recall: Share = 0.90
    max_regression: Share = 0.0029


# The digits are fewer: they take more epochs to learn, and 360 test images resolve less than 10,000. Twelve seeds of
# this recipe reached 0.964 to 0.989, their weakest classes 0.83 to 0.96.
DIGITS_RECIPE = Recipe(epochs=20, batch_size=32)
DIGITS_GATE = Gate(min_accuracy=0.94, min_accuracy_lower_bound=0.92, min_class_recall=0.75, max_regression=0.0105)
DEFAULTS = {"mnist": (Recipe(), Gate()), "digits": (DIGITS_RECIPE, DIGITS_GATE)}

# The data sets that have a name; `tasks.data.datasets` has their files.
KNOWN = ("mnist", "digits", "fashion-mnist", "kmnist")

# Of data without measured limits: min_accuracy has to be given, and the limits that it implies are left to it.
OWN_GATE = Gate(min_accuracy=1.0, min_accuracy_lower_bound=0.0, min_class_recall=0.0, max_regression=0.01)

# The max_regression of one seed, which is a loss that is shown, and not an estimate. Of all pairs of 100 seeds of MNIST
# 0.944 pass, of 30 of the digits 0.979.
SHOWN_LOSS = {"mnist": 0.002, "digits": 0.005}
OWN_SHOWN_LOSS = 0.005


def _unset(name: str) -> str:
    """The end of a description: what it means to leave the field unset."""
    own = {dataset: recipe.model_dump() | gate.model_dump() for dataset, (recipe, gate) in DEFAULTS.items()}
    return f"Unset: {', '.join(f'{values[name]:g} for {dataset}' for dataset, values in own.items())}."


class RecipeSettings(Card):
    """How to train. What is unset is the data set's own."""

    model_config = ConfigDict(title="Recipe")

    epochs: Epochs | None = Field(None, description=f"Passes over the training images. {_unset('epochs')}")
    batch_size: BatchSize | None = Field(None, description=f"Images per step. {_unset('batch_size')}")
    learning_rate: LearningRate | None = Field(None, description=f"RMSprop's learning rate. {_unset('learning_rate')}")
    seed: RandomSeed = Field(0, description="Seed of the initial weights and of the image order.")
    network: NetworkName = Field(
        "",
        description="Your own network, package.module:function, which gets the shape of an image and the number of "
        "classes and returns a Keras model. Unset: one hidden layer of 512 units.",
    )


class GateSettings(Card):
    """What a model must reach to be published. A limit that is unset is the data set's own."""

    model_config = ConfigDict(title="Gate")

    min_accuracy: Share | None = Field(None, description=f"Lowest test accuracy. {_unset('min_accuracy')}")
    min_accuracy_lower_bound: Share | None = Field(
        None,
        description="Lowest one-sided 95 % lower confidence bound of the accuracy (Wilson). "
        f"{_unset('min_accuracy_lower_bound')} It goes down with a lower min_accuracy.",
    )
    min_class_recall: Share | None = Field(
        None,
        description=f"Lowest recall of any one class. {_unset('min_class_recall')} "
        "It goes down with a lower min_accuracy.",
    )
    max_regression: Share | None = Field(
        None,
        description="Largest loss of accuracy to the champion and to a pinned version, between the means over seeds. "
        f"{_unset('max_regression')} With one seed, the largest loss that may be shown (Tango, one-sided 95 %); "
        f"unset: {', '.join(f'{loss:g} for {dataset}' for dataset, loss in SHOWN_LOSS.items())}.",
    )


class BatchLimits(Card):
    """What a new batch of a source that grows must reach before a model learns from it, compared with the earlier ones.

    Each p-value is that of one test, so a healthy batch fails a row with about that probability.
    """

    model_config = ConfigDict(title="Batches")

    min_p_classes: Share = Field(0.001, description="Lowest p-value of a class that has no image.")
    min_p_shares: Share = Field(0.001, description="Lowest p-value of the shares of the classes (chi-squared).")
    min_p_pixels: Share = Field(0.001, description="Lowest p-value of brightness and contrast (Kolmogorov-Smirnov).")
    min_p_labels: Share = Field(
        0.001, description="Lowest p-value of the labels that the champion contradicts (Fisher)."
    )
    max_new_classes: Annotated[int, Field(ge=0, le=1000)] = Field(0, description="Most classes that no batch had.")
    max_repeated: Share = Field(0.01, description="Largest share of images that an earlier batch has too.")
    max_leaked: Share = Field(
        0.01, description="Largest share of images that are test images of earlier batches, or nearly so."
    )


class Schedule(Card):
    """When and where the deployed job runs."""

    cron: str = Field("0 4 * * 1", description="When the scheduled deployment runs, as cron has it: Mondays at 4.")
    timezone: Annotated[str, AfterValidator(_time_zone)] = Field("UTC", description="The time zone of cron.")
    train_on: TrainOn | None = Field(
        None,
        description="Where to train: here, on the run's own machine; pool, on a worker of the pool retrain-training. "
        "Unset: here for retrain run, pool for deployments.",
    )


class Retention(Card):
    """What `retrain gc` keeps of a model's versions and runs. What is unset is kept for ever."""

    keep_champions: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        None,
        description="How many champions gc keeps: the last ones, and those that as many rollbacks lead to. Unset: "
        "every version.",
    )
    keep_months: Annotated[int, Field(ge=0, le=1200)] | None = Field(
        None,
        description="Of how many months, this one included, gc keeps the last champion too. Unset: of every month.",
    )
    keep_runs_days: Annotated[int, Field(ge=1, le=36_500)] | None = Field(
        None,
        description="For how many days gc keeps the report of a run that published no version which is kept. Unset: "
        "for ever.",
    )


# What moves with a lower min_accuracy: a stricter one would decide in its place, and choosing it would change nothing.
FOLLOWERS = ("min_accuracy_lower_bound", "min_class_recall")


def recipe_for(source: str, recipe: RecipeSettings) -> Recipe:
    """The recipe of a run, with the data set's own values wherever none was chosen."""
    own, _ = DEFAULTS.get(source, (Recipe(), OWN_GATE))
    return own.model_copy(update=recipe.model_dump(exclude_none=True))


def gate_for(source: str, gate: GateSettings, seeds: str = "") -> Gate:
    """The gate of a run, with the data set's own values wherever none was chosen.

    A chosen `min_accuracy` that is lower than the data set's own lowers the limits that it implies by as much. With one
    seed, `max_regression` is a loss that is shown (`SHOWN_LOSS`).

    Raises:
        UsageError: The data are not a known set, and there is no min_accuracy.
    """
    _, own = DEFAULTS.get(source, (Recipe(), OWN_GATE))
    if seeds == ONE_SEED:
        own = own.model_copy(update={"max_regression": SHOWN_LOSS.get(source, OWN_SHOWN_LOSS)})
    chosen = gate.model_dump(exclude_none=True)
    if source not in DEFAULTS and "min_accuracy" not in chosen:
        raise UsageError(
            "cannot judge a model of these data",
            "no limit is set for its accuracy",
            "Set min_accuracy in [gate] of retrain.toml, or --min-accuracy; `retrain calibrate` proposes all limits.",
            source,
        )
    lowered = max(0.0, own.min_accuracy - chosen.get("min_accuracy", 1.0))
    following = {name: max(0.0, round(getattr(own, name) - lowered, 6)) for name in FOLLOWERS}
    return own.model_copy(update=following | chosen)


class Settings(Data, RecipeSettings, GateSettings, BatchLimits, Schedule, Retention):
    """All settings in one flat list."""

    model_config = ConfigDict(title="Settings")

    model: ModelName = Field(
        "",
        description="The model's name in the store and in Prefect: lowercase letters, digits and dashes. Unset: that "
        "of a known data set.",
    )

    store: StoreAddress = Field(
        "./store", description="Where everything is kept: s3://bucket/prefix, file:///folder or a path."
    )
    device: DeviceChoice = Field("auto", description="Where to train: auto takes a GPU where there is one.")
    seeds: SeedsSetting = Field(
        "1..5",
        description="How many seeds to train, from the recipe's on: 1..5, at most five and no more than the verdict "
        "needs; 5, always five. The median model by accuracy is published.",
    )
    approve: bool = Field(False, description="A model that passes the gate waits until a person approves it.")
    notify: Annotated[str, AfterValidator(_block_name)] | None = Field(
        None, description="A Prefect notification block (slack-webhook/ops) that is told how deployed runs end."
    )
    refresh: tuple[StepName, ...] = Field(
        (), description="Steps to compute anew instead of reusing their cached results."
    )
    dry_run: bool = Field(False, description="Judge only: publish nothing, also if the model passes the gate.")
    require_champion: bool = Field(
        False, description="Fail before the training if there is no champion to compare with."
    )
    baseline: StoreAddress = Field(
        "",
        description="Another store, which is only read: its champion and its pinned version are what the model is "
        "compared with. Implies dry_run and require_champion.",
    )

    until: BatchName = Field("", description="The last batch to learn from, of a source that grows. Unset: the last.")
    without: tuple[BatchName, ...] = Field((), description="Batches to leave out, now and in all later runs.")
    accept_changed: tuple[BatchName, ...] = Field(
        (), description="Batches that may be read again, though they changed after a model had learned from them."
    )

    @field_validator("mirror", "refresh", "without", "accept_changed", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """RETRAIN_MIRROR, RETRAIN_REFRESH and others hold words separated by spaces."""
        return tuple(value.split()) if isinstance(value, str) else value

    @property
    def model_name(self) -> str:
        """The model's name in the store. Raises UsageError if there is none."""
        return model_name(self.model, self.source)

    @property
    def deployment_prefix(self) -> str:
        """What the names of the model's deployments begin with, "letters-"; "" for a known set by its own name."""
        return f"{self.model}-" if self.model not in ("", self.source) else ""

    def card(self, kind: type[T]) -> T:
        """The settings of one card; a field that was not set stays unset."""
        return kind(**{name: getattr(self, name) for name in kind.model_fields if name in self.model_fields_set})


# What belongs to one run: neither in a file of settings nor in a deployment.
OF_ONE_RUN = ("refresh", "dry_run", "require_champion", "baseline", "until", "without", "accept_changed")

# What no run takes: of deployments, and of what is kept.
OF_NO_RUN = ("cron", "timezone", "notify", *Retention.model_fields)

# The sections of `retrain.toml`; every other setting but those of one run stands above them.
SECTIONS: dict[str, type[Value]] = {
    "data": Data,
    "recipe": RecipeSettings,
    "gate": GateSettings,
    "batches": BatchLimits,
    "schedule": Schedule,
    "retention": Retention,
}


def model_name(model: str, source: str) -> str:
    """The model's name in the store: that of a known data set, unless another one is given.

    Raises:
        UsageError: The data are not a known set, and there is no name.
    """
    if model or source in KNOWN:
        return model or source
    raise UsageError(
        f"cannot use the source {without_secrets(source)}",
        "a model of your own data needs a name, in the store and in Prefect",
        "Set model in retrain.toml, or --model.",
        source,
    )


def require_judgeable(settings: Settings) -> None:
    """Raise UsageError where a run could not say which model it is of, or whether that is good."""
    model_name(settings.model, settings.source)
    gate_for(settings.source, settings.card(GateSettings), settings.seeds)


def judges_only(dry_run: bool, baseline: str, force_publish: str) -> bool:
    """Whether a run publishes nothing.

    Raises:
        UsageError: It is to publish all the same, or for a reason that is no line of text.
    """
    judges = dry_run or bool(baseline)
    if force_publish and not is_line(force_publish):
        raise UsageError("cannot use the reason to publish", NO_LINE, "Give a reason, in words.")
    if judges and force_publish:
        name = "--baseline" if baseline else "--dry-run"
        raise UsageError(f"cannot use --force-publish with {name}", "such a run publishes nothing", "Omit one of them.")
    return judges


# What is said of a text that is no line.
NO_LINE = "it is empty, or holds line breaks or other control characters"


def is_line(text: str) -> bool:
    """Whether a text that is kept and shown in lists is one line, and holds nothing that a terminal obeys."""
    return bool(text.strip()) and text.strip().isprintable()


def require_usable_environment() -> None:
    """Refuse a variable with which no request can be made: HTTP clients do so with an error that repeats its value.

    Raises:
        UsageError: Its name, and what is wrong with its value, which is not repeated.
    """
    for name, value in os.environ.items():
        if not SENT.match(name.upper()):
            continue
        if not value.isprintable():
            why = "it has a line break or another control character, as from a file with Windows line ends"
            raise UsageError(f"cannot use the variable {name}", why, "Set it without.")
        if name.upper().endswith("_PROXY") and value and not _is_proxy(value):
            why = "it is not the address of a proxy, such as http://host:3128"
            escapes = "In a password, write / as %2F, ? as %3F, # as %23 and @ as %40."
            raise UsageError(f"cannot use the variable {name}", why, escapes)


def _is_proxy(value: str) -> bool:
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        return bool(parts.hostname) and parts.port != 0 and "@" not in parts.path + parts.query + parts.fragment
    except ValueError:  # no such port: perhaps a part of a password
        return False


def require_plain(what: str, addresses: Iterable[str]) -> None:
    """Refuse addresses with a password or a signature for what a server or a file keeps. Raises UsageError."""
    for address in addresses:
        if not is_plain(address):
            raise UsageError(
                f"cannot use {what} {without_secrets(address)}",
                "its address holds a password or a signature, which would be stored and shown",
                "Give the address alone; user and password belong in ~/.netrc of the machine that downloads.",
            )


def home() -> Path:
    """The folder for what can be computed again, such as copies of artifacts; `RETRAIN_HOME` moves it."""
    return Path(os.environ.get("RETRAIN_HOME") or Path.home() / ".retrain")


def allow_http() -> bool:
    """Whether `RETRAIN_ALLOW_HTTP` permits an S3 endpoint of another machine without encryption; see `--allow-http`."""
    return _switch("RETRAIN_ALLOW_HTTP")


def history_decides() -> bool:
    """Whether `RETRAIN_HISTORY_DECIDES` says that no store's conditional writes are to be relied on."""
    return _switch("RETRAIN_HISTORY_DECIDES")


def longest_training() -> float:
    """Seconds that a training may take, including the wait for a worker: `RETRAIN_LONGEST_TRAINING`, or a day.

    Raises:
        UsageError: It is not a number above 0.
    """
    text = os.environ.get("RETRAIN_LONGEST_TRAINING") or "86400"
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:  # not a number is neither
        raise UsageError(
            f"cannot use RETRAIN_LONGEST_TRAINING {text!r}", "it is not a number of seconds above 0", "Correct it."
        )
    return seconds


def _switch(variable: str) -> bool:
    """Whether a variable says yes. Raises UsageError where it says neither yes nor no."""
    text = os.environ.get(variable, "").lower()
    if text not in {"1", "true", "yes", "on", "0", "false", "no", "off", "", "not 1"}:  # the last one is compose.yaml's
        raise UsageError(f"cannot use {variable} {text!r}", "it is neither yes nor no", "Set it to 1 or 0.")
    return text in {"1", "true", "yes", "on"}
