from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import numpy as np
import pytest

from tasks.errors import ModelFileError
from tasks.learning import model_file
from tasks.learning.network import build


@pytest.fixture(scope="module")
def model() -> Any:
    import keras

    keras.utils.set_random_seed(1)
    return build(784)


@pytest.fixture(scope="module")
def saved(model: Any) -> bytes:
    return model_file.to_bytes(model)


def rewritten(data: bytes, **changed: bytes | None) -> bytes:
    """The archive with members replaced, added or (None) left out; `__` stands for a dot."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members: dict[str, bytes | None] = {name: archive.read(name) for name in archive.namelist()}
    members |= {name.replace("__", "."): content for name, content in changed.items()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            if content is not None:
                archive.writestr(name, content)
    return buffer.getvalue()


def with_layer(data: bytes, layer: dict[str, Any]) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        config = json.loads(archive.read("config.json"))
    config["config"]["layers"].append(layer)
    return rewritten(data, config__json=json.dumps(config).encode())


def test_the_same_weights_give_the_same_bytes_and_digest(model: Any, saved: bytes) -> None:
    twin = build(784)
    twin.set_weights(model.get_weights())
    assert model_file.to_bytes(twin) == saved
    assert model_file.weights_digest(twin) == model_file.weights_digest(model)
    twin.layers[-1].bias.assign(np.full(10, 1e-7, np.float32))
    assert model_file.to_bytes(twin) != saved
    assert model_file.weights_digest(twin) != model_file.weights_digest(model)


def test_a_loaded_model_predicts_the_same_and_has_no_optimizer(model: Any, saved: bytes) -> None:
    images = np.random.default_rng(0).random((5, 784), np.float32)
    loaded = model_file.load(saved)
    assert np.array_equal(loaded.predict(images, verbose=0), model.predict(images, verbose=0))
    assert not loaded.compiled
    assert loaded.count_params() == 407_050


LAMBDA: dict[str, Any] = {
    "module": "keras.layers",
    "class_name": "Lambda",
    "config": {"function": {}},
    "registered_name": None,
}
FOREIGN = {"module": "evil", "class_name": "Dense", "config": {}, "registered_name": "evil>Dense"}

IMPORTED: dict[str, Any] = {
    "module": "keras.src.anything",
    "class_name": "Dense",
    "config": {},
    "registered_name": None,
}


def flipped(data: bytes, field: str, value: int) -> bytes:
    """The archive with one header field of config.json set, in both places where zip keeps it."""
    spoiled = bytearray(data)
    offset = {"flags": 6, "compression": 8}[field]
    spoiled[data.index(b"config.json") - 30 + offset] = value
    spoiled[data.rindex(b"config.json") - 46 + offset + 2] = value
    return bytes(spoiled)


@pytest.mark.parametrize("content", [b"", b"no HDF5"])
def test_weights_that_keras_cannot_read_are_an_error_of_ours(saved: bytes, content: bytes) -> None:
    with pytest.raises(ModelFileError, match="Keras cannot read it"):
        model_file.load(rewritten(saved, model__weights__h5=content))


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda data: b"\x89HDF\r\n\x1a\n", "an .h5 file, which can hold code"),
        (lambda data: b"", "damaged"),
        (lambda data: data[:-30], "damaged"),
        (lambda data: rewritten(data, __bashrc=b"x"), "its members are"),
        (lambda data: rewritten(data, config__json=None), "its members are"),
        (lambda data: rewritten(data, config__json=b"{"), "damaged"),
        (lambda data: rewritten(data, metadata__json=b" " * 10_001), "metadata.json has more than 10,000 bytes"),
        (lambda data: with_layer(data, LAMBDA), "the class keras.layers.Lambda, which is not known to be harmless"),
        (lambda data: with_layer(data, FOREIGN), "the class evil.Dense"),
        (lambda data: with_layer(data, FOREIGN | {"registered_name": "keras.layers.Dense"}), "the class evil.Dense"),
        (lambda data: with_layer(data, FOREIGN | {"module": "keras.layers"}), "registered as evil>Dense"),
        (lambda data: with_layer(data, IMPORTED), "the class keras.src.anything.Dense"),
        (lambda data: rewritten(data, config__json=b"[" * 200_000), "damaged"),
        (lambda data: rewritten(data, config__json=b"null"), "not that of a Sequential model"),
        (lambda data: flipped(data, "flags", 1), "damaged .*encrypted"),
        (lambda data: flipped(data, "compression", 99), "damaged .*compression"),
        (lambda data: flipped(data, "compression", zipfile.ZIP_DEFLATED), "damaged"),
    ],
)
def test_whatever_is_not_exactly_such_a_model_is_refused_before_keras_reads_it(
    saved: bytes, spoil: Any, why: str
) -> None:
    with pytest.raises(ModelFileError, match=why):
        model_file.check(spoil(saved))
