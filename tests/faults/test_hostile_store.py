"""A store in which somebody has changed a published version and sealed it again: every digest agrees.

Also one with objects that are far too large, and one with links to what is elsewhere. The commands are run as a user
runs them, each in a process of its own.
"""

from __future__ import annotations

import base64
import copy
import io
import json
import marshal
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from tasks.data.arrays import from_npz, to_npz
from tasks.registry.documents import File, Manifest, Pointer, encode, identity, parse, sha256
from tasks.storage.verified import sealed
from tests.model_files import archive, config_of, dense, model_of, small_model

MODEL = "digits"
Files = dict[str, bytes]

# Each starts several runs and commands, on a machine that does other things too.
pytestmark = pytest.mark.timeout(600)


def place(store: Path, arguments: tuple[str, ...]) -> list[str]:
    if arguments[0] == "data":
        return []
    return [
        "--store",
        str(store),
        *([] if arguments[0] == "cache" or "--source" in arguments else ["--dataset", MODEL]),
    ]


def retrain(store: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command: it ends by itself, and never with a traceback."""
    command = [sys.executable, "-m", "flows.cli.main", *arguments, *place(store, arguments)]
    done = subprocess.run(command, env={**os.environ}, capture_output=True, text=True, check=False, timeout=150)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def reseal(store: Path, change: Callable[[Files], object], facts: dict[str, Any] | None = None) -> None:
    """Change the files of version 1, and write manifest, pointer and history with digests that agree."""
    base = store / "models" / MODEL
    folder = base / "versions" / "1"
    manifest = parse(Manifest, (folder / "manifest.json").read_bytes(), "manifest")
    files = {file.path: (folder / file.path).read_bytes() for file in manifest.files}
    change(files)
    for path, data in files.items():
        (folder / path).write_bytes(data)
    content = identity({path: sha256(data) for path, data in files.items()})
    entries = tuple(File(path=path, size=len(data), sha256=sha256(data)) for path, data in sorted(files.items()))
    changed = {"identity": content, "files": entries, "facts": copy.deepcopy(manifest.facts) | (facts or {})}
    (folder / "manifest.json").write_bytes(encode(manifest.model_copy(update=changed)))
    for kept in [base / "champion.json", *base.glob("history/*.json")]:
        pointer = parse(Pointer, kept.read_bytes(), "pointer")
        kept.write_bytes(encode(pointer.model_copy(update={"identity": content})))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one version of the real job."""
    store = tmp_path_factory.mktemp("hostile") / "store"
    done = retrain(store, "run", "--epochs", "30")
    assert done.returncode == 0, done.stderr
    return store


@pytest.fixture
def store(published: Path, tmp_path: Path) -> Path:
    """A copy of it, without what the publisher's own cache knows of the model."""
    copied = tmp_path / "store"
    subprocess.run(["cp", "-r", str(published), str(copied)], check=True)
    for path in copied.glob("cache/results/evaluate/*"):
        path.unlink()
    return copied


# A hole of so many bytes takes no room on the disk; whoever reads it has them in memory.
GIGABYTES = 1_500_000_000


def measured(store: Path, *arguments: str) -> tuple[int, str, str, int]:
    """A command's exit code, output, errors and its greatest memory, in bytes."""
    command = [sys.executable, "-m", "flows.cli.main", *arguments, *place(store, arguments)]
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=output, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        for file in (output, errors):
            file.seek(0)
        done = process.returncode, output.read(), errors.read(), usage.ru_maxrss * 1024
    assert "Traceback" not in done[2], done[2]
    return done


def inflate(path: Path) -> Path:
    assert path.is_file()
    os.truncate(path, GIGABYTES)
    return path


SPACIOUS = {
    "versions/1/model.keras": "model.keras: the file was altered: it has 1,500,000,000 bytes, and at most",
    "versions/1/manifest.json": "manifest.json: the file is too large: it has 1,500,000,000 bytes",
    "champion.json": "champion.json: the file is too large: it has 1,500,000,000 bytes",
    "history": ".json: the file is too large: it has 1,500,000,000 bytes",
}


@pytest.mark.parametrize("name", SPACIOUS)
def test_an_object_that_is_too_large_is_one_line_and_never_in_memory(name: str, store: Path, tmp_path: Path) -> None:
    base = store / "models" / MODEL
    inflate(next((base / name).glob("0*.json")) if name == "history" else base / name)
    commands = {"verify": ("verify",), "fetch": ("fetch", str(tmp_path / "fetched")), "history": ("history",)}
    concerned = {
        "versions/1/model.keras": ["verify", "fetch"],
        "versions/1/manifest.json": ["verify", "fetch"],
        "champion.json": ["verify", "fetch", "history"],
        "history": ["verify", "history"],
    }
    for command, arguments in commands.items():
        code, _, errors, memory = measured(store, *arguments)
        assert memory < 500_000_000
        assert (code == 1) == (command in concerned[name]), errors
        assert (SPACIOUS[name] in errors) == (command in concerned[name])
    if name == "champion.json":
        code, _, errors, memory = measured(store, "rollback", "--to", "1")
        assert (code, memory < 500_000_000) == (0, True), errors
        assert (base / name).stat().st_size < 10_000, "it was written anew"


def test_a_manifest_that_names_gigabytes_is_no_manifest(store: Path) -> None:
    folder = store / "models" / MODEL / "versions" / "1"
    manifest = parse(Manifest, (folder / "manifest.json").read_bytes(), "manifest")
    files = tuple(file.model_copy(update={"size": GIGABYTES}) for file in manifest.files)
    (folder / "manifest.json").write_bytes(encode(manifest.model_copy(update={"files": files})))
    inflate(folder / "model.keras")
    code, _, errors, memory = measured(store, "verify")
    assert (code, memory < 500_000_000) == (1, True), errors
    assert "manifest.json: the file is no manifest" in errors


def test_cached_objects_that_are_too_large_are_computed_again(store: Path) -> None:
    (model,) = [each for each in store.glob("cache/objects/*") if each.stat().st_size > 1_600_000 and _is_model(each)]
    size = model.stat().st_size
    results = [inflate(path) for path in store.glob("cache/results/download/*.json")]
    records = [inflate(path) for path in store.glob("cache/last/*.json")]
    assert results
    assert records
    inflate(model)
    code, output, errors, memory = measured(store, "run", "--epochs", "30")
    assert code == 0, errors
    assert memory < GIGABYTES, "that of TensorFlow"
    assert "train: its cached result cannot be used and is computed anew: cannot use the artifact" in output + errors
    assert "it has 1,500,000,000 bytes, and at most" in output + errors
    assert model.stat().st_size == size, "healed"
    assert max(path.stat().st_size for path in results) < 10_000
    code, output, errors, memory = measured(store, "cache")
    assert (code, memory < 500_000_000) == (0, True), errors


def _is_model(path: Path) -> bool:
    return b"model.weights.h5" in path.read_bytes()


@pytest.mark.parametrize(
    ("moved", "command"),
    [
        ("cache", ("cache", "clear")),
        ("cache/objects", ("cache", "clear")),
        ("cache/results", ("cache", "clear")),
        (f"models/{MODEL}/versions", ("gc",)),
        (f"models/{MODEL}", ("gc",)),
    ],
)
def test_what_a_link_in_the_store_points_to_survives_every_removal(
    moved: str, command: tuple[str, ...], store: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    (store / moved).rename(outside)
    (store / moved).symlink_to(outside)
    for folder in (outside, outside / "1"):
        folder.mkdir(exist_ok=True)
        (folder / "stray").write_bytes(b"no manifest names it")
    before = sorted(outside.rglob("*"))
    done = retrain(store, *command, "--older-than", "0", "--yes")
    assert done.returncode == 1
    assert f"cannot use {store / moved}: it is a symbolic link" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert sorted(outside.rglob("*")) == before


HUGE = config_of(784, [dense(784, 3_000_000, "relu", "hidden"), dense(3_000_000, 10, "softmax", "digit")])
DEEP = config_of(784, [dense(784, 1, "relu", "a"), *(dense(1, 1, "relu", f"b{number}") for number in range(2000))])
HOSTILE = {
    "a lie about HDF5": archive(
        config_of(784, [dense(784, 10, "softmax", "digit")]), b"\x89HDF\r\n\x1a\n" + b"\xff" * 40_000
    ),
    "2,000 layers": archive(DEEP, b""),
    "nine gigabytes": archive(HUGE, b""),
    "no model": b"",
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.nightly] * (name in ("2,000 layers", "no model"))) for name in HOSTILE],
)
def test_a_model_that_the_loader_refuses_is_never_verified_and_ends_no_run(
    name: str, store: Path, tmp_path: Path
) -> None:
    reseal(store, lambda files: files.update({"model.keras": HOSTILE[name]}))
    start = time.monotonic()
    for arguments in (("fetch", str(tmp_path / "fetched")), ("verify",), ("verify", "1"), ("pin", "1")):
        done = retrain(store, *arguments)
        assert done.returncode == 1, done.stdout
        assert "verified:" not in done.stdout
        assert "model.keras: " in done.stderr
    assert not (tmp_path / "fetched").exists()
    assert time.monotonic() - start < 60
    rejected = retrain(store, "run", "--epochs", "31")
    assert rejected.returncode == 3, rejected.stderr
    assert "cannot be compared: cannot use " in rejected.stdout
    if name == "a lie about HDF5":  # the others end in the same way
        forced = retrain(store, "run", "--epochs", "31", "--force-publish", "version 1 was replaced")
        assert forced.returncode == 0, forced.stderr


def test_a_model_of_other_images_or_classes_fails_its_row_and_ends_no_run(store: Path) -> None:
    wide = np.zeros((784, 300), np.float32), np.zeros(300, np.float32), "softmax"
    for model, why in ((small_model(inputs=9), "it takes 9 pixels"), (model_of(wide), "it predicts 300 classes")):
        reseal(store, lambda files, model=model: files.update({"model.keras": model}))  # type: ignore[misc]
        rejected = retrain(store, "run", "--epochs", "31")
        assert rejected.returncode == 3, rejected.stderr
        assert why in rejected.stdout


@pytest.mark.parametrize("right", [True, pytest.param(False, marks=pytest.mark.nightly)])
def test_predictions_and_metrics_that_were_replaced_change_no_verdict(right: bool, store: Path) -> None:
    """With all answers wrong a worse model would pass, with all right no model would pass any more."""

    def replace(files: Files) -> None:
        _, labels = from_npz(files["predictions.npz"])
        answers = np.eye(10, dtype=np.float32)[labels if right else (labels + 1) % 10]
        files["predictions.npz"] = to_npz(answers, labels)

    worse = ("--epochs", "2", "--min-accuracy", "0", "--min-accuracy-lower-bound", "0", "--min-class-recall", "0")
    limits = worse[2:] if right else worse
    arguments = ("run", "--dry-run", "--json", *(("--seed", "3", "--epochs", "30", *limits) if right else limits))
    honest = json.loads(retrain(store, *arguments).stdout)["decision"]["checks"]
    reseal(store, replace, {"metrics": {"accuracy": float(right), "loss": 0.0, "images": 360}})
    assert json.loads(retrain(store, *arguments).stdout)["decision"]["checks"] == honest
    assert honest[-1]["name"] == "loss to champion v1"
    assert honest[-1]["passed"] is right


@pytest.mark.nightly
def test_predictions_that_are_none_are_one_line_of_compare(store: Path) -> None:
    forced = retrain(store, "run", "--epochs", "31", "--force-publish", "a second version")
    assert forced.returncode == 0, forced.stderr
    for data in (b"", b"PK\x05\x06" + bytes(18), small_model()):
        reseal(store, lambda files, data=data: files.update({"predictions.npz": data}))  # type: ignore[misc]
        done = retrain(store, "compare", "1", "2")
        assert (done.returncode, len(done.stderr.strip().splitlines())) == (1, 1), done.stderr
        assert "predictions.npz: " in done.stderr


# Python imports this module in every process, those that a run starts too. An unpickled object that does anything finds
# a function first; code in Keras' Lambda layers is marshalled, and otherwise only imports read marshalled code.
WATCH = """
import os, sys

def watch(event, arguments):
    if event == "marshal.loads":
        caller = sys._getframe().f_back
        if caller is None or "importlib" in caller.f_globals.get("__name__", ""):
            return
    if event in {"pickle.find_class", "marshal.loads"}:
        tell(f"{event} {arguments!r:.200}")

def tell(text):
    with open(os.environ["WATCHED"], "a") as file:
        file.write(text + "\\n")

sys.addaudithook(watch)
tell("watched")
"""


class Planted:
    """Whoever unpickles it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return os.makedirs, (str(self.folder), 0o777, True)


def arrays(**members: object) -> bytes:
    """An .npz with pickled objects, as NumPy writes them."""
    buffer = io.BytesIO()
    np.savez(buffer, **{name: np.array(value, object) for name, value in members.items()})  # type: ignore[arg-type]
    return buffer.getvalue()


def with_lambda(code: bytes) -> bytes:
    """A model file with a Lambda layer, as Keras writes its marshalled code."""
    function = {"class_name": "__lambda__", "config": {"code": base64.b64encode(code).decode(), "defaults": None}}
    layer = {"module": "keras.layers", "class_name": "Lambda", "config": {"name": "l", "function": function}}
    return archive(config_of(784, [layer | {"registered_name": None}, dense(784, 10, "softmax", "digit")]), b"")


@pytest.mark.timeout(600)  # seven processes
@pytest.mark.nightly
def test_nothing_is_unpickled_wherever_a_store_or_a_source_has_a_pickle(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran, watched, site = (tmp_path / name for name in ("ran", "watched", "site"))
    planted = Planted(ran)
    pickled = pickle.dumps(planted)
    site.mkdir()
    (site / "sitecustomize.py").write_text(WATCH)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), str(Path(__file__).parents[2])]))
    monkeypatch.setenv("WATCHED", str(watched))

    def publish(files: Files) -> None:
        files["predictions.npz"] = arrays(probabilities=[planted], labels=[planted])
        files["model.keras"] = with_lambda(marshal.dumps(compile(f"import os; os.makedirs({str(ran)!r})", "", "exec")))

    reseal(store, publish)
    (train,) = store.glob("cache/results/train/*.json")
    metadata = {"storage_key": "key", "serializer": {"type": "pickle", "picklelib": "pickle"}}
    result = {"metadata": metadata, "result": base64.b64encode(pickled).decode()}
    for number, path in enumerate(sorted(store.glob("cache/results/*/*.json"))):
        path.write_bytes(sealed(pickled if number % 2 else json.dumps(result).encode()))
    state = sealed(arrays(arr_0=[planted], arr_1=[planted]))
    checkpoint = store / "checkpoints/train" / train.stem / "cpu" / f"0001-{sha256(state)}"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_bytes(state)
    for name in ("letters.npz", "mnist.npz"):
        members = {member: [planted] for member in ("x_train", "y_train", "x_test", "y_test")}
        (tmp_path / name).write_bytes(arrays(**members))
    fields = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": pickled}
    column = pyarrow.field("image", pyarrow.binary(), metadata=fields)
    rows = pyarrow.table({"image": [b"x"], "label": [1]}, pyarrow.schema([column, ("label", pyarrow.int64())]))
    pyarrow.parquet.write_table(rows, tmp_path / "letters.parquet")

    ends = {("fetch", str(tmp_path / "fetched")): 1, ("cache",): 0, ("compare", "1", "1"): 1}
    ends |= {("run", "--epochs", "30"): 3}  # its training looks for a checkpoint
    ends |= {("data", "check", "--source", str(tmp_path / f"letters.{kind}")): 1 for kind in ("npz", "parquet")}
    ends |= {("run", "--source", "mnist", "--mirror", (tmp_path / "mnist.npz").as_uri()): 1}
    for arguments, code in ends.items():
        done = retrain(store, *arguments)
        assert {*watched.read_text().splitlines()} == {"watched"}, arguments
        assert not ran.exists()
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
