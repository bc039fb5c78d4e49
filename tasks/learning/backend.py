"""Imports Keras: once, when a step needs it, and without TensorFlow's start-up messages.

The import takes seconds, the largest cost beside training itself, so no module of the project imports Keras or
TensorFlow at its top. Called by the modules of `tasks.learning`, and by `flows.cli.preload` before a training.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

from tasks.errors import DeviceError, causes

_LOCK = threading.Lock()

# Variables of Keras, TensorFlow, oneDNN and JAX. Many change the weights, some silently train less, so a process of
# this project has none but those of KEPT, which are in the device kind or concern messages, threads or memory.
VARIABLES = re.compile("(KERAS|TF2?|ONEDNN|DNNL|JAX)_|NVIDIA_TF32_OVERRIDE$")
KEPT = re.compile(
    "KERAS_BACKEND$|(ONEDNN|DNNL)_(MAX_CPU_ISA|VERBOSE)|JAX_PLATFORMS$"
    "|TF_(CPP_|NUM_|GPU_|FORCE_GPU_ALLOW_GROWTH|FORCE_UNIFIED_MEMORY|PER_DEVICE_MEMORY)"
)
# What Keras imports where it is installed, for wrappers and pictures that nothing here uses: a third of the time.
OPTIONAL = {"matplotlib", "pandas", "sklearn"}

# Of entries for a GPU it is not known whether another GPU could take them.
PERSISTENT_CACHE = "--tf_xla_persistent_cache_directory={} --tf_xla_persistent_cache_device_types=CPU"

# Why the import failed: a second one would name a later cause.
_failure: Exception | None = None

# The extra is cpu, or gpu for CUDA.
INSTALL = "In the checkout: `make install`, or `pip install -e '.[cpu]'` into another environment."


def require_backend() -> None:
    """Look for the package of the backend, without importing it, so that no work begins in vain.

    Raises:
        DeviceError: It is not installed.
    """
    name = os.environ.get("KERAS_BACKEND") or "tensorflow"
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # a name with dots, an empty one
        found = None
    if found is None or found.origin is None:  # an uninstalled package may leave a folder
        named = " (KERAS_BACKEND)" if "KERAS_BACKEND" in os.environ else ""
        raise DeviceError("cannot train", f"the package {name}{named} is not installed", INSTALL)


def keras(compiled: Path | None = None) -> Any:
    """The Keras module, with the backend that `KERAS_BACKEND` names. Safe to call from several threads.

    Args:
        compiled: A folder for what XLA compiles; only the first call in a process can name one.

    Raises:
        DeviceError: The backend is not installed, or damaged, such as by a missing shared library.
    """
    global _failure
    with _LOCK:
        if "keras" not in sys.modules and not _failure:
            require_backend()
            _neutralize()
            if compiled:
                os.environ["TF_XLA_FLAGS"] = PERSISTENT_CACHE.format(compiled)
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
            logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns of each further model in a process
            try:
                with without_garbage_collection(), silenced_standard_error(), _without_optional_packages():
                    importlib.import_module("keras")
            except Exception as error:  # a shared library is missing, or versions do not fit: any type
                _failure = error
        if _failure:
            what = "cannot train: the import of Keras and its backend fails"
            raise DeviceError(what, _first_cause(_failure), f"Install them again. {INSTALL}") from _failure
    return sys.modules["keras"]


def _neutralize() -> None:
    """Remove from this process' environment what would change a training, and keep Keras from its configuration file.

    A keras.json can say float16, another backend, or three steps an epoch; Keras would also write one.
    """
    for name in [name for name in os.environ if VARIABLES.match(name) and not KEPT.match(name)]:
        del os.environ[name]
    os.environ["KERAS_HOME"] = os.devnull  # in which no file can lie
    os.environ["KERAS_BACKEND"] = os.environ.get("KERAS_BACKEND") or "tensorflow"


def _first_cause(error: BaseException) -> str:
    """The last line of the error at the bottom: TensorFlow's own holds a whole traceback."""
    *_, first = causes(error)
    lines = str(first).strip().splitlines()
    return f"{type(first).__name__}: {lines[-1]}" if lines else type(first).__name__


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Turn the garbage collector off during a large import.

    Otherwise it scans the growing set of imported objects again and again, frees nothing, and takes a third of the
    time. `gc.freeze` then excludes these objects from all later collections, also the one at the end of the process.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


class _NotInstalled(MetaPathFinder):
    """For one thread the optional packages are not installed; another one may be importing them at the same time."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()

    def find_spec(self, name: str, *_: object) -> None:
        if name in OPTIONAL and threading.get_ident() == self._thread:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@contextmanager
def _without_optional_packages() -> Iterator[None]:
    finder = _NotInstalled()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


@contextmanager
def silenced_standard_error() -> Iterator[None]:
    """Drop what C++ libraries print before they read any setting. What Python prints still shows.

    TensorFlow's logger keeps the stream that is `sys.stderr` during the import. So the descriptor behind it stays open:
    its number would be given to the next file or connection, and log lines would be written into that.
    """
    sys.stderr.flush()
    saved, python_stderr = os.dup(2), sys.stderr
    with Path(os.devnull).open("wb") as null:
        os.dup2(null.fileno(), 2)
    sys.stderr = open(saved, "w", buffering=1, closefd=False)  # noqa: SIM115 - stays open
    try:
        yield
    finally:
        sys.stderr.flush()
        sys.stderr = python_stderr
        os.dup2(saved, 2)
