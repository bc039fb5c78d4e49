"""The batches of a source that grows: which there are, what is read of one, and what all of them are together."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.data.content import TEST_SHARE, Split, digests
from tasks.data.sources import Contents, trees
from tasks.data.sources.batches import BatchContents, BatchFiles, batches_of, join, read_batch
from tasks.errors import DataError, StoreError, UsageError
from tasks.storage import open_store
from tasks.storage.local import LocalStore
from tests.source_files import WRITERS, png, some, write_csv, write_gzip, write_idx, write_npz, write_parquet
from tests.source_files import write_pictures as write_both
from tests.tasks.data.sources.test_formats import agree, same
from tests.tasks.data.sources.test_trees import upload

OWN = {"train": some(12), "test": some(4, seed=1)}


def batches(folder: Path) -> dict[str, BatchFiles]:
    return {files.name: files for files in batches_of(f"{folder}/*")}


def names(folder: Path) -> list[str]:
    return [files.name for files in batches_of(f"{folder}/*")]


def batch(folder: Path, name: str) -> BatchContents:
    return read_batch(batches(folder)[name])


def save(path: Path, split: Split, **more: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, images=split.images, labels=split.labels, **more)


def picture_batch(folder: Path, split: Split, kind: str = "png") -> None:
    """Pictures in a folder of their class, without a folder of a split."""
    for number, (image, label) in enumerate(zip(*split, strict=True)):
        path = folder / str(label) / f"{number}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(image))


def write_plain(folder: Path, splits: Mapping[str, Split]) -> None:
    picture_batch(folder, splits["train"])


def every_kind(folder: Path) -> list[str]:
    """A batch of each kind; their names."""
    for form, write in WRITERS.items():
        (folder / form.replace(" ", "-")).mkdir(parents=True)
        write(folder / form.replace(" ", "-"), OWN)
    save(folder / "letters.npz", some(12))
    write_csv(folder, {"train": some(12)})
    (folder / "train.csv").rename(folder / "2026-11-25.csv")
    write_parquet(folder, {"train": some(12)})
    (folder / "train-00000-of-00002.parquet").rename(folder / "2026-11-26.v2.parquet")
    (folder / "train-00001-of-00002.parquet").unlink()
    write_gzip(folder, OWN)  # with the prefix own-
    write_idx(folder, OWN)
    for path in folder.glob("t*-idx?-ubyte"):
        path.rename(folder / f"2026-11-24_{path.name}")
    return sorted(
        [form.replace(" ", "-") for form in WRITERS] + ["letters", "2026-11-25", "2026-11-26.v2", "own", "2026-11-24"]
    )


# Which there are.


def test_a_batch_of_each_kind_is_listed_by_name_and_read(tmp_path: Path) -> None:
    expected = every_kind(tmp_path)
    assert names(tmp_path) == expected
    read = {files.name: read_batch(files) for files in batches_of(f"file://{tmp_path}/*")}
    for form in ("IDX", "IDX-with-gzip", "npz", "pictures", "CSV", "Parquet", "own", "2026-11-24"):
        found = read[form]
        assert same(found.train, read["IDX"].train), form
        assert same(found.test, read["IDX"].test), form
        assert (found.shape, found.classes) == ((8, 8), ("0", "1", "2"))
    assert {read[name].format for name in ("own", "letters", "2026-11-25", "2026-11-26.v2")} == {
        "IDX",
        "npz",
        "CSV",
        "Parquet",
    }


@pytest.fixture
def uploaded(tmp_path: Path, bucket: str) -> tuple[Path, str]:
    every_kind(tmp_path)
    upload(tmp_path, f"{bucket}/data/letters")
    return tmp_path, f"{bucket}/data/letters/*"


def test_a_bucket_gives_the_same_as_a_folder(uploaded: tuple[Path, str]) -> None:
    folder, address = uploaded
    found, expected = batches_of(address), batches_of(f"{folder}/*")
    assert [files.name for files in found] == [files.name for files in expected]
    for one, other in zip(found, expected, strict=True):
        assert [file[:2] for file in one.tree.files] == [file[:2] for file in other.tree.files]
        first, second = read_batch(one), read_batch(other)
        assert first[2:] == second[2:]
        assert same(first.train, second.train)
        assert same(first.test, second.test)


def test_all_batches_of_a_bucket_are_one_request(uploaded: tuple[Path, str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "werkzeug")
    caplog.clear()
    assert len(batches_of(uploaded[1])) == 11
    (asked,) = (record.getMessage() for record in caplog.records if record.name == "werkzeug")
    assert "list-type=2" in asked


def test_what_is_no_batch_is_left_out_with_one_warning_of_each_kind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path / "a.npz", some(6))
    for name in ("README.md", "notes.txt", "train-images-idx3-ubyte", "-b.npz", "Ärger.csv", f"{'x' * 101}.npz"):
        (tmp_path / name).write_text("mine")
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "lost+found" / "1").touch()
    for name in (".a.npz.Xy12", "b.npz.tmp", "c.csv.part", "d.PARTIAL", "e.npz.crdownload", ".DS_Store", "Thumbs.db"):
        (tmp_path / name).write_text("half")
    (tmp_path / "f.tmp").mkdir()
    (tmp_path / "f.tmp" / "1").touch()
    (tmp_path / "empty" / "0" / "1").mkdir(parents=True)
    (tmp_path / "arriving").mkdir()
    (tmp_path / "arriving" / ".x.npz.Xy12").write_text("half")
    assert names(tmp_path) == ["a"]
    no_batch, misnamed = (record.getMessage() for record in caplog.records)
    assert "README.md, notes.txt, train-images-idx3-ubyte are not read: a batch is a folder, a file that " in no_batch
    assert "-b.npz, lost+found/, " in misnamed
    assert " and 1 more are not read: the name of a batch is at most 100 letters" in misnamed


def test_two_batches_of_one_name_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "letter.npz", some(6))
    write_csv(tmp_path, {"train": some(6)})
    (tmp_path / "train.csv").rename(tmp_path / "letter.csv")
    with pytest.raises(DataError, match=r"letter\.csv and letter\.npz are both called letter"):
        names(tmp_path)
    (tmp_path / "letter.csv").unlink()
    (tmp_path / "letter").mkdir()
    (tmp_path / "letter" / "x").touch()
    with pytest.raises(DataError, match=r"letter\.npz and letter/ are both called letter"):
        names(tmp_path)


def test_idx_files_of_two_prefixes_with_one_name_are_refused(tmp_path: Path) -> None:
    for prefix in ("a-", "a."):
        (tmp_path / f"{prefix}train-images-idx3-ubyte").touch()
    with pytest.raises(DataError, match="are both called a"):
        names(tmp_path)


@pytest.mark.parametrize("name", ["test/0/1.png", "Train/0/1.png", "test.csv", "val.npz", "validation/1.png"])
def test_a_plain_source_is_refused_as_its_test_images_would_be_learned_from(tmp_path: Path, name: str) -> None:
    save(tmp_path / "a.npz", some(6))
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"is a split, and no batch\. Give the address without /\*"):
        names(tmp_path)


def test_a_folder_that_is_missing_empty_or_has_no_batch_is_refused(tmp_path: Path, bucket: str) -> None:
    with pytest.raises(DataError, match="it is not there"):
        names(tmp_path / "nowhere")
    for address in (f"{tmp_path}/*", f"{bucket}/*", f"{bucket}/nowhere/*"):
        with pytest.raises(DataError, match="it has no batch"):
            batches_of(address)
    with pytest.raises(StoreError, match=r"nowhere\.npz|NoSuchBucket|bucket"):
        batches_of(f"{bucket}-nowhere/*")
    (tmp_path / "README").touch()
    with pytest.raises(DataError, match="none of its 1 files, as README, is a batch"):
        names(tmp_path)
    save(tmp_path / "a.npz", some(6))
    with pytest.raises(DataError, match="it is one file, and a source that grows is a folder of batches"):
        names(tmp_path / "a.npz")


@pytest.mark.parametrize("address", ["https://user:secret@host/letters/*", "HTTP://127.0.0.1/letters/*"])
def test_over_http_nothing_can_be_listed(address: str) -> None:
    with pytest.raises(UsageError, match="over HTTP nothing can be listed") as error:
        batches_of(address)
    assert "secret" not in str(error.value)


def test_more_files_than_can_be_listed_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        save(tmp_path / f"{number}.npz", some(6))
    monkeypatch.setattr("tasks.data.sources.batches.MOST_FILES", 3)
    with pytest.raises(DataError, match="it has more than 3 files"):
        names(tmp_path)
    monkeypatch.setattr(trees, "MOST_FILES", 1)
    monkeypatch.undo()
    picture_batch(tmp_path / "many", some(6))
    monkeypatch.setattr(trees, "MOST_FILES", 5)
    assert len(names(tmp_path)) == 5
    with pytest.raises(DataError, match=r"cannot read the batch many: cannot list .*more than 5 files"):
        batch(tmp_path, "many")


# What tells whether it changed.


def test_what_is_seen_changes_with_any_file_of_the_batch_and_with_no_other(tmp_path: Path) -> None:
    every_kind(tmp_path)
    before = {name: files.seen for name, files in batches(tmp_path).items()}
    assert len(set(before.values())) == len(before)
    changes: dict[str, Callable[[], object]] = {
        "letters": lambda: os.utime(tmp_path / "letters.npz", ns=(1, 1)),
        "pictures": lambda: (tmp_path / "pictures/train/0/new.png").touch(),
        "own": lambda: (tmp_path / "own-test-images.idx3-ubyte.gz").unlink(),
        "npz": lambda: (tmp_path / "npz/images.npz").rename(tmp_path / "npz/other.npz"),
    }
    for name, change in changes.items():
        change()
        after = {name: files.seen for name, files in batches(tmp_path).items()}
        assert {each for each in before if after[each] != before[each]} == {name}
        before = after


@pytest.mark.parametrize("kind", ["file", "folder", "IDX"])
def test_files_that_change_while_they_are_read_are_refused(tmp_path: Path, bucket: str, kind: str) -> None:
    writers = {"file": write_npz, "folder": write_both, "IDX": write_gzip}
    target = tmp_path / "2026" if kind == "folder" else tmp_path
    target.mkdir(exist_ok=True)
    writers[kind](target, OWN)
    upload(tmp_path, bucket)
    for address in (f"{tmp_path}/*", f"{bucket}/*"):
        (files,) = batches_of(address)
        read_batch(files)

        def change(*_: object, address: str = address, files: BatchFiles = files) -> None:
            name = files.tree.files[-1].name
            place = f"2026/{name}" if kind == "folder" else name
            store = open_store(address.removesuffix("/*"))
            data = store.get(place, 10**6).data
            if isinstance(store, LocalStore):
                (store.root / place).write_bytes(data + b"\0")
            else:
                store.put(place, data + b"\0")

        with pytest.raises(DataError, match=f"the batch {files.name}: .*its files change while they are read"):
            read_batch(files, change)
        (changed,) = batches_of(address)
        assert changed.seen != files.seen


def test_a_batch_that_was_replaced_since_it_was_listed_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.npz", some(6))
    (files,) = batches_of(f"{tmp_path}/*")
    save(tmp_path / "a.npz", some(9))
    with pytest.raises(DataError, match=r"cannot read the batch a: .*a\.npz: its files change while they are read"):
        read_batch(files)
    (tmp_path / "a.npz").unlink()
    with pytest.raises(DataError, match=r"cannot read the batch a: .*No such file"):
        read_batch(files)


# What is read of one.


def test_a_batch_may_have_images_of_some_classes_and_of_one(tmp_path: Path) -> None:
    images = some(8).images
    for name, labels in {"some": [3, 7] * 4, "one": [7] * 8}.items():
        split = Split(images, np.array(labels, np.uint8))
        for form, write in {**WRITERS, "plain": write_plain}.items():
            folder = tmp_path / name / form.replace(" ", "-")
            folder.mkdir(parents=True)
            write(folder, {"train": split})
        save(tmp_path / name / "named.npz", split, classes=np.array([str(number) for number in range(10)]))
        found = {files.name: read_batch(files) for files in batches_of(f"{tmp_path / name}/*")}
        assert len(found) == len(WRITERS) + 2
        for form, each in found.items():
            assert each.classes == tuple(sorted(set(map(str, labels)))), form
            assert same(each.train, found["npz"].train), form
            assert same(each.test, found["npz"].test), form


def test_without_a_test_split_the_content_of_an_image_decides(tmp_path: Path) -> None:
    split = some(200)
    save(tmp_path / "a.npz", split)
    found = batch(tmp_path, "a")
    assert found.train
    assert found.test
    assert len(found.train.labels) + len(found.test.labels) == 200
    assert (digests(found.test.images)[:, 0] < TEST_SHARE * 2**64).all()
    assert (digests(found.train.images)[:, 0] >= TEST_SHARE * 2**64).all()
    for part, name in ((found.train, "only-training"), (found.test, "only-test")):
        save(tmp_path / f"{name}.npz", part)
    assert batch(tmp_path, "only-training").test is None
    only = batch(tmp_path, "only-test")
    assert only.train is None
    assert same(only.test, found.test)
    assert (only.shape, only.classes) == (found.shape, found.classes)


def test_the_test_split_of_a_batch_is_used_as_it_is(tmp_path: Path) -> None:
    write_npz(tmp_path, {"train": some(6), "test": Split(some(40, seed=1).images, np.full(40, 9, np.uint8))})
    found = batch(tmp_path, "images")
    assert found.test
    assert (len(found.test.labels), found.classes) == (40, ("0", "1", "2", "9"))


def test_what_cannot_be_listed_or_opened_is_an_error_of_its_batch_alone(tmp_path: Path) -> None:
    save(tmp_path / "good.npz", some(6))
    save(tmp_path / "elsewhere" / "x.npz", some(6))
    (tmp_path / "link.npz").symlink_to("good.npz")
    (tmp_path / "linked").symlink_to("elsewhere")
    os.mkfifo(tmp_path / "pipe.csv")
    for name in ("inner-link", "inner-pipe"):
        picture_batch(tmp_path / name, some(6))
    (tmp_path / "inner-link" / "0" / "x.png").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "inner-pipe" / "0" / "x.png")
    (tmp_path / "deep" / "/".join("123456789")).mkdir(parents=True)
    found = batches(tmp_path)
    reasons = {
        "link": "link.npz: it is a link, and links are not followed",
        "linked": "linked: it is a link",
        "pipe": "pipe.csv: it is neither a file nor a folder",
        "inner-link": "inner-link/0/x.png: it is a link",
        "inner-pipe": "inner-pipe/0/x.png: it is neither",
        "deep": "it lies more than 8 folders deep",
    }
    assert found.keys() == reasons.keys() | {"good", "elsewhere"}
    for name, why in reasons.items():
        with pytest.raises(DataError) as error:
            read_batch(found[name])
        assert str(error.value).startswith(f"cannot read the batch {name}: ")
        assert why in str(error.value)
    assert read_batch(found["good"]).classes == ("0", "1", "2")


def test_a_link_that_takes_the_place_of_a_file_is_not_followed(tmp_path: Path) -> None:
    save(tmp_path / "a.npz", some(6))
    (files,) = batches_of(f"{tmp_path}/*")
    (tmp_path / "a.npz").rename(tmp_path / "b.npz")
    (tmp_path / "a.npz").symlink_to("b.npz")
    with pytest.raises(DataError, match="cannot read the batch a: "):
        read_batch(files)


def test_a_damaged_batch_is_named_and_the_hint_for_plain_sources_is_not_given(tmp_path: Path) -> None:
    write_npz(tmp_path, {"train": some(60)})
    whole = (tmp_path / "images.npz").read_bytes()
    for name, data in {"half": whole[:900], "empty": b"", "none": b"<html>"}.items():
        (tmp_path / f"{name}.npz").write_bytes(data)
        with pytest.raises(DataError, match=rf"cannot read the batch {name}: {name}\.npz: it is not a valid \.npz"):
            batch(tmp_path, name)
    save(tmp_path / "no-image.npz", Split(np.empty((0, 8, 8), np.uint8), np.empty(0, np.uint8)))
    with pytest.raises(DataError, match="it has 0 images"):
        batch(tmp_path, "no-image")
    for name in ("1", "2"):
        save(tmp_path / "two" / f"{name}.npz", some(6))
    with pytest.raises(DataError, match=r"it has 2 \.npz files\. Keep one of them\.$"):
        batch(tmp_path, "two")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "notes.txt").touch()
    with pytest.raises(DataError, match=r"cannot read the batch text: the source .*text: none of its 1 files"):
        batch(tmp_path, "text")


def test_a_plain_source_with_several_files_says_how_each_is_a_batch(tmp_path: Path) -> None:
    def refused(folder: Path) -> str:
        from tasks.data.sources import open_tree, read

        with pytest.raises(DataError) as error:
            read(open_tree(str(folder)))
        return str(error.value)

    def write(*files: str) -> Path:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        for file in files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).touch()
        return folder

    for folder in (
        write("1.npz", "2.npz"),
        write("1.npz", "2.csv"),
        write("1.csv", "2.csv"),
        write("1.parquet", "2.parquet"),
        write("a-train-images-idx3-ubyte", "b-train-images-idx3-ubyte"),
        write("2026-11-24/a/1.png", "2026-11-24/b/1.png"),
        write("2026-11-24/train/a/1.png"),
    ):
        assert refused(folder).endswith("If each is a batch of a source that grows, end its address in /*."), folder


# All of them together.


def contents_of(split: Split, test: Split | None, classes: Sequence[str]) -> BatchContents:
    return BatchContents(split, test, split.images.shape[1:], tuple(classes), "npz")


def read_all(folder: Path) -> Contents:
    return join({name: read_batch(files) for name, files in batches(folder).items()})


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 30), st.integers(0, 2**32 - 1), st.data())
def test_the_order_and_the_names_of_batches_and_where_an_image_is_make_no_difference(
    classes: int, seed: int, data: st.DataObject
) -> None:
    pool = [some(count, 4, 1, classes, seed + count) for count in (60, 40)]
    numbers = [str(label * 3) for label in range(classes)]

    def cut(split: Split, owner: Sequence[int], batch: int) -> Split | None:
        rows = np.flatnonzero(np.array(owner) == batch)
        return Split(split.images[rows], split.labels[rows]) if len(rows) else None

    def batched(named: Callable[[int], str]) -> Mapping[str, BatchContents]:
        owners = [data.draw(st.lists(st.integers(0, 3), min_size=size, max_size=size)) for size in (60, 40)]
        parts = {}
        for number in data.draw(st.permutations(range(4))):
            halves = [cut(split, owner, number) for split, owner in zip(pool, owners, strict=True)]
            used = sorted({int(label) for half in halves if half for label in half.labels})
            train, test = (
                half and Split(half.images, np.searchsorted(used, half.labels).astype(np.uint8)) for half in halves
            )
            if used:
                parts[named(number)] = BatchContents(
                    train, test, (4, 4), tuple(numbers[label] for label in used), "npz"
                )
        return parts

    one, other = join(batched(str)), join(batched(lambda number: "zyxw"[number]))
    assert agree(one, other)
    assert one.classes == tuple(numbers)
    assert len(one.train.labels) == 60
    assert one.test
    assert len(one.test.labels) == 40
    held = {image.tobytes(): numbers[label] for split in pool for image, label in zip(*split, strict=True)}
    for split in (one.train, one.test):
        for image, label in zip(*split, strict=True):
            assert held[image.tobytes()] == one.classes[label]


def test_batches_of_a_source_are_as_the_source_in_one_piece(tmp_path: Path) -> None:
    split = some(300, classes=5)
    save(tmp_path / "whole" / "all.npz", split)
    for number in range(3):
        rows = slice(number * 100, (number + 1) * 100)
        picture_batch(tmp_path / "parts" / f"2026-11-{number}", Split(split.images[rows], split.labels[rows]))
    assert agree(read_all(tmp_path / "parts"), read_all(tmp_path / "whole"))


def test_classes_of_all_batches_are_sorted_as_those_of_one_source() -> None:
    parts = {
        "a": contents_of(Split(some(4).images, np.array([0, 1, 1, 1])), some(2, classes=2, seed=1), ("2", "10")),
        "b": contents_of(Split(some(4, seed=2).images, np.array([0, 0, 1, 1])), None, ("1", "10")),
    }
    assert join(parts).classes == ("1", "2", "10")
    parts["c"] = contents_of(some(4, classes=1, seed=3), None, ("ant",))
    found = join(parts)
    assert found.classes == ("1", "10", "2", "ant")
    assert np.bincount(found.train.labels).tolist() == [2, 5, 1, 4]


def test_300_classes_of_small_batches_need_two_bytes_a_label() -> None:
    parts = {
        str(first): contents_of(some(100, 4, classes=100, seed=first), some(2, 4, 1, 2, first + 1), names)
        for first in (0, 100, 200)
        if (names := [str(number) for number in range(first, first + 100)])
    }
    found = join(parts)
    assert found.train.labels.dtype == np.uint16
    assert np.bincount(found.train.labels).tolist() == [1] * 300


def test_what_cannot_be_joined_is_named() -> None:
    good = contents_of(some(6), some(3, seed=1), "abc")
    with pytest.raises(DataError, match="cannot read the batches: there is none"):
        join({})
    other = contents_of(some(6, 9), None, "abc")
    with pytest.raises(DataError, match="cannot use the batch b: its images have 9 × 9 pixels, and those of a have 8"):
        join({"c": other, "b": other, "a": good})
    colour = contents_of(some(6, 8, 3), None, "abc")
    with pytest.raises(DataError, match="cannot use the batch b: its images have 8 × 8 pixels in RGB"):
        join({"a": good, "b": colour})
    with pytest.raises(DataError, match="no batch has a test image"):
        join({"a": good._replace(test=None), "b": good._replace(test=None)})
    with pytest.raises(DataError, match="no batch has a training image"):
        join({"a": good._replace(train=None)})
    with pytest.raises(DataError, match="class z has no training image"):
        join({"a": good, "b": contents_of(some(1, classes=1), some(1, classes=1), "z")._replace(train=None)})
    with pytest.raises(DataError, match="it has one class only, z"):
        join({"b": contents_of(some(1, classes=1), some(1, classes=1), "z")})
