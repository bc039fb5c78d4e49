"""Two models on one server, each with its own file, people to tell, and data; one with a network of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.source_files import some, write_npz
from tests.workers.laptop import Laptop, eventually, make_block

NETWORK = """
import keras

from sizes import FILTERS

def small(shape, classes):
    layers = keras.layers
    return keras.Sequential([
        keras.Input((*shape, 1)),
        layers.Conv2D(FILTERS, 3, activation="relu"),
        layers.Flatten(),
        layers.Dense(classes, activation="softmax"),
    ])
"""

SETTINGS = """
model = "{0}"
notify = "{2}"
device = "cpu"
[data]
source = "./{0}.npz"
[recipe]
epochs = 2
network = "{1}"
[gate]
min_accuracy = 0.0
"""


MISSING = "cannot use the network networks:small: ModuleNotFoundError: no module named 'networks'. Install it on "


def deployed_there(laptop: Laptop) -> list[tuple[str, object]]:
    found = laptop.api("POST", "deployments/filter", {}) + laptop.api("POST", "automations/filter", {})
    return sorted((each["name"], each["updated"]) for each in found)


@pytest.fixture
def laptop(tmp_path: Path) -> Iterator[Laptop]:
    laptop = Laptop(tmp_path)
    yield laptop
    assert laptop.retrain("down").returncode == 0


def model(folder: Path, name: str, network: str = "", notify: str = "") -> str:
    """The file of settings of a model, beside its data."""
    folder.mkdir(exist_ok=True)
    write_npz(folder, {"train": some(60, seed=len(name)), "test": some(30, seed=1)})
    (folder / "images.npz").rename(folder / f"{name}.npz")
    file = folder / f"{name}.toml"
    file.write_text(SETTINGS.format(name, network, notify))
    return str(file)


@pytest.mark.timeout(600)
def test_two_models_are_deployed_trained_on_the_pool_and_told_to_their_own_people(
    laptop: Laptop, inbox: tuple[str, list[dict[str, str]]]
) -> None:
    address, posted = inbox
    assert laptop.up().returncode == 0
    make_block(laptop, address)
    letters = model(laptop.folder / "a", "letters", "networks:small", "custom-webhook/team")
    shapes = model(laptop.folder / "b", "shapes")
    both = ("--config", letters, "--config", shapes)

    missing = laptop.retrain("up", *both)
    assert missing.returncode == 1
    assert missing.stderr.splitlines()[-1].startswith(f"retrain: {MISSING}")
    (laptop.folder / "a/networks.py").write_text(NETWORK)
    (laptop.folder / "a/sizes.py").write_text("FILTERS = 4\n")
    before = deployed_there(laptop)
    Path(shapes).write_text(Path(shapes).read_text().replace("epochs", "epohcs"))
    for command in ("up", "deploy"):
        mistyped = laptop.retrain(command, *both)
        assert mistyped.returncode == 2
        assert f"cannot use epohcs in [recipe] of {shapes}" in mistyped.stderr.splitlines()[-1]
    assert deployed_there(laptop) == before, "a mistyped second file changes nothing"
    Path(shapes).write_text(Path(shapes).read_text().replace("epohcs", "epochs"))

    started = laptop.retrain("up", *both)
    assert started.returncode == 0, started.stderr
    assert "started the worker jobs again: RETRAIN_NETWORK_PATH has changed" in started.stdout
    runs = {name: laptop.start(f"retrain/{name}-on-demand") for name in ("letters", "shapes")}
    for name, run in runs.items():
        ended = laptop.ended(run)
        assert ended["state"]["name"] == "Published", ended["state"]
        assert ended["name"] == f"{name}, 2 epochs, seed 0: published version 1"
    assert [each["state"]["type"] for each in laptop.runs("train/worker")] == ["COMPLETED"] * 2
    eventually(lambda: posted, 60)
    assert [each["title"] for each in posted] == ["retrain Published: letters, 2 epochs, seed 0"]
    assert "retrain/letters-on-demand: http://" in posted[0]["text"]
    assert {"letters", "shapes"} <= set(laptop.retrain("models", "--store", laptop.store.url).stdout.split())

    deployed = laptop.retrain("deploy", *both, "--dry-run")
    assert deployed.returncode == 0, deployed.stderr
    assert [line.split()[:3] for line in deployed.stdout.splitlines()] == [
        ["would", "deploy", "letters"],
        ["would", "deploy", "shapes"],
    ], "deploy finds what up has put there"
    assert "every worker has to find the module of the network networks:small" in deployed.stderr

    (laptop.folder / "a/networks.py").unlink()
    gone = laptop.ended(laptop.start("retrain/letters-on-demand"))
    assert gone["state"]["type"] == "FAILED"
    assert MISSING in gone["state"]["message"]
