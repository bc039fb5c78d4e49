"""Data of somebody's own: from `retrain init` to a published version and back, as a user types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tasks.data.arrays import scale
from tasks.learning import model_file
from tests import own_data
from tests.source_files import WRITERS, some

ROOT = Path(__file__).parents[2]

NETWORK = """
import keras

def small(shape, classes):
    layers = keras.layers
    return keras.Sequential([
        keras.Input(shape),
        layers.Conv2D(8, 3, activation="relu"),
        layers.MaxPooling2D(2),
        layers.Flatten(),
        layers.Dropout(0.1),
        layers.Dense(classes, activation="softmax"),
    ])
"""


@pytest.fixture
def retrain(tmp_path: Path, prefect_server: None) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command line, in an empty folder."""
    from prefect.settings import PREFECT_API_URL

    environment = {
        **{name: value for name, value in os.environ.items() if name != "RETRAIN_CONFIG"},
        "PREFECT_API_URL": PREFECT_API_URL.value() or "",
        "PYTHONPATH": str(ROOT),
    }

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "flows.cli.main", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


Retrain = Callable[..., subprocess.CompletedProcess[str]]


def test_a_folder_of_letters_is_published_fetched_and_calibrated(retrain: Retrain, tmp_path: Path) -> None:
    own_data.letters(tmp_path / "letters", each=30)
    looked = retrain("data", "check", "--source", "./letters")
    assert looked.returncode == 0, looked.stderr
    assert "classes   26: A, B, C, D, E, F, G, H, I, J, K, L, …" in looked.stdout.splitlines()
    assert not (tmp_path / "store").exists()
    assert retrain("init", "--source", "./letters").returncode == 0
    file = tomllib.loads((tmp_path / "retrain.toml").read_text())
    assert (file["model"], file["data"]) == ("letters", {"source": "./letters"})
    assert 1 / 26 < file["gate"]["min_accuracy"] < 0.3

    first = retrain("run", "--json")
    assert first.returncode == 0, first.stderr
    outcome = json.loads(first.stdout)
    assert (outcome["verdict"], outcome["receipt"]["model"]) == ("published", "letters")
    assert outcome["decision"]["accuracy"] > 0.4
    (weakest,) = [check for check in outcome["decision"]["checks"] if check["name"] == "lowest class recall"]
    assert weakest["sentence"][:7] in {f"class {letter}" for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
    second = json.loads(retrain("run", "--json").stdout)
    assert second["verdict"] == "already published"
    assert {step["name"] for step in second["steps"] if not step["cached"]} == {"judge", "record"}

    assert retrain("fetch", "here").returncode == 0
    manifest = json.loads((tmp_path / "here/manifest.json").read_text())
    assert manifest["facts"]["data"]["classes"][:3] == ["A", "B", "C"]
    assert "letters" in (tmp_path / "here/README.md").read_text()
    assert "letters" in retrain("models").stdout

    calibrated = retrain("calibrate", "--seeds", "5", "--epochs", "3")
    assert calibrated.returncode == 0, calibrated.stderr
    limits = tomllib.loads((tmp_path / "retrain.toml").read_text())["gate"]
    assert set(limits) == {"min_accuracy", "min_accuracy_lower_bound", "min_class_recall", "max_regression"}
    assert f"+min_accuracy = {limits['min_accuracy']:g}" in calibrated.stdout.splitlines()
    assert limits["min_accuracy"] > limits["min_accuracy_lower_bound"]


@pytest.mark.nightly
def test_a_skewed_set_of_two_classes(retrain: Retrain, tmp_path: Path) -> None:
    own_data.skewed(tmp_path / "skewed.npz")
    assert retrain("init", "--source", "./skewed.npz").returncode == 0
    file = tomllib.loads((tmp_path / "retrain.toml").read_text())
    assert file["gate"]["min_accuracy"] > 0.9, "always guessing the frequent class is not enough"
    done = retrain("run", "--json", "--min-class-recall", "0.5")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["receipt"]["model"] == "skewed"


def test_pictures_in_colour_with_a_network_of_ones_own(retrain: Retrain, tmp_path: Path) -> None:
    own_data.colours(tmp_path / "colours")
    (tmp_path / "networks.py").write_text(NETWORK)
    options = ("--source", "./colours/", "--network", "networks:small", "--epochs", "8")
    assert retrain("init", *options).returncode == 0
    done = retrain("run", "--json")
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["decision"]["accuracy"] > 0.8
    assert outcome["decision"]["checks"][4]["sentence"].endswith("bit for bit")

    assert retrain("fetch", "here").returncode == 0
    model = model_file.load((tmp_path / "here/model.keras").read_bytes())
    assert model.input_shape == (None, 20, 20, 3)
    red = np.zeros((1, 20, 20, 3), np.uint8)
    red[:, 5:15, 8:12, 0] = 190
    names = json.loads((tmp_path / "here/manifest.json").read_text())["facts"]["data"]["classes"]
    assert names[int(model.predict(scale(red), verbose=0).argmax())] == "red"
    assert (tmp_path / "here/model.onnx").exists()

    (tmp_path / "networks.py").write_text(NETWORK.replace("Conv2D(8", "Conv2D(9"))
    changed = json.loads(retrain("run", "--json").stdout)
    assert {step["name"] for step in changed["steps"] if step["cached"]} == {"download", "preprocess"}
    (tmp_path / "networks.py").write_text("def small(shape, classes):\n    raise ValueError('no')\n")
    broken = retrain("run")
    assert broken.returncode == 1
    assert broken.stderr.splitlines()[-1].startswith("retrain: cannot use the network networks:small: ValueError: no.")


@pytest.mark.nightly
def test_a_new_picture_is_noticed_and_the_data_are_read_again(retrain: Retrain, tmp_path: Path) -> None:
    own_data.letters(tmp_path / "letters", each=25, characters="AB")
    assert retrain("init", "--source", "./letters", "--epochs", "2").returncode == 0
    assert retrain("run").returncode in {0, 3}
    own_data.letters(tmp_path / "more", each=3, characters="A", seed=1)
    for number, picture in enumerate(sorted((tmp_path / "more/A").iterdir())):
        picture.rename(tmp_path / f"letters/A/new-{number}.png")
    again = retrain("run", "--json")
    steps = {step["name"]: step["cached"] for step in json.loads(again.stdout)["steps"]}
    assert (steps["download"], steps["train"]) == (False, False)


@pytest.mark.nightly
def test_the_same_images_in_every_format_are_one_model(retrain: Retrain, tmp_path: Path) -> None:
    """The data are those of the first format, so they are not prepared again; trained again, the weights are too."""
    splits = {"train": some(60), "test": some(30, seed=1)}
    verdicts = []
    for name, write in WRITERS.items():
        folder = tmp_path / name.replace(" ", "-")
        folder.mkdir()
        write(folder, splits)
        source = ("--source", f"./{folder.name}/", "--model", "shapes", "--epochs", "2", "--min-accuracy", "0")
        done = retrain("run", *source, "--refresh", "train", "--json")
        assert done.returncode == 0, done.stderr
        outcome = json.loads(done.stdout)
        cached = {step["name"] for step in outcome["steps"] if step["cached"]}
        verdicts.append((outcome["verdict"], "preprocess" in cached, "train" in cached))
    assert verdicts == [("published", False, False), *[("already published", True, False)] * (len(WRITERS) - 1)]
