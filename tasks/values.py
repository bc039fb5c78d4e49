"""The small frozen values that travel between tasks.

A value never holds an array, a model, a client or a local path: large things are artifacts, named by the SHA-256 of
their bytes. Cache keys are computed from values, so a value holds nothing that differs between two runs of the same
work, except where its docstring says so. Any module may import this one; it imports neither Prefect nor TensorFlow.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from tasks.address import Address

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

# The most bytes of an artifact of each kind, as whoever writes a cached result may name anything, and readers have the
# artifact in memory. Of an array: the pixels of a split (`tasks.data.sources.interface`) and a header. Of a model:
# twice the largest weights that anybody loads. Of a page of the report: with 1,000 classes it has 8 MB.
LARGEST_ARRAY, LARGEST_FILE, LARGEST_PAGE = 64 * 10**9 + 4096, 1 << 30, 16 << 20


class Value(BaseModel):
    """Base of all values: immutable, nothing unknown, finite numbers only."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Artifact(Value):
    """Bytes in the object store, named by their own SHA-256."""

    sha256: Sha256
    size: Annotated[int, Field(ge=0)]
    media_type: str


def _kind(media_type: str, limit: int) -> AfterValidator:
    def check(artifact: Artifact) -> Artifact:
        if artifact.media_type != media_type or artifact.size > limit:
            raise ValueError(f"it is no {media_type} of at most {limit:,} bytes")
        return artifact

    return AfterValidator(check)


NPY, NPZ, KERAS, ONNX = "application/x-npy", "application/x-npz", "application/vnd.keras", "application/onnx"
ArrayFile = Annotated[Artifact, _kind(NPY, LARGEST_ARRAY)]
PredictionsFile = Annotated[Artifact, _kind(NPZ, LARGEST_ARRAY)]
ModelFile = Annotated[Artifact, _kind(KERAS, LARGEST_FILE)]
OnnxFile = Annotated[Artifact, _kind(ONNX, LARGEST_FILE)]
HtmlPage = Annotated[Artifact, _kind("text/html", LARGEST_PAGE)]
MarkdownPage = Annotated[Artifact, _kind("text/markdown", LARGEST_PAGE)]
JsonPage = Annotated[Artifact, _kind("application/json", LARGEST_PAGE)]


class Examples(Value):
    """One split as .npy artifacts: images uint8, labels uint8 (n,), or uint16 for more than 256 classes.

    The images have the shape (n, height, width) or (n, height, width, 3) in a `Dataset`, (n, pixels) in `Prepared`.
    """

    images: ArrayFile
    labels: ArrayFile


class BatchContent(Value):
    """One batch of a source that grows, in canonical form by itself: a label indexes the batch's own `classes`.

    `train` is None where every image is a test image, `test` where none is. `digest` identifies images, labels and
    class names: equal batches are equal whatever their names, formats and times are.
    """

    digest: Sha256
    train: Examples | None
    test: Examples | None
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    images: int
    test_images: int


class Batch(Value):
    """A batch of a source that grows: its name there, the digest of its content, and how many images it has.

    `images` are those to learn from; `test_images` are in `test`, None where there are none.
    """

    name: str
    digest: Sha256
    images: int
    test_images: int
    test: ArrayFile | None = None


class Dataset(Value):
    """Labelled images in canonical form: the same images and labels are equal, whichever format they came in.

    `test` is None where the source has no test split. `classes` are the names of the labels 0, 1, …; `dataset` is the
    name of a known data set, "" for any other. `batches` are those of a source that grows, sorted by name.
    """

    dataset: str
    train: Examples
    test: Examples | None
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    batches: tuple[Batch, ...] = ()


class SeenBatch(Value):
    """A batch that a run learns from; `seen` tells whether its files changed."""

    name: str
    digest: Sha256
    seen: Sha256


class Collected(Value):
    """The result of `collect`: the batches that a run learns from, sorted by name; `source` is their folder.

    No model has learned from the `new` ones. `unreadable` has a reason for each batch that is left out of this run
    alone; those that are `gone` were learned from and are no longer there.
    """

    source: Address
    batches: tuple[SeenBatch, ...]
    new: tuple[str, ...]
    unreadable: dict[str, str]
    gone: tuple[str, ...]


class Download(Value):
    """The result of `download`. `source` names what served it, and is no input of a later step."""

    data: Dataset
    source: Address


class Statistics(Value):
    """Data statistics of one split: images per class; mean, minimum and maximum of the pixels in [0, 1]."""

    images: int
    per_class: tuple[int, ...]
    mean: float
    minimum: float
    maximum: float


class Prepared(Value):
    """The result of `preprocess`: the splits, and the statistics of each by its name.

    `shape` is that of an image, (height, width) or (height, width, 3); `classes` has the names of the labels, () in
    documents of earlier versions. `leaked` counts the images that stood in the test split too, and were left out.
    `batches` are those that the images come from, where the source grows.
    """

    dataset: str
    shape: tuple[int, ...] = (28, 28)
    classes: tuple[str, ...] = ()
    leaked: int = 0
    batches: tuple[Batch, ...] = ()
    train: Examples
    test: Examples
    validation: Examples | None = None
    statistics: dict[str, Statistics]

    @property
    def test_set(self) -> tuple[Sha256, Sha256]:
        """The digests of the test split's images and labels."""
        return self.test.images.sha256, self.test.labels.sha256


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

    model: ModelFile
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

    predictions: PredictionsFile
    images: int
    correct: int
    accuracy: float
    loss: float
    classes: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]


class SeedScore(Value):
    """The test accuracy of the training with one seed, and the digest of its weights; "" in earlier documents."""

    seed: int
    accuracy: float
    weights: str = ""


class Spread(Value):
    """How the accuracy differs between seeds; `judged` is the seed whose model is the candidate."""

    scores: tuple[SeedScore, ...]
    judged: int
    mean: float
    deviation: float
    lowest: float
    highest: float


class Stage(Value):
    """A stage of a verdict, with so many seeds of the recipe.

    `seconds` is what the trainings took that it added, where they were computed. `step` is what followed, `why` the
    reason. `seeds_left` tells whether further seeds could be trained.
    """

    seeds: int
    seconds: float
    step: Literal["publish", "reject", "more"]
    why: str
    seeds_left: bool


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

    file: OnnxFile | None = None
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


class BatchVerdict(Value):
    """The rows of a new batch; `offending` has, by the name of a failed row, the numbers of images that show why.

    An image's number is its place among the batch's images to learn from and, after them, its test images. `guesses`
    has, for a row that asks the champion, the classes that it takes these images for.
    """

    batch: str
    digest: Sha256
    images: int
    checks: tuple[Check, ...]
    offending: dict[str, tuple[int, ...]] = {}
    guesses: dict[str, tuple[str, ...]] = {}

    @property
    def failed(self) -> tuple[str, ...]:
        """The names of the rows that do not pass."""
        return tuple(check.name for check in self.checks if not check.passed)


class Override(Value):
    """Who published a model that the gate rejected, and why."""

    reason: str
    by: str


class Decision(Value):
    """The decision of the gate, row by row.

    The verdict is "no change" for weights that are published already. `remark` says what no row can. `override` is set
    only where a model is published that the rows reject. `look` counts the verdicts on the same test images, this one
    included; 0 where nobody has counted. `stages` tells how many seeds it took, and why; () where models are compared,
    and not recipes.
    """

    verdict: Literal["publish", "reject", "no change"]
    accuracy: float
    interval: tuple[float, float]
    checks: tuple[Check, ...]
    remark: str = ""
    override: Override | None = None
    look: int = 0
    stages: tuple[Stage, ...] = ()


class Provenance(Value):
    """Where a model comes from: code, packages, and the seconds each step took where it was computed.

    `digests` holds a SHA-256 of each package's installed files, by the package's name; `modules` one of each module of
    this project that the model was made and measured with, which comments and layout do not change.
    """

    code: str
    python: str
    packages: dict[str, str]
    digests: dict[str, Sha256] = {}
    modules: dict[str, Sha256] = {}
    source: Address
    seconds: dict[str, float]


class Reports(Value):
    """The rendered report: report.html, report.md, report.json, and the Markdown with pictures for the run's page."""

    html: HtmlPage
    markdown: MarkdownPage
    data: JsonPage
    run_page: MarkdownPage


class Receipt(Value):
    """A published version.

    `new` is false where this model was published before. `champion` is the current champion's number, 0 for none.
    `decides` is what makes a version the champion in this store: the pointer, moved by compare-and-swap, or the newest
    history entry. `approval` tells of a version that is no champion: it waits for a person's approval, or was declined.
    """

    model: str
    version: int
    new: bool
    champion: int
    decides: Literal["pointer", "history"]
    url: str
    approval: Literal["", "waits", "declined"] = ""


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


# Characters of a reason on the page of a model.
LONGEST_REASON = 300


class RunRow(Value):
    """A run that has ended, or a rollback, as the model's page shows it.

    `id` names the folder of the run's report. `version` is what it published, or what had these weights already, and
    the champion after a rollback; 0 for none. `waiting` is a version that a person has to approve, `declined` one that
    nobody will. `lower` and `upper` are the accuracy's 95 % interval. `why` is the reason for a rejection, a forced
    publish, a rollback or a person's decision. `margins` are those of the gate's rows, by their names. `images`
    are those of the training, in so many `batches` if the source grows. `seconds` is what the steps took where they
    were computed. `report` is whether the run's report is still kept; a file without it is that of one which is.
    """

    id: Annotated[str, Field(pattern=r"^[0-9A-Za-z-]{1,64}$")]
    time: AwareDatetime
    verdict: Literal["published", "unchanged", "waiting", "declined", "rejected", "refused", "rollback"]
    version: Annotated[int, Field(ge=0)] = 0
    accuracy: float | None = None
    lower: float | None = None
    upper: float | None = None
    why: Annotated[str, Field(max_length=LONGEST_REASON)] = ""
    margins: dict[str, float] = {}
    images: int = 0
    batches: int = 0
    seeds: int = 0
    seconds: float = 0
    device: str = ""
    report: Annotated[bool, Field(exclude_if=bool)] = True


class Record(Value):
    """The address of a run's report, the command that compares its model with the champion, and its row.

    `before` is the champion that the model was compared with, its accuracy, and what changed since, in words.
    """

    report: str
    compare: str = ""
    before: str = ""
    model: str = ""
    row: RunRow | None = None


class Outcome(Value):
    """How a run ended.

    "waiting" is a model that a person has to approve, "passed" one that passes the gate in a run that only judges.
    """

    verdict: Literal["published", "already published", "waiting", "passed", "rejected"]
    run: str
    store: str
    decision: Decision
    receipt: Receipt | None
    report: str
    steps: tuple[StepRun, ...]
