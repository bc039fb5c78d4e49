from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tasks import load_back
from tasks.arrays import Bytes, Probabilities
from tasks.errors import LoadBackError
from tasks.load_back import compare, predict_afresh
from tasks.model_file import to_bytes
from tasks.predictions import predict
from tests.tasks.test_evaluate import network
from tests.tasks.test_model_file import LAMBDA, with_layer

IMAGES: Bytes = np.random.default_rng(0).integers(0, 256, (40, 784), np.uint8)


@pytest.fixture(scope="module")
def model() -> bytes:
    return to_bytes(network())


def test_a_fresh_process_predicts_the_same_bit_for_bit_and_another_model_does_not(model: bytes) -> None:
    found = predict_afresh(model, IMAGES)
    evaluated = predict(model, IMAGES)
    assert found.tobytes() == evaluated.tobytes()
    assert compare(found, evaluated).model_dump() == {
        "images": 40,
        "same": 40,
        "largest_difference": 0.0,
        "failure": "",
    }
    other = network()
    other.layers[0].kernel.assign(other.layers[0].kernel.numpy()[::-1])
    altered = compare(predict(to_bytes(other), IMAGES), evaluated)
    assert altered.same < altered.images
    assert altered.largest_difference > load_back.TOLERANCE


def test_an_unsafe_file_is_refused_with_the_loaders_reason(model: bytes) -> None:
    with pytest.raises(LoadBackError, match="Lambda, which is not known to be harmless"):
        predict_afresh(with_layer(model, LAMBDA), IMAGES)


def test_a_process_that_needs_too_much_memory_is_ended(model: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_back, "MEMORY", 50_000_000)
    with pytest.raises(LoadBackError):
        predict_afresh(model, IMAGES)


def impostor(folder: Path, code: str) -> Path:
    """A project whose process does something else."""
    (folder / "tasks").mkdir(exist_ok=True)
    (folder / "tasks/__init__.py").touch()
    (folder / "tasks/predictions.py").write_text(f"import os, sys, time\nimport numpy as np\n{code}\n")
    return folder


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("os.kill(os.getpid(), 9)", "the process was killed by SIGKILL"),
        ("time.sleep(600)", "the process was not done after 2 s"),
        ("os._exit(0)", "No such file"),
        ("os._exit(7)", "the process ended with 7"),
        ("raise ValueError('what is this')", "ValueError: what is this"),
        ("open('probabilities.npy', 'wb').write(b'')", "wrote no array"),
        ("open('probabilities.npy', 'wb').write(b'x' * 500)", "wrote no array"),
        ("np.save('probabilities.npy', np.array([{}]), allow_pickle=True)", "wrote no array .*allow_pickle"),
        ("np.savez('p.npz', a=1); os.rename('p.npz', 'probabilities.npy')", "wrote no array"),
        ("np.save('probabilities.npy', np.zeros((39, 10), np.float32))", r"wrote float32 \(39, 10\) for 40 images"),
        ("np.save('probabilities.npy', np.zeros((40, 10)))", r"wrote float64 \(40, 10\)"),
        ("np.save('probabilities.npy', np.zeros(40, np.float32))", r"wrote float32 \(40,\)"),
    ],
)
def test_a_process_that_dies_hangs_or_writes_something_else_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, why: str
) -> None:
    monkeypatch.setattr(load_back, "ROOT", impostor(tmp_path, code))
    if "sleep" in code:
        monkeypatch.setattr(load_back, "PATIENCE", 2.0)
    with pytest.raises(LoadBackError, match=f"cannot be loaded back: .*{why}"):
        predict_afresh(b"model", IMAGES)


def test_a_disk_that_is_full_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(LoadBackError, match="No space left on device"):
        predict_afresh(b"model", IMAGES)


def probabilities(*rows: list[float]) -> Probabilities:
    return np.array(rows, np.float32)


def test_the_last_place_may_differ_and_the_class_may_not() -> None:
    evaluated = probabilities([0.5, 0.3, 0.2], [0.4999999, 0.5, 1e-7])
    assert compare(evaluated + np.float32(1e-6), evaluated).same == 2
    assert compare(probabilities([0.5, 0.3, 0.2], [0.5, 0.4999999, 1e-7]), evaluated).same == 1
    assert compare(probabilities([0.5, 0.2999, 0.2001], [0.4999999, 0.5, 1e-7]), evaluated).same == 1
    assert compare(probabilities([0.5, np.nan, 0.2], [0.4999999, 0.5, 1e-7]), evaluated).same == 1
    with pytest.raises(LoadBackError, match="it predicts 2 classes instead of 3"):
        compare(evaluated[:, :2], evaluated)
