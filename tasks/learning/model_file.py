"""The model file: a `.keras` archive with reproducible bytes, and a loader that refuses what could run code.

Called by the train and export steps, by `tasks.learning.predictions`, and by applications that use a published model.
Imports neither Prefect nor, before it is called, Keras.
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.errors import ModelFileError
from tasks.learning import backend

# The members of the archive, in this order, and the most bytes of each.
MEMBERS = {"metadata.json": 10_000, "config.json": 1_000_000, "model.weights.h5": 500_000_000}

# Classes whose loading runs no code from the file.
ALLOWED_CLASSES = {
    "keras.Sequential",
    "keras.layers.InputLayer",
    "keras.layers.Dense",
    "keras.initializers.GlorotUniform",
    "keras.initializers.Zeros",
    "keras.DTypePolicy",
}

# The earliest date of the zip format, for every member: the current date would change the bytes.
EPOCH = (1980, 1, 1, 0, 0, 0)


def to_bytes(model: Any) -> bytes:
    """Serialize a Keras model as `.keras`, without its optimizer. The same weights give the same bytes.

    Raises:
        ModelFileError: The folder of temporary files is full or cannot be written.
    """
    keras = backend.keras()

    uncompiled = keras.Sequential.from_config(model.get_config())
    uncompiled.set_weights(model.get_weights())
    try:
        contents = _saved(uncompiled)
    except OSError as error:
        raise ModelFileError(
            "cannot write the model file",
            f"{tempfile.gettempdir()}: {error.strerror or error}",
            "Check the disk's free space, or set TMPDIR to another folder.",
        ) from error
    metadata = json.loads(contents["metadata.json"])
    contents["metadata.json"] = json.dumps(metadata | {"date_saved": "1980-01-01@00:00:00"}).encode()
    return _zipped(contents)


def _saved(model: Any) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in MEMBERS}


def load(data: bytes) -> Any:
    """Load the Keras model, uncompiled, from the bytes of a `.keras` file.

    Raises:
        ModelFileError: `check` refuses the file, before Keras reads any of it, or Keras cannot read it.
    """
    check(data)
    keras = backend.keras()

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        path.write_bytes(data)
        try:
            return keras.saving.load_model(path, safe_mode=True, compile=False)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise _refused(f"Keras cannot read it ({str(error).splitlines()[0]})") from error


def check(data: bytes) -> None:
    """Raise ModelFileError unless the bytes are an archive of exactly the known members and harmless classes."""
    if data.startswith(b"\x89HDF"):
        raise _refused("it is an .h5 file, which can hold code", "Save it as .keras")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
            if sorted(names) != sorted(MEMBERS):
                raise _refused(f"its members are {names} instead of {list(MEMBERS)}")
            contents = {name: _read(archive, name) for name in MEMBERS}
        config = json.loads(contents["config.json"])
        unknown = sorted(set(_classes(config)) - ALLOWED_CLASSES)
    # RuntimeError: an encrypted member, an unknown compression, a config nested too deep.
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, RuntimeError) as error:
        raise _refused(f"it is damaged ({error})") from error
    if unknown:
        raise _refused(f"it holds the class {unknown[0]}, which is not known to be harmless")
    if not isinstance(config, dict) or config.get("class_name") != "Sequential":
        raise _refused("its config is not that of a Sequential model")


def weights_digest(model: Any) -> str:
    """SHA-256, in hex, over path, dtype, shape and bytes of each weight, in the model's order."""
    digest = hashlib.sha256()
    for weight in model.weights:
        values = weight.numpy()
        digest.update(f"{weight.path} {values.dtype.str} {values.shape}\n".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def _zipped(contents: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in contents.items():
            archive.writestr(zipfile.ZipInfo(name, EPOCH), content)
    return buffer.getvalue()


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    with archive.open(name) as file:
        content = file.read(MEMBERS[name] + 1)
    if len(content) > MEMBERS[name]:
        raise _refused(f"its {name} has more than {MEMBERS[name]:,} bytes")
    return content


def _classes(config: Any) -> Iterator[str]:
    """The full name of every class in a Keras config, at any depth, and every name that one is registered as."""
    if isinstance(config, dict):
        if "class_name" in config:
            yield f"{config.get('module')}.{config['class_name']}"
            if config.get("registered_name"):
                yield f"registered as {config['registered_name']}"
        for value in config.values():
            yield from _classes(value)
    elif isinstance(config, list):
        for value in config:
            yield from _classes(value)


def _refused(why: str, next_step: str = "Fetch the model again, and ask who changed it") -> ModelFileError:
    return ModelFileError("cannot load the model file", why, f"{next_step}.")
