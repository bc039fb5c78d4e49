"""The model file: a `.keras` archive whose bytes are reproducible, loaded only when it is provably harmless.

Called by the train and evaluate steps, and by whoever uses a published model. Imports Keras when called.
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

# What the archive of this model holds, in this order, and no more than so many bytes of each.
MEMBERS = {"metadata.json": 10_000, "config.json": 1_000_000, "model.weights.h5": 500_000_000}

# Classes whose loading runs no code of the file's own.
HARMLESS = {
    "keras.Sequential",
    "keras.layers.InputLayer",
    "keras.layers.Dense",
    "keras.initializers.GlorotUniform",
    "keras.initializers.Zeros",
    "keras.DTypePolicy",
}

# The earliest date that a zip archive can state: a date of its own would make each archive's bytes differ.
EPOCH = (1980, 1, 1, 0, 0, 0)


def to_bytes(model: Any) -> bytes:
    """A Keras model as `.keras` bytes, without its optimizer; the same weights give the same bytes.

    Raises ModelFileError where there is no room for it in the folder of temporary files.
    """
    keras = backend.keras()

    bare = keras.Sequential.from_config(model.get_config())
    bare.set_weights(model.get_weights())
    try:
        contents = _saved(bare)
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
    """The Keras model of `.keras` bytes, uncompiled.

    Raises ModelFileError before Keras reads anything unsafe, and for what Keras cannot read.
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
        strange = sorted(set(_classes(config)) - HARMLESS)
    # RuntimeError: an encrypted member, an unknown compression, a config nested too deep.
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, RuntimeError) as error:
        raise _refused(f"it is damaged ({error})") from error
    if strange:
        raise _refused(f"it holds the class {strange[0]}, which is not known to be harmless")
    if not isinstance(config, dict) or config.get("class_name") != "Sequential":
        raise _refused("its config is not that of a Sequential model")


def weights_digest(model: Any) -> str:
    """SHA-256 over each weight's path, dtype, shape and bytes, in the model's order: the same in any process."""
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
    """Every class that a Keras config names, at any depth, by its full name, and every name it is registered as."""
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
