"""A network of somebody's own: found, trained, resumed and cached by its code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tasks.data.arrays import Split, scale
from tasks.errors import NetworkError
from tasks.learning import model_file
from tasks.learning.checkpoints import Checkpoints
from tasks.learning.model_file import to_bytes
from tasks.learning.network import build, code
from tasks.learning.onnx_file import run_onnx, to_onnx
from tasks.learning.predictions import predict
from tasks.learning.training import fit
from tasks.settings import Recipe
from tasks.storage import open_store

NETWORK = '''
import keras
from parts.layers import WIDTH

def small(shape, classes):
    """Not part of the code that counts."""
    return keras.Sequential([
        keras.Input(shape),
        keras.layers.Flatten(),
        keras.layers.Dense(WIDTH, activation="relu"),
        keras.layers.Dense(classes, activation="softmax"),
    ])

def functional(shape, classes):
    pixels = keras.Input(shape)
    return keras.Model(pixels, keras.layers.Dense(classes, activation="softmax")(keras.layers.Flatten()(pixels)))

def logits(shape, classes):
    return keras.Sequential([keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(classes)])

def ten(shape, classes):
    return keras.Sequential([keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(10, activation="softmax")])

def other(shape, classes):
    return keras.Sequential([keras.Input((7,)), keras.layers.Dense(classes, activation="softmax")])

def unbuilt(shape, classes):
    return keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(classes, activation="softmax")])

def pictures(shape, classes):
    layers = keras.layers
    return keras.Sequential([
        keras.Input(shape),
        layers.Conv2D(4, 3, padding="same", activation="relu"),
        layers.BatchNormalization(),
        layers.MaxPooling2D(2),
        layers.Dropout(0.2),
        layers.Flatten(),
        layers.Dense(classes, activation="softmax"),
    ])

def fails(shape, classes):
    raise RuntimeError("no\\nnetwork")
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a package of one's own."""
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/__init__.py").write_text("# a package\n")
    (tmp_path / "parts/layers.py").write_text("WIDTH = 8\n")
    (tmp_path / "parts/networks.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def forgotten() -> object:
    """No test meets the modules of another one."""
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] in {"parts", "json5"}]:
        del sys.modules[name]


def examples(shape: tuple[int, ...] = (6, 5, 3), classes: int = 4) -> Split:
    random = np.random.default_rng(0)
    labels = (np.arange(64) % classes).astype(np.uint8)
    images = random.integers(0, 100, (64, *shape), np.uint8)
    images[:, 0] += 30 * labels.reshape(-1, *[1] * (len(shape) - 1))
    return Split(images, labels)


def test_the_default_network_takes_flat_pixels_of_any_shape() -> None:
    for shape, classes in (((28, 28), 10), ((6, 5, 3), 4)):
        network = build(shape, classes)
        assert network.input_shape == (None, int(np.prod(shape)))
        assert network.output_shape == (None, classes)


def test_an_own_network_is_trained_and_gives_the_same_file_each_time(folder: Path) -> None:
    recipe = Recipe(epochs=2, batch_size=16, network="parts.networks:small")
    first, second = (fit(examples(), recipe) for _ in range(2))
    assert first.model.input_shape == (None, 6, 5, 3)
    assert to_bytes(first.model) == to_bytes(second.model), "names of layers do not count up"
    assert first.history[-1].loss < first.history[0].loss


def test_a_network_for_pictures_resumes_with_the_same_bits(folder: Path) -> None:
    """With layers that keep averages, and generators of random numbers, besides what is learned."""
    recipe = Recipe(epochs=3, batch_size=16, network="parts.networks:pictures")
    whole = to_bytes(fit(examples((8, 6, 3)), recipe).model)
    checkpoints = Checkpoints(open_store(str(folder / "store")), "train/key/cpu")

    def stop(number: int, _: object) -> None:
        if number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(examples((8, 6, 3)), recipe, checkpoints=checkpoints, on_epoch=stop)
    assert to_bytes(fit(examples((8, 6, 3)), recipe, checkpoints=checkpoints).model) == whole
    loaded = model_file.load(whole)
    images = examples((8, 6, 3)).images
    predicted = predict(whole, images.reshape(len(images), -1))
    np.testing.assert_allclose(predicted, loaded(scale(images), training=False), atol=1e-6)
    np.testing.assert_allclose(predicted, run_onnx(to_onnx(loaded), images.reshape(len(images), -1)), atol=1e-5)


@pytest.mark.parametrize(
    ("network", "why"),
    [
        ("parts.networks:nothing", "AttributeError: module 'parts.networks' has no attribute 'nothing'"),
        ("parts.nowhere:small", "ModuleNotFoundError: No module named 'parts.nowhere'"),
        ("nowhere:small", "ModuleNotFoundError: No module named 'nowhere'"),
        ("parts.networks:fails", "RuntimeError: no network"),
        ("parts.networks:WIDTH", "TypeError: 'int' object is not callable"),
        ("parts.networks:functional", "it returns no keras.Sequential that begins with an Input"),
        ("parts.networks:unbuilt", "it returns no keras.Sequential that begins with an Input"),
        ("parts.networks:logits", "its last layer has no softmax"),
        ("parts.networks:ten", r"it returns \(10,\) per image, and there are 4 classes"),
        ("parts.networks:other", r"it takes \(7,\), and an image has the shape \(6, 5, 3\)"),
    ],
)
def test_what_is_no_network_for_the_images_is_one_line(folder: Path, network: str, why: str) -> None:
    line = f"^cannot use the network {network}: {why}.*(README|RETRAIN_NETWORK_PATH)"
    with pytest.raises(NetworkError, match=line) as raised:
        build((6, 5, 3), 4, network)
    assert "\n" not in str(raised.value)


def test_the_code_of_a_network_is_that_of_its_module_and_of_what_it_imports(folder: Path) -> None:
    before = code("parts.networks:small")
    (folder / "parts/networks.py").write_text(NETWORK.replace("Not part", "No part") + "# a comment\n")
    (folder / "unused.py").write_text("CHANGED = 1\n")
    assert code_elsewhere(folder) == before
    for file, old, new in (
        ("parts/networks.py", "relu", "tanh"),
        ("parts/layers.py", "8", "9"),
        ("parts/__init__.py", "# a package", "import os"),
    ):
        path = folder / file
        path.write_text(path.read_text().replace(old, new))
        changed = code_elsewhere(folder)
        assert changed != before, file
        before = changed
    assert "parts" not in sys.modules, "nothing is imported"


def code_elsewhere(folder: Path) -> str:
    """As another process sees it, which has read no file yet."""
    program = "from tasks.learning.network import code; print(code('parts.networks:small'))"
    root = str(Path(__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {root!r}); {program}"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_the_default_network_has_no_code_of_its_own() -> None:
    assert code("") == ""


def test_a_module_that_is_not_there_or_no_python_is_one_line(folder: Path) -> None:
    (folder / "broken.py").write_text("def (")
    for network in ("nowhere:small", "broken:small", "parts.nowhere:small"):
        with pytest.raises(NetworkError, match=f"cannot use the network {network}"):
            code(network)


def test_a_file_in_the_current_folder_hides_no_package(folder: Path) -> None:
    (folder / "json5.py").write_text("")
    (folder / "keras.py").write_text("raise RuntimeError('a trap')")
    (folder / "numpy.py").write_text("raise RuntimeError('a trap')")
    assert build((6, 5, 3), 4, "parts.networks:small").output_shape == (None, 4)
    assert str(folder) not in sys.path
