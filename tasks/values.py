"""The small frozen values that travel between tasks.

A value never holds an array, a model, a client or a local path: large things are artifacts, named by the SHA-256 of
their bytes. Cache keys are computed from values, so a value holds nothing that differs between two runs of the same
work, except where its docstring says so. Any module may import this one; it imports neither Prefect nor TensorFlow.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Value(BaseModel):
    """Base of all values: immutable, nothing unknown, finite numbers only."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Artifact(Value):
    """Bytes in the object store, named by their own SHA-256."""

    sha256: Sha256
    size: Annotated[int, Field(ge=0)]
    media_type: str


class Files(Value):
    """The four IDX files of a data set: canonical content (header and data, not compressed), verified."""

    dataset: str
    train_images: Artifact
    train_labels: Artifact
    test_images: Artifact
    test_labels: Artifact


class Download(Value):
    """The result of `download`. `source` names the mirror that served it, and is no input of a later step."""

    files: Files
    source: str


class Examples(Value):
    """One split as .npy artifacts: images uint8 (n, 784), labels uint8 (n,)."""

    images: Artifact
    labels: Artifact


class Statistics(Value):
    """Data statistics of one split: images per class; mean, minimum and maximum of the pixels in [0, 1]."""

    images: int
    per_class: tuple[int, ...]
    mean: float
    minimum: float
    maximum: float


class Prepared(Value):
    """The result of `preprocess`: the splits, and the statistics of each by its name."""

    dataset: str
    train: Examples
    test: Examples
    validation: Examples | None = None
    statistics: dict[str, Statistics]


class Epoch(Value):
    """One epoch of training: mean loss and accuracy, on the validation split too where there is one."""

    loss: float
    accuracy: float
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    seconds: float


class DeviceKind(Value):
    """The properties of a device that change the bits of a trained model, as far as they are known beforehand.

    `arithmetic` names the code paths of float32 on a CPU. Only the worker knows the model of a GPU, so for a GPU it is
    the backend alone.
    """

    kind: Literal["cpu", "gpu"]
    arithmetic: str


class Device(DeviceKind):
    """The device that a training ran on; `name` is the vendor's."""

    name: str


class Trained(Value):
    """The result of `train`. Seconds and `finished` differ between runs, so only `model` is an input of later steps."""

    model: Artifact
    weights_digest: Sha256
    parameters: int
    history: tuple[Epoch, ...]
    device: Device
    packages: dict[str, str]
    finished: datetime


class ClassScore(Value):
    """Precision, recall and number of test images of one class."""

    label: int
    precision: float
    recall: float
    support: int


class Evaluation(Value):
    """The result of `evaluate` on the test set.

    `predictions` is an .npz with `probabilities` float32 (n, classes), `predicted` uint8 (n,) and `labels` uint8 (n,);
    `confusion[truth][guess]` counts images; `loss` is the mean categorical cross-entropy in nats.
    """

    predictions: Artifact
    images: int
    correct: int
    accuracy: float
    loss: float
    classes: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]


class SeedScore(Value):
    """The test accuracy of the training with one seed."""

    seed: int
    accuracy: float


class Spread(Value):
    """How the accuracy differs between seeds; `judged` is the seed whose model is the candidate."""

    scores: tuple[SeedScore, ...]
    judged: int
    mean: float
    deviation: float
    lowest: float
    highest: float


class LoadBack(Value):
    """Predictions of the model file in a process of its own, compared with the evaluated ones.

    `same` of `images` test images agree. `largest_difference` is the largest of any probability. `failure` tells why
    there is nothing to compare, "" where there is something.
    """

    images: int = 0
    same: int = 0
    largest_difference: float = 0.0
    failure: str = ""


class Export(Value):
    """model.onnx, with which onnxruntime predicts the same, or the reason why it is left out."""

    file: Artifact | None = None
    largest_difference: float = 0.0
    left_out: str = ""


class Check(Value):
    """One row of the gate: passes when `value` is not below `limit`; `margin` is their difference.

    For a `loss` both are negated, so that more is better in every row; reports show them as losses.
    """

    name: str
    value: float
    limit: float
    margin: float
    passed: bool
    sentence: str
    loss: bool = False


class Override(Value):
    """Who published a model that the gate rejected, and why."""

    reason: str
    by: str


class Decision(Value):
    """The decision of the gate, row by row.

    The verdict is "no change" for weights that are published already. `remark` says what no row can. `override` is set
    only where a model is published that the rows reject.
    """

    verdict: Literal["publish", "reject", "no change"]
    accuracy: float
    interval: tuple[float, float]
    checks: tuple[Check, ...]
    remark: str = ""
    override: Override | None = None


class Provenance(Value):
    """Where a model comes from: code, packages, and the seconds each step took where it was computed.

    `digests` holds a SHA-256 of each package's installed files, by the package's name.
    """

    code: str
    python: str
    packages: dict[str, str]
    digests: dict[str, Sha256] = {}
    source: str
    seconds: dict[str, float]


class Reports(Value):
    """The rendered report: report.html, report.md, report.json, and the Markdown with pictures for the run's page."""

    html: Artifact
    markdown: Artifact
    data: Artifact
    run_page: Artifact


class Receipt(Value):
    """A published version.

    `new` is false where this model was published before. `champion` is the current champion's number. `decides` is what
    makes a version the champion in this store: the pointer, moved by compare-and-swap, or the newest history entry.
    """

    model: str
    version: int
    new: bool
    champion: int
    decides: Literal["pointer", "history"]
    url: str


class Published(Value):
    """The result of `publish`: no receipt where the champion changed meanwhile; the candidate is then judged again."""

    receipt: Receipt | None


class StepRun(Value):
    """How one step of a run went.

    `seconds` is its time in this run; `computed` its time where it was computed, None for a step that is not cached.
    """

    name: str
    cached: bool
    reason: str
    seconds: float
    computed: float | None


class Record(Value):
    """The address of a run's report."""

    report: str


class Outcome(Value):
    """How a run ended; "passed" is a model that passes the gate in a run that only judges."""

    verdict: Literal["published", "already published", "passed", "rejected"]
    run: str
    store: str
    decision: Decision
    receipt: Receipt | None
    report: str
    steps: tuple[StepRun, ...]
