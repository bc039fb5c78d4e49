"""The model card: README.md beside a published model, with the header that Hugging Face's hub reads.

Header: https://huggingface.co/docs/hub/model-cards. The sections follow M. Mitchell et al. (2019), Model cards for
model reporting, FAT* 19:220-229. A function of the document alone, like every form of the report; the version's number
is not known yet when it is written. Called by the publish step.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from tasks.report.facts import Document
from tasks.report.formatting import (
    accuracy_line,
    calibration_sentence,
    class_rows,
    gate_rows,
    plain,
    provenance_rows,
    table,
    verdict_line,
)
from tasks.report.markdown import comparison_section


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
images = np.zeros((1, 784), np.uint8)  # 28 × 28 pixels, 0 is background and 255 is ink
probabilities = model.predict(scale(images), verbose=0)  # float32 (1, 10)"""


def model_card(document: Document) -> bytes:
    """README.md, UTF-8; the same document gives the same bytes."""
    import yaml

    header = yaml.safe_dump(_header(document), sort_keys=False, allow_unicode=True, width=120)
    text = "\n\n".join(_sections(document))
    return f"---\n{header}---\n\n{text}\n".encode()


def _header(document: Document) -> dict[str, Any]:
    source = SOURCES.get(document.model)
    metrics = [
        {"type": "accuracy", "name": "Test accuracy", "value": document.evaluation.accuracy},
        {"type": "loss", "name": "Test loss, categorical cross-entropy", "value": document.evaluation.loss},
        {
            "type": "recall",
            "name": "Lowest recall of a class",
            "value": min(score.recall for score in document.evaluation.classes),
        },
    ]
    data = {"type": (source and source.hub) or document.model, "name": source.name if source else document.model}
    result = {
        "task": {"type": "image-classification", "name": "Image classification"},
        "dataset": data | {"split": "test"},
        "metrics": metrics,
    }
    hub = {"datasets": [source.hub]} if source and source.hub else {}
    return {
        "license": "mit",
        "library_name": "keras",
        "pipeline_tag": "image-classification",
        "tags": ["keras", "image-classification", "handwritten-digits", document.model],
        **hub,
        "metrics": ["accuracy", "recall"],
        "model-index": [{"name": f"retrain-{document.model}", "results": [result]}],
    }


def _sections(document: Document) -> list[str]:
    decision, model = document.decision, plain(document.model)
    source = SOURCES.get(document.model)
    training = f"Trained on {document.prepared.statistics['train'].images:,} images."
    origin = "\n".join(f"- **{name}**: {plain(text)}" for name, text in provenance_rows(document))
    return [
        f"# {model}: a classifier of handwritten digits",
        f"Dense(512, relu) → Dense(10, softmax) on 784 pixels, {document.trained.parameters:,} parameters. "
        f"{plain(accuracy_line(decision)).capitalize()}, on {document.evaluation.images:,} test images that training "
        "never saw. `report.html` shows it in pictures.",
        f"## Intended use\n\n{USE}",
        "## Limits\n\n" + "\n".join(f"- {limit}" for limit in _limits(document)),
        f"## How to use it\n\nWith the project that made it installed, in this folder:\n\n```python\n{LOAD}\n```",
        f"## Gate\n\n{plain(verdict_line(decision))}.\n\n{table(gate_rows(decision))}",
        *([comparison_section(document.comparison)] if document.comparison else []),
        f"## Classes\n\n{table(class_rows(document))}",
        f"## Data\n\n{source.text if source else model}. {training}",
        f"## Where it comes from\n\n{origin}",
    ]


def _limits(document: Document) -> list[str]:
    evaluation = document.evaluation
    weakest = min(evaluation.classes, key=lambda score: score.recall)
    return [
        "It answers with a digit whatever the picture shows: a letter, two digits, or nothing.",
        "Pictures have to look like the training images: grey levels, white on black, centred, of that size.",
        f"{evaluation.images - evaluation.correct:,} of {evaluation.images:,} test images are wrong. Class "
        f"{weakest.label} is recognised worst: {weakest.recall:.4f} of its images.",
        calibration_sentence(document.calibration),
        "Not for decisions about people, money or health: nothing of the kind was tested.",
    ]
