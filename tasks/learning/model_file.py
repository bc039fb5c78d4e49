"""The model file: a `.keras` archive with reproducible bytes, and a loader that believes nothing of it.

A file is accepted if it is, byte for byte, what `to_bytes` writes for some network that `architecture` describes; only
the numbers of the weights are free. Neither Keras nor HDF5 reads a file: Keras builds the described network, and gets
the numbers. Called by the train and export steps, by `tasks.learning.predictions`, by `retrain fetch` and `verify`, and
by applications that use a published model. Imports neither Prefect nor, before `load` or `to_bytes` is called, Keras.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from tasks.learning import architecture, backend, weights_file
from tasks.learning.architecture import Architecture, refused
from tasks.learning.weights_file import Weights

# The members of the archive, in this order, and the most bytes of each.
METADATA, CONFIG, WEIGHTS = "metadata.json", "config.json", "model.weights.h5"
MEMBERS = {METADATA: 10_000, CONFIG: 1_000_000, WEIGHTS: 500_000_000}

# The earliest date of the zip format, for every member: the current date would change the bytes.
EPOCH = (1980, 1, 1, 0, 0, 0)


def to_bytes(model: Any) -> bytes:
    """Serialize a Keras model as `.keras`, without its optimizer. The same weights give the same bytes.

    Raises:
        ModelFileError: `architecture` does not describe the network, so that nobody could load the file.
    """
    keras = backend.keras()

    if not isinstance(model, keras.Sequential):  # of another one, this would write another network
        raise refused(f"it is no keras.Sequential but a {type(model).__name__}", "Build the network as a Sequential")
    uncompiled = keras.Sequential.from_config(model.get_config())
    config = json.dumps(keras.saving.serialize_keras_object(uncompiled)).encode()
    metadata = json.dumps({"keras_version": keras.__version__, "date_saved": "1980-01-01@00:00:00"}).encode()
    weights = weights_file.encode(architecture.parse(config, metadata), model.get_weights())
    return _zipped({METADATA: metadata, CONFIG: config, WEIGHTS: weights})


def load(data: bytes) -> Any:
    """The Keras model, uncompiled, from the bytes of a `.keras` file.

    Raises:
        ModelFileError: `check` refuses the file.
    """
    described, weights = _parse(data)
    keras = backend.keras()

    model = keras.Sequential.from_config(described.config.model_dump(mode="json"))
    model.set_weights(weights)
    return model


def check(data: bytes) -> Architecture:
    """The network in a model file; `load` accepts the same files. Needs no TensorFlow.

    Raises:
        ModelFileError: The bytes are not exactly what `to_bytes` writes for a network that `architecture` describes.
    """
    return _parse(data)[0]


def same_weights(one: bytes, other: bytes) -> bool:
    """Whether two model files hold the same network with the same weights. Raises ModelFileError."""
    (first, weights), (second, others) = _parse(one), _parse(other)
    return first == second and all(map(np.array_equal, weights, others))


def weights_digest(model: Any) -> str:
    """SHA-256, in hex, over path, dtype, shape and bytes of each weight, in the model's order."""
    digest = hashlib.sha256()
    for weight in model.weights:
        values = weight.numpy()
        digest.update(f"{weight.path} {values.dtype.str} {values.shape}\n".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def _parse(data: bytes) -> tuple[Architecture, Weights]:
    contents = _unzipped(data)
    described = architecture.parse(contents[CONFIG], contents[METADATA])
    return described, weights_file.decode(described, contents[WEIGHTS])


def _unzipped(data: bytes) -> dict[str, bytes]:
    """The members of an archive that `_zipped` wrote. Reads no more of its structure than the sizes of the members.

    Raises:
        ModelFileError: `_zipped` writes something else for these members, or a member is too large.
    """
    if data.startswith(b"\x89HDF"):
        raise refused("it is an .h5 file, which can hold code", "Save it as .keras")
    contents, end = {}, 0
    for name, most in MEMBERS.items():
        size = int.from_bytes(data[end + 18 : end + 22], "little")  # in the header before each member, of 30 bytes
        if size > most:
            raise refused(f"its {name} has more than {most:,} bytes")
        start = end + 30 + len(name)
        end = start + size
        contents[name] = data[start:end]
    if _zipped(contents) != data:
        why = f"it is not an archive of exactly {', '.join(MEMBERS)}, packed as this program packs them"
        raise refused(why, "It is damaged, was altered, or was saved by another program: fetch or publish it again")
    return contents


def _zipped(contents: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in contents.items():
            member = zipfile.ZipInfo(name, EPOCH)
            member.create_system = 3  # Unix, on every system
            archive.writestr(member, content)
    return buffer.getvalue()
