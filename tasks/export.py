"""The export step: writes model.onnx, to be published beside model.keras only if it predicts the same.

onnxruntime predicts every test image with it. Needs the extra `onnx`, otherwise exports nothing. Called by the flow.
"""

from __future__ import annotations

import json
import logging

from tasks.caching.keys import installed
from tasks.caching.steps import Run, step
from tasks.data.arrays import Probabilities, from_npy, from_npz
from tasks.errors import ExportError
from tasks.gate.candidate import Candidate
from tasks.learning import model_file
from tasks.learning.agreement import agreement
from tasks.learning.onnx_file import PACKAGES, left_out, run_onnx, to_onnx
from tasks.values import ONNX, Artifact, Examples, Export

LOG = logging.getLogger("retrain.export")

# The command that adds the extra.
INSTALL = "pip install -e '.[onnx]'"

# Largest allowed difference to an evaluated probability. The class of an image may never differ.
TOLERANCE = 1e-4


def compare(predicted: Probabilities, evaluated: Probabilities) -> float:
    """The largest difference of any probability; both arrays are float32 (n, classes).

    Raises:
        ExportError: It exceeds the tolerance, the class of an image differs, or there is no image.
    """
    if predicted.shape != evaluated.shape:
        raise left_out(f"it predicts {predicted.shape} instead of {evaluated.shape}")
    agreed = agreement(predicted, evaluated, TOLERANCE)
    if agreed.same < agreed.images or not agreed.images:
        raise left_out(f"it predicts {agreed.images - agreed.same:,} of {agreed.images:,} test images differently")
    return agreed.largest


def with_classes(data: bytes, classes: tuple[str, ...]) -> bytes:
    """The ONNX file with the names of its outputs in its metadata: `classes`, a JSON list; the same gives the same."""
    from onnx import helper, load_model_from_string

    model = load_model_from_string(data)
    helper.set_model_props(model, {"classes": json.dumps(classes, ensure_ascii=False)})
    return bytes(model.SerializeToString(deterministic=True))


@step(packages=["keras", "numpy", *PACKAGES, "tensorflow"])
def export(model: Artifact, test: Examples, evaluated: Artifact, classes: tuple[str, ...], run: Run) -> Export:
    """Convert the model file to ONNX, and compare the predictions of onnxruntime with the evaluated ones.

    `classes` are the names of the classes, for the file's metadata.

    Raises:
        ExportError: The model cannot be converted, or its ONNX file predicts something else.
    """
    published, images = run.artifacts.get(model), from_npy(run.artifacts.get(test.images))
    probabilities, _ = from_npz(run.artifacts.get(evaluated))
    try:
        data = with_classes(to_onnx(model_file.load(published)), classes)
        largest = compare(run_onnx(data, images), probabilities)
    except ExportError:
        raise
    except Exception as error:  # an error of the two packages must not stop the publish
        raise left_out(f"{type(error).__name__}: {str(error).splitlines()[0]}") from error
    LOG.info("export: onnxruntime predicts the same, to within %.1g", largest)
    return Export(file=run.artifacts.put(data, ONNX), largest_difference=largest)


def export_candidate(candidate: Candidate, run: Run) -> Candidate:
    """Add model.onnx to the candidate, or the reason why it has none, which never stops a publish."""
    return candidate.model_copy(update={"exported": _export_or_reason(candidate, run)})


def _export_or_reason(candidate: Candidate, run: Run) -> Export:
    missing = [name for name in PACKAGES if not installed(name)]
    if missing:
        LOG.info("export: no model.onnx, as %s is not installed; %s in the checkout adds it", missing[0], INSTALL)
        return Export(left_out=f"{missing[0]} is not installed")
    try:
        prepared, evaluated = candidate.prepared, candidate.evaluation.predictions
        return export(candidate.trained.model, prepared.test, evaluated, prepared.classes, run)
    except ExportError as error:
        LOG.warning("export: %s", error)
        return Export(left_out=error.why)
