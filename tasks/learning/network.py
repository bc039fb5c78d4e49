"""The network: the first one of Chollet's *Deep Learning with Python*, or a function of somebody's own.

The function is named `package.module:function`. Its module has to be importable on every machine that trains:
installed, in a folder of RETRAIN_NETWORK_PATH, or in the current one. Called by `tasks.learning.training` and, for its
code, by `flows.seeds` and `retrain up`.
"""

from __future__ import annotations

import hashlib
import importlib
import math
import os
import platform
import sys
from pathlib import Path
from typing import Any

from tasks.caching.keys import canonical, own_code
from tasks.errors import NetworkError
from tasks.learning import backend

# The folders in which a module is looked for after those of Python; the command line sets it to that of the settings.
PATH = "RETRAIN_NETWORK_PATH"

NEXT_STEP = "Correct the function, or `network` in the settings; tasks/learning/README.md has an example."


def build(shape: tuple[int, ...], classes: int, network: str = "") -> Any:
    """The network, not compiled: float32 images in [0, 1] to probabilities float32 (n, classes).

    Args:
        shape: That of an image, (height, width) or (height, width, 3). The network takes it, or as many flat pixels.
        classes: The number of classes.
        network: "package.module:function", called with shape and classes; "" for Chollet's.

    Raises:
        NetworkError: There is no such function, or it returns no network for these images.
    """
    return _own(network, shape, classes) if network else _chollet(math.prod(shape), classes)


def _chollet(inputs: int, classes: int) -> Any:
    """Layers have fixed names, because the default names count up within a process and get into the model file."""
    keras = backend.keras()
    return keras.Sequential(
        [
            keras.Input((inputs,), dtype="float32", name="pixels"),
            keras.layers.Dense(512, activation="relu", name="hidden"),
            keras.layers.Dense(classes, activation="softmax", name="digit"),
        ],
        name="chollet_mnist",
    )


def code(network: str) -> str:
    """A digest of the module of somebody's own network and of what it imports; "" for Chollet's. Imports nothing.

    Raises:
        NetworkError: There is no such module.
    """
    if not network:
        return ""
    try:
        return hashlib.sha256(canonical(own_code(network.partition(":")[0], _path()))).hexdigest()
    except (ImportError, SyntaxError, ValueError) as error:
        raise _unusable(network, error) from error


def _own(network: str, shape: tuple[int, ...], classes: int) -> Any:
    module, _, name = network.partition(":")
    path, sys.path = sys.path, _path()
    try:
        model = getattr(importlib.import_module(module), name)(shape, classes)
    except Exception as error:  # whatever the function does
        raise _unusable(network, error) from error
    finally:
        sys.path = path
    if problem := _problem(model, shape, classes):
        raise NetworkError(f"cannot use the network {network}", problem, NEXT_STEP)
    return model


def _path() -> list[str]:
    """Where Python looks for modules, and after that in the folders here: nothing in them hides a package."""
    named = os.environ.get(PATH, "").split(os.pathsep)
    return [*(folder for folder in (*sys.path, *named) if folder), str(Path.cwd())]


def _unusable(network: str, error: Exception) -> NetworkError:
    why, next_step = " ".join(str(error).split())[:500], NEXT_STEP
    if isinstance(error, ModuleNotFoundError):
        next_step = f"Install it on {platform.node()}, or set {PATH} there to the folder that has it."
    return NetworkError(f"cannot use the network {network}", f"{type(error).__name__}: {why}", next_step)


def inputs_for(shape: tuple[int, ...]) -> set[tuple[int, ...]]:
    """What a network may take for images of this shape: as they are, with a channel of their own, or flat."""
    return {shape, (*shape, 1), (math.prod(shape),)}


def _problem(model: Any, shape: tuple[int, ...], classes: int) -> str:
    """Why a model is none for these images; "" if it is one."""
    keras = backend.keras()
    if not isinstance(model, keras.Sequential) or not model.built:
        return "it returns no keras.Sequential that begins with an Input"
    if model.input_shape[1:] not in inputs_for(shape):
        return f"it takes {model.input_shape[1:]}, and an image has the shape {shape}"
    if model.output_shape != (None, classes):
        return f"it returns {model.output_shape[1:]} per image, and there are {classes:,} classes"
    last = model.layers[-1]
    if (
        not isinstance(last, keras.layers.Softmax)
        and getattr(last, "activation", None) is not keras.activations.softmax
    ):
        return "its last layer has no softmax, so that its outputs are no probabilities"
    return ""
