"""The model card: README.md beside a published model, with the header that Hugging Face's hub reads.

Header: https://huggingface.co/docs/hub/model-cards. The sections follow M. Mitchell et al. (2019), Model cards for
model reporting, FAT* 19:220-229. A function of the document alone, like every form of the report; the version's number
is not known yet when it is written. Called by the publish step.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from tasks.report.facts import Document
from tasks.report.formatting import (
    accuracy_line,
    batches_sentence,
    calibration_sentence,
    class_list,
    count,
    gate_rows,
    leak_sentence,
    plain,
    provenance_rows,
    table,
    verdict_line,
)
from tasks.report.markdown import changes_section, classes_section, comparison_section


class Source(NamedTuple):
    """A data set for the reader of a card: its name, its origin and content, and its name on Hugging Face's hub."""

    name: str
    text: str
    hub: str | None


SOURCES = {
    "mnist": Source(
        "MNIST",
        "MNIST (Y. LeCun, C. Cortes, C. J. C. Burges): digits written by American census employees and "
        "pupils, 28 × 28 grey levels, centred by mass",
        "ylecun/mnist",
    ),
    "digits": Source(
        "Optical recognition of handwritten digits",
        "The digits of scikit-learn (E. Alpaydin, C. Kaynak; UCI): 1,797 handwritten digits of 43 people, 8 × 8 grey "
        "levels, enlarged to 28 × 28",
        None,
    ),
}

# The texts about a known data set, all of them digits. Those about any other come from the facts.
USE = (
    "Telling which digit, 0 to 9, a small centred picture of one handwritten digit shows; teaching, and trying out how "
    "models are retrained, judged and published."
)

LOAD = """\
from pathlib import Path

import numpy as np

from tasks.data.arrays import scale
from tasks.learning.model_file import load

model = load(Path("model.keras").read_bytes())  # refuses a file that could run code
images = {images}
probabilities = model.predict(scale(images{reshaped}), verbose=0)  # float32 (1, {classes})"""


def model_card(document: Document) -> bytes:
    """README.md, UTF-8; the same document gives the same bytes."""
    import yaml

    header = yaml.safe_dump(_header(document), sort_keys=False, allow_unicode=True, width=120)
    text = "\n\n".join(_sections(document))
    return f"---\n{header}---\n\n{text}\n".encode()


def _header(document: Document) -> dict[str, Any]:
    source = _source(document)
    metrics = [
        {"type": "accuracy", "name": "Test accuracy", "value": document.evaluation.accuracy},
        {"type": "loss", "name": "Test loss, categorical cross-entropy", "value": document.evaluation.loss},
        {
            "type": "recall",
            "name": "Lowest recall of a class",
            "value": min(score.recall for score in document.evaluation.classes),
        },
    ]
    data = {
        "type": (source and source.hub) or document.model_name,
        "name": source.name if source else document.model_name,
    }
    result = {
        "task": {"type": "image-classification", "name": "Image classification"},
        "dataset": data | {"split": "test"},
        "metrics": metrics,
    }
    hub = {"datasets": [source.hub]} if source and source.hub else {}
    return {
        # Whose data they are, and what those allow, is not ours to say.
        **({"license": "mit"} if source else {}),
        "library_name": "keras",
        "pipeline_tag": "image-classification",
        "tags": ["keras", "image-classification", *(["handwritten-digits"] if source else []), document.model_name],
        **hub,
        "metrics": ["accuracy", "recall"],
        "model-index": [{"name": f"retrain-{document.model_name}", "results": [result]}],
    }


def _sections(document: Document) -> list[str]:
    decision, model = document.decision, plain(document.model_name)
    source = _source(document)
    training = f"Trained on {count(document.prepared.statistics['train'].images, 'image')}."
    about = " ".join(filter(None, (plain(batches_sentence(document.prepared)), leak_sentence(document.prepared))))
    origin = "\n".join(f"- **{name}**: {plain(text)}" for name, text in provenance_rows(document))
    return [
        f"# {model}: a classifier of {'handwritten digits' if source else _classes(document)}",
        f"{_network(document)}, {count(document.trained.parameters, 'parameter')}. "
        f"{plain(accuracy_line(decision)).capitalize()}, on {count(document.evaluation.images, 'test image')} that "
        "training never saw. `report.html` shows it in pictures.",
        f"## Intended use\n\n{USE if source else _use(document)}",
        "## Limits\n\n" + "\n".join(f"- {limit}" for limit in _limits(document)),
        "## How to use it\n\nWith the project that made it installed, in this folder:\n\n"
        f"```python\n{_load(document)}\n```",
        f"## Gate\n\n{plain(verdict_line(decision))}.\n\n{table(gate_rows(decision))}",
        *([changes_section(document.changes)] if document.changes else []),
        *([comparison_section(document.comparison, document.prepared.classes)] if document.comparison else []),
        classes_section(document),
        f"## Data\n\n{source.text if source else _pictures(document)}. {training}{f' {about}' if about else ''}",
        f"## Where it comes from\n\n{origin}",
    ]


def _source(document: Document) -> Source | None:
    """The known data set that the model was trained on; None for any other."""
    return SOURCES.get(document.prepared.dataset)


def _classes(document: Document) -> str:
    return f"{len(document.evaluation.confusion):,} classes"


def _network(document: Document) -> str:
    if document.recipe.network:
        return f"The network of `{document.recipe.network}`"
    pixels, classes = math.prod(document.prepared.shape), len(document.evaluation.confusion)
    values = "values" if len(document.prepared.shape) > 2 else "pixels"
    return f"Dense(512, relu) → Dense({classes}, softmax) on {pixels} {values}"


def _size(document: Document) -> str:
    height, width, *channels = document.prepared.shape
    return f"{height} × {width} pixels in {'colour (RGB)' if channels else 'grey levels'}"


def _pictures(document: Document) -> str:
    return f"Pictures of {_size(document)}, in {_classes(document)}: {plain(class_list(document))}"


def _use(document: Document) -> str:
    return (
        f"Telling which of {_classes(document)} a picture of {_size(document)} shows, where the pictures come from the "
        "same source as those that it was trained on."
    )


def _load(document: Document) -> str:
    """Code that predicts one image. Chollet's network takes flat pixels, and one of one's own what it declares."""
    shape, classes = document.prepared.shape, len(document.evaluation.confusion)
    if _source(document) and not document.recipe.network:
        pixels = "28 × 28 pixels, 0 is background and 255 is ink"
        return LOAD.format(images=f"np.zeros((1, 784), np.uint8)  # {pixels}", reshaped="", classes=classes)
    images = f"np.zeros({(1, *shape)}, np.uint8)  # (images, height, width{', RGB' if len(shape) > 2 else ''})"
    return LOAD.format(images=images, reshaped=".reshape(-1, *model.input_shape[1:])", classes=classes)


_KNOWN_LIMITS = (
    "It answers with a digit whatever the picture shows: a letter, two digits, or nothing.",
    "Pictures have to look like the training images: grey levels, white on black, centred, of that size.",
)


def _own_limits(document: Document) -> tuple[str, ...]:
    return (
        f"It answers with one of its {_classes(document)} whatever the picture shows, also where that is none of them.",
        f"Pictures have to look like the training images: {_size(document)}, taken and prepared in the same way.",
    )


def _limits(document: Document) -> list[str]:
    evaluation = document.evaluation
    wrong = evaluation.images - evaluation.correct
    weakest = min(evaluation.classes, key=lambda score: score.recall)
    return [
        *(_KNOWN_LIMITS if _source(document) else _own_limits(document)),
        f"{wrong:,} of {count(evaluation.images, 'test image')} {'is' if wrong == 1 else 'are'} wrong. Class "
        f"{plain(document.class_name(weakest.label))} is recognised worst: {weakest.recall:.4f} of its images.",
        calibration_sentence(document.calibration),
        "Not for decisions about people, money or health: nothing of the kind was tested.",
    ]
