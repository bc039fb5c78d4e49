"""What a store holds beside model files: each kind of file in a real folder, as whoever may write there left it."""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect._internal.result_records import ResultRecord

from flows.cli import compare
from tasks.caching.inventory import RESULTS, cache_items, removable
from tasks.caching.results import ResultFiles
from tasks.data.arrays import from_npy, to_npy, to_npz
from tasks.errors import ArtifactError, RetrainError
from tasks.gate.baselines import _published_comparison
from tasks.learning.checkpoints import Checkpoint, Checkpoints, encode
from tasks.registry import Registry, champion
from tasks.registry import documents as registry_documents
from tasks.registry.documents import File, Manifest, Pin, Pointer, identity, now
from tasks.registry.documents import encode as encoded
from tasks.report import report_json, version_comparison
from tasks.report.changes import changes
from tasks.report.facts import manifest_facts
from tasks.storage import Artifacts, verified
from tasks.storage.local import LocalStore
from tasks.storage.objects import LARGEST_DOCUMENT
from tasks.storage.verified import sealed
from tasks.values import KERAS, Artifact, Epoch, Trained
from tests.fuzz.mutations import json_texts, mutated_bytes, sealed_texts
from tests.tasks.report.examples import example

DOCUMENT = example(wrong=4, images=20).document
FACTS = manifest_facts(DOCUMENT.facts)
REPORT = json.loads(report_json(DOCUMENT))
DIGESTS = {path: hashlib.sha256(path.encode()).hexdigest() for path in ("model.keras", "report.json")}
FILES = tuple(File(path=path, size=len(path), sha256=digest) for path, digest in DIGESTS.items())
MANIFEST = Manifest(version=1, identity=identity(DIGESTS), created=now(), files=FILES, facts=FACTS)
POINTERS = [
    Pointer(
        version=1,
        identity=MANIFEST.identity,
        publish_id=f"{generation:032x}",
        generation=generation,
        previous=None if generation == 1 else 1,
        moved=now(),
        reason="better",
        decides=decides,
    )
    for generation, decides in ((1, "pointer"), (2, "history"), (3, "pointer"))
]
PIN = Pin(version=1, identity=MANIFEST.identity, moved=now(), reason="good enough")


def plain(*values: Manifest | Pointer | Pin) -> list[dict[str, Any]]:
    return [json.loads(encoded(value)) for value in values]


def documents(*values: Manifest | Pointer | Pin) -> st.SearchStrategy[bytes]:
    """Mutated bytes of these documents; most are sealed again."""
    return (
        sealed_texts(plain(*values))
        | sealed_texts(plain(*values))
        | json_texts(plain(*values))
        | mutated_bytes([encoded(value) for value in values])
    )


class Folder:
    """A store in a folder, and its registry. Files are written without the flush to disk, which takes longer."""

    def __init__(self, path: Path) -> None:
        self.store = LocalStore(path)
        self.registry = Registry(self.store, "mnist")

    def write(self, key: str, data: bytes) -> None:
        path = self.store.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Folder]:
    """A store with one version, three entries of the history, and a pin; each object is read once."""
    monkeypatch.setattr(champion, "MOVE_WAITS", [0.0])
    for reader in (registry_documents, verified):
        monkeypatch.setattr(reader, "READS", 1)
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as path:
        folder = Folder(Path(path))
        for name in DIGESTS:
            folder.write(f"models/mnist/versions/1/{name}", name.encode())
        folder.write("models/mnist/versions/1/manifest.json", encoded(MANIFEST))
        for pointer in POINTERS:
            folder.write(f"models/mnist/history/{pointer.entry}", encoded(pointer))
        folder.write("models/mnist/champion.json", encoded(POINTERS[-1]))
        folder.write("models/mnist/reference.json", encoded(PIN))
        assert folder.registry.verify(1) == []
        assert folder.registry.verify_champion() == []
        yield folder


def attempt(*calls: Callable[[], object]) -> None:
    """Call each; an error of the project is what a user may see, and one line."""
    for call in calls:
        said = ""
        try:
            call()
        except RetrainError as error:
            said = str(error)
        assert len(said.splitlines()) <= 1


@given(documents(MANIFEST))
def test_manifests(folder: Folder, data: bytes) -> None:
    registry = folder.registry
    folder.write("models/mnist/versions/1/manifest.json", data)

    def shown() -> None:
        manifest = registry.manifest(1)
        assert encoded(manifest) == data
        assert manifest.accuracy is None or 0 <= manifest.accuracy <= 1
        changes(1, manifest.facts, FACTS)
        changes(1, FACTS, manifest.facts)
        for old, new in ((manifest.facts, FACTS), (FACTS, manifest.facts)):
            version_comparison.markdown(version_comparison.Pair("mnist", "version 1", "run 2", old, new))

    attempt(
        shown,
        registry.versions,
        lambda: registry.verify(1),
        lambda: registry.read(POINTERS[0], "model.keras"),
        registry.verify_champion,
    )


def look_at_champion(registry: Registry) -> None:
    attempt(
        registry.champion,
        registry.checked_champion,
        registry.history,
        registry.promoted,
        registry.generations,
        registry.nothing,
        registry.verify_champion,
        lambda: registry.manifest(registry.champion() or 1),
    )


@given(documents(*POINTERS))
def test_pointers(folder: Folder, data: bytes) -> None:
    folder.write("models/mnist/champion.json", data)
    look_at_champion(folder.registry)


@given(documents(*POINTERS), st.from_regex(r"\A[0-9]{8,20}-v[0-9]{1,20}-[0-9a-f]{32}\.json\Z"), st.booleans())
def test_history_entries(folder: Folder, data: bytes, name: str, own: bool) -> None:
    key = f"models/mnist/history/{POINTERS[-1].entry if own else name}"
    folder.write(key, data)
    look_at_champion(folder.registry)
    folder.store.path(key).unlink()
    folder.write(f"models/mnist/history/{POINTERS[-1].entry}", encoded(POINTERS[-1]))


@given(documents(PIN))
def test_pins(folder: Folder, data: bytes) -> None:
    registry = folder.registry
    folder.write("models/mnist/reference.json", data)
    attempt(registry.pinned, registry.verify_champion, lambda: registry.manifest(registry.pinned() or 1))


@given(json_texts([REPORT]))
def test_reports_of_runs(folder: Folder, data: bytes) -> None:
    folder.write("runs/0123456789/report.json", data)

    def shown() -> None:
        side = compare._run(compare._judged("0123456789", folder.store))
        pair = version_comparison.Pair("mnist", side.name, "version 1", side.facts, FACTS)
        version_comparison.markdown(pair)
        attempt(side.predictions, side.images)

    attempt(shown)


@given(json_texts([REPORT]))
def test_reports_of_versions(folder: Folder, data: bytes) -> None:
    model, _ = FILES
    report = File(path="report.json", size=len(data), sha256=hashlib.sha256(data).hexdigest())
    digests, files = {each.path: each.sha256 for each in (model, report)}, (model, report)
    manifest = MANIFEST.model_copy(update={"identity": identity(digests), "files": files})
    folder.write("models/mnist/versions/1/report.json", data)
    folder.write("models/mnist/versions/1/manifest.json", encoded(manifest))
    assert folder.registry.verify(1) == []
    _published_comparison(1, folder.registry)
    attempt(compare._version(folder.registry, folder.store, 1).images)


EMPTY = hashlib.sha256(b"").hexdigest()
TRAINED = DOCUMENT.trained.model_dump(mode="json") | {"model": {"sha256": EMPTY, "size": 0, "media_type": KERAS}}
RECORD = {"value": TRAINED, "seconds": 1.5, "at": "2026-01-02T03:04:05+00:00", "worker": "a host", "why": "no cache"}
METADATA = {"storage_key": "train/key", "expiration": None, "serializer": {"type": "json", "jsonlib": "json"}}
METADATA |= {"prefect_version": "3.8.8", "storage_block_id": None}


@st.composite
def results(draw: st.DrawFn) -> bytes:
    """Results as Prefect writes them, mutated outside, inside, or both."""
    inner = draw(json_texts([RECORD]) | st.just(json.dumps(RECORD).encode())).decode(errors="replace")
    outer = {"metadata": METADATA, "result": inner}
    return draw(json_texts([outer]) | st.just(json.dumps(outer).encode()))


@given(results())
def test_results(folder: Folder, content: bytes) -> None:
    folder.write(f"cache/objects/{EMPTY}", b"")
    folder.write(f"{RESULTS}train/key.json", sealed(content))
    files = ResultFiles.of(folder.store, Artifacts(folder.store, folder.store.root), Trained, lambda value, read: None)
    assert len(cache_items(folder.store)) == 1
    assert removable(folder.store, now()) is not None
    try:
        data = files.read_path("train/key")
    except ArtifactError:
        return
    Trained.model_validate(ResultRecord.deserialize(data).result["value"])


NPY = to_npy(np.arange(40, dtype=np.float32).reshape(4, 10))
PREDICTIONS = to_npz(np.full((4, 10), 0.1, np.float32), np.arange(4, dtype=np.uint8))
OBJECTS = io.BytesIO()
np.savez(OBJECTS, probabilities=np.array([{}], object), labels=np.array(["a"]))


@st.composite
def packed(draw: st.DrawFn, names: list[str], contents: list[bytes]) -> bytes:
    """An archive, each checksum right, whose members are mutated, renamed, left out, there twice or compressed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in draw(st.lists(st.sampled_from([*names, *names, "evil.npy", "a", "\n"]), max_size=6, unique=True)):
            content = draw(st.sampled_from(contents) | mutated_bytes(contents))
            way = draw(st.sampled_from([zipfile.ZIP_STORED] * 5 + [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA]))
            archive.writestr(name, content, way)
    return draw(st.just(buffer.getvalue()) | mutated_bytes([buffer.getvalue()]))


MEMBERS = packed(["probabilities.npy", "labels.npy"], [NPY, to_npy(np.arange(4, dtype=np.uint8))])


@given(mutated_bytes([PREDICTIONS, OBJECTS.getvalue()]) | MEMBERS)
def test_predictions(data: bytes) -> None:
    def shown() -> None:
        probabilities, labels = compare._from_npz(data, "predictions.npz")
        assert probabilities.shape[:1] == labels.shape

    attempt(shown)


@given(mutated_bytes([NPY, to_npy(np.zeros((0, 3), np.uint8)), to_npy(np.array("text"))]))
def test_arrays(data: bytes) -> None:
    """Of test images, and of what the isolated process sends."""
    try:
        array = from_npy(data)
    except ValueError:
        return
    assert array.nbytes <= len(data)


HISTORY = [Epoch(loss=0.5, accuracy=0.5, seconds=1.0).model_dump() for _ in range(2)]
CHECKPOINT = encode(Checkpoint((Epoch(loss=0.5, accuracy=0.5, seconds=1.0),), [np.zeros((3, 2), np.float32)]))
STATE = CHECKPOINT.partition(b"\n")[2]


@st.composite
def checkpoints(draw: st.DrawFn) -> bytes:
    """Checkpoints with a mutated history, mutated members, or mutated bytes."""
    history = draw(json_texts([{"history": HISTORY}])).removeprefix(b'{"history": ').removesuffix(b"}")
    arrays = [to_npy(np.frombuffer(history, np.uint8)), NPY]
    return draw(packed(["arr_0.npy", "arr_1.npy"], arrays) | mutated_bytes([STATE]))


@given(checkpoints())
def test_checkpoints(folder: Folder, content: bytes) -> None:
    stored = Checkpoints(folder.store, "train/key/cpu")
    folder.write(f"checkpoints/train/key/cpu/0002-{'0' * 64}", sealed(content))
    newest = stored.newest(LARGEST_DOCUMENT)
    assert newest is None or all(isinstance(epoch, Epoch) for epoch in newest.history)
    assert isinstance(cache_items(folder.store), list)


def test_what_is_not_mutated_is_read(folder: Folder) -> None:
    """So that the strategies above start from what is accepted."""
    folder.write(f"cache/objects/{EMPTY}", b"")
    content = json.dumps({"metadata": METADATA, "result": json.dumps(RECORD)}).encode()
    folder.write(f"{RESULTS}train/key.json", sealed(content))
    artifacts = Artifacts(folder.store, folder.store.root)
    assert (
        ResultFiles.of(folder.store, artifacts, Trained, lambda value, read: None).read("train/key")["value"] == TRAINED
    )
    folder.write(f"checkpoints/train/key/cpu/0001-{'0' * 64}", CHECKPOINT)
    assert Checkpoints(folder.store, "train/key/cpu").newest(LARGEST_DOCUMENT)
    assert len(compare._from_npz(PREDICTIONS, "predictions.npz")[1]) == 4
    folder.write("runs/0123456789/report.json", report_json(DOCUMENT))
    assert compare._run(compare._judged("0123456789", folder.store)).facts == FACTS
    assert Artifact.model_validate(REPORT["prepared"]["test"]["images"]).size == 0
