from __future__ import annotations

import io
import logging
import zipfile
from pathlib import Path

import boto3
import numpy as np
import pytest

from tasks.data.arrays import to_npy
from tasks.errors import StoreError
from tasks.learning.checkpoints import Checkpoint, Checkpoints
from tasks.learning.model_file import weights_digest
from tasks.learning.training import fit
from tasks.storage import ObjectStore, open_store
from tasks.storage.objects import LARGEST_DOCUMENT
from tasks.storage.verified import sealed
from tasks.values import Epoch
from tests.tasks.learning.test_training import RECIPE, examples, whole


def checkpoint(epochs: int) -> Checkpoint:
    history = tuple(Epoch(loss=1 / (number + 1), accuracy=0.5, seconds=0.1) for number in range(epochs))
    return Checkpoint(history, [np.full((3, 2), epochs, np.float32), np.int64(epochs) * np.ones((), np.int64)])


@pytest.fixture
def store(store_url: str) -> ObjectStore:
    return open_store(store_url)


def keys(store: ObjectStore) -> list[str]:
    return [entry.key for entry in store.list("checkpoints/")]


def test_a_training_that_stopped_goes_on_and_ends_with_the_same_bits(
    store: ObjectStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    checkpoints = Checkpoints(store, "train/key/cpu")
    with pytest.raises(KeyboardInterrupt):
        fit(examples(), RECIPE, checkpoints=checkpoints, on_epoch=stop)
    resumed = fit(examples(), RECIPE, checkpoints=checkpoints)
    assert "train: resumes after epoch 1 of 2" in caplog.text
    assert weights_digest(resumed.model) == weights_digest(whole().model)
    assert [epoch.loss for epoch in resumed.history] == [epoch.loss for epoch in whole().history]


def stop(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("store_url", ["local"], indirect=True)
def test_a_checkpoint_of_another_network_is_not_resumed(store: ObjectStore, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = Checkpoints(store, "train/key/cpu")
    checkpoints.keep(checkpoint(1))
    fitted = fit(examples(), RECIPE, checkpoints=checkpoints)
    assert weights_digest(fitted.model) == weights_digest(whole().model)
    assert "train: starts anew, as the checkpoint is one of another network" in caplog.text


def test_the_newest_comes_back_and_only_the_last_two_are_kept(store: ObjectStore) -> None:
    checkpoints = Checkpoints(store, "train/key/cpu")
    assert checkpoints.newest(LARGEST_DOCUMENT) is None
    for epochs in range(1, 12):
        checkpoints.keep(checkpoint(epochs))
    assert [key.split("/")[-1][:4] for key in keys(store)] == ["0010", "0011"]
    newest = checkpoints.newest(LARGEST_DOCUMENT)
    assert newest
    assert newest.history == checkpoint(11).history
    assert all(np.array_equal(*pair) for pair in zip(newest.variables, checkpoint(11).variables, strict=True))
    assert [value.dtype for value in newest.variables] == [np.float32, np.int64]


def test_trainings_do_not_see_each_others_checkpoints(store: ObjectStore) -> None:
    Checkpoints(store, "train/one/cpu").keep(checkpoint(1))
    assert Checkpoints(store, "train/one/another-gpu").newest(LARGEST_DOCUMENT) is None
    assert Checkpoints(store, "train/on").newest(LARGEST_DOCUMENT) is None


@pytest.mark.parametrize("damage", ["cut", "empty", "altered"])
def test_a_damaged_checkpoint_is_skipped_with_a_warning_for_the_one_before(
    store: ObjectStore, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(store, "train/key/cpu")
    checkpoints.keep(checkpoint(3))
    checkpoints.keep(checkpoint(4))
    key = keys(store)[-1]
    data = store.get(key, LARGEST_DOCUMENT).data
    store.put(key, {"cut": data[: len(data) // 2], "empty": b"", "altered": data[:-9] + b"X" + data[-8:]}[damage])
    newest = checkpoints.newest(LARGEST_DOCUMENT)
    assert newest
    assert len(newest.history) == 3
    assert "train: skips the checkpoint after epoch 4:" in caplog.text
    store.put(keys(store)[0], b"nothing")
    assert checkpoints.newest(LARGEST_DOCUMENT) is None, "with no whole one it starts over"
    assert "train: skips the checkpoint after epoch 3:" in caplog.text


SEAL = "0" * 64


def packed(history: bytes, compression: int = zipfile.ZIP_STORED, variable: bytes = to_npy(np.zeros(3))) -> bytes:
    """A checkpoint of these members, sealed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("arr_0.npy", to_npy(np.frombuffer(history, np.uint8)))
        archive.writestr("arr_1.npy", variable)
    return sealed(buffer.getvalue())


def pickled() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], object), allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        (".DS_Store", b"Bud1"),
        ("zzz", b""),
        ("9999", b""),
        ("9999-", sealed(b"nothing")),
        (f"9999-{SEAL}.tmp", b""),
        (f"9999-{SEAL}/deeper", b""),
        ("²-0", b""),
        (f"9999-{SEAL}", b""),
        (f"9999-{SEAL}", sealed(b"no archive")),
        (f"9999-{SEAL}", sealed(b"")),
        (f"9999-{SEAL}", packed(b"[" * 200_000)),
        (f"9999-{SEAL}", packed(b"[1]")),
        (f"9999-{SEAL}", packed(b"[]", zipfile.ZIP_DEFLATED)),
        (f"9999-{SEAL}", packed(b"[]", zipfile.ZIP_LZMA)),
        (f"9999-{SEAL}", packed(b"[]", variable=pickled())),
        (f"9999-{SEAL}", packed(b"[]", variable=to_npy(np.zeros(3)).replace(b"(3,), }  ", b"(9**9,), }"[:9]))),
    ],
)
def test_a_stray_file_does_not_end_a_training(store: ObjectStore, name: str, data: bytes) -> None:
    checkpoints = Checkpoints(store, "train/key/cpu")
    checkpoints.keep(checkpoint(3))
    store.put(f"checkpoints/train/key/cpu/{name}", data)
    newest = checkpoints.newest(LARGEST_DOCUMENT)
    assert newest
    assert len(newest.history) == 3
    for epochs in (4, 5):
        checkpoints.keep(checkpoint(epochs))
    left = {key.removeprefix("checkpoints/train/key/cpu/")[:5] for key in keys(store)}
    assert left == {"0004-", "0005-", name[:5]}, "what is not ours is left alone, and old checkpoints are removed"


def test_a_folder_s_marker_does_not_end_a_training(bucket: str) -> None:
    for key in ("checkpoints/", "checkpoints/train/key/cpu/"):
        boto3.client("s3").put_object(Bucket=bucket.removeprefix("s3://"), Key=key)
    checkpoints = Checkpoints(open_store(bucket), "train/key/cpu")
    assert checkpoints.newest(LARGEST_DOCUMENT) is None
    checkpoints.keep(checkpoint(3))
    assert checkpoints.newest(LARGEST_DOCUMENT)


def test_two_workers_at_one_training_do_not_disturb_each_other(store: ObjectStore) -> None:
    fast, slow = Checkpoints(store, "train/key/cpu"), Checkpoints(store, "train/key/cpu")
    late = checkpoint(2)
    late = late._replace(history=tuple(epoch.model_copy(update={"seconds": 9.0}) for epoch in late.history))
    for epochs in (1, 2, 3):
        fast.keep(checkpoint(epochs))
    slow.keep(late)
    newest = slow.newest(LARGEST_DOCUMENT)
    assert newest
    assert len(newest.history) == 3


def test_a_store_that_fails_costs_the_checkpoint_and_not_the_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "checkpoints").write_text("a file where a folder has to be")
    checkpoints = Checkpoints(open_store(str(tmp_path)), "train/key/cpu")
    fitted = fit(examples(), RECIPE, checkpoints=checkpoints)
    assert len(fitted.history) == RECIPE.epochs
    assert "no checkpoint after epoch 2, the training goes on: cannot write" in caplog.text


def test_a_store_that_cannot_be_read_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StoreError, match="cannot be reached"):
        Checkpoints(open_store("s3://bucket"), "train/key/cpu").newest(LARGEST_DOCUMENT)
