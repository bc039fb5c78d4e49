"""The same images in every format, and what each format reads besides."""

from __future__ import annotations

import builtins
import time
import tracemalloc
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tasks.data import idx
from tasks.data.content import Split
from tasks.data.sources import Contents, open_tree, read
from tasks.errors import DataError
from tests.source_files import WRITERS, png, some, write_csv, write_idx, write_npz, write_parquet, write_pictures


def contents(folder: Path) -> Contents:
    return read(open_tree(str(folder)))


def same(one: Split | None, other: Split | None) -> bool:
    if one is None or other is None:
        return one is other
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def agree(one: Contents, other: Contents) -> bool:
    return same(one.train, other.train) and same(one.test, other.test) and one.classes == other.classes


@settings(max_examples=10, deadline=None)
@given(st.integers(4, 17), st.sampled_from([1, 3]), st.integers(2, 12), st.booleans(), st.integers(0, 99))
def test_the_same_images_give_the_same_arrays_in_every_format(
    side: int, channels: int, classes: int, has_test: bool, seed: int
) -> None:
    splits = {"train": some(20, side, channels, classes, seed)}
    if has_test:
        splits["test"] = some(classes, side, channels, classes, seed + 100)
    found = {}
    for name, write in WRITERS.items():
        with TemporaryDirectory() as folder:
            write(Path(folder), splits)
            found[name] = contents(Path(folder))
    for name, other in found.items():
        assert agree(found["IDX"], other), name
        assert name.startswith(other.format)
        assert other.train.images.flags.c_contiguous
    assert found["IDX"].classes == tuple(map(str, range(classes)))
    assert len(found["IDX"].train.labels) == 20
    assert (found["IDX"].test is not None) == has_test


def test_class_names_give_the_same_arrays_in_every_format_that_has_names(tmp_path: Path) -> None:
    names = ("zebra", "Ärger", "ant")
    images, labels = some(12, 6, 3)
    folders = {form: tmp_path / form for form in ("pictures", "csv", "parquet", "npz")}
    for folder in folders.values():
        folder.mkdir()
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folders["pictures"] / names[label] / f"{number}.bmp"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png(image, "BMP"))
    write_csv(folders["csv"], {"train": Split(images, labels)}, False, ["zebra", "A\u0308rger", "ant"])
    write_parquet(folders["parquet"], {"train": Split(images, labels)}, names)
    np.savez(folders["npz"] / "x.npz", images=images, labels=labels, classes=np.array(names))
    found = [contents(folder) for folder in folders.values()]
    assert found[0].classes == ("ant", "zebra", "Ärger")
    assert all(agree(found[0], other) for other in found)


def test_text_labels_of_parquet_are_names(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    images, labels = some(6, classes=2)
    table = pa.table({"img": [png(image) for image in images], "label": [("b", "a")[label] for label in labels]})
    pq.write_table(table, tmp_path / "all.parquet")
    found = contents(tmp_path / "all.parquet")
    assert found.classes == ("a", "b")
    assert len(found.train.labels) == 6


def test_parquet_files_in_a_folder_of_each_split(tmp_path: Path) -> None:
    write_parquet(tmp_path, {"train": some(6), "test": some(6, seed=1)})
    expected = contents(tmp_path)
    for path in list(tmp_path.iterdir()):
        split, _, rest = path.name.partition("-")
        (tmp_path / "data" / split).mkdir(parents=True, exist_ok=True)
        path.rename(tmp_path / "data" / split / rest)
    assert expected.test
    assert agree(contents(tmp_path), expected)


def test_names_that_are_numbers_are_sorted_as_numbers_and_may_start_at_1(tmp_path: Path) -> None:
    images, labels = some(40, classes=12)
    write_pictures(tmp_path, {"train": Split(images, labels + 1)})
    (tmp_path / "idx").mkdir()
    found = contents(tmp_path / "train")
    assert found.classes == tuple(map(str, range(1, 13)))
    write_idx(tmp_path / "idx", {"train": Split(images, labels + 1)})
    assert agree(found, contents(tmp_path / "idx"))


def test_folders_may_be_numbers_with_gaps(tmp_path: Path) -> None:
    images, _ = some(3)
    write_pictures(tmp_path, {"train": Split(images, np.array([1, 20, 5], np.uint8))})
    assert contents(tmp_path).classes == ("1", "5", "20")


def test_images_need_not_be_square(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 5, 9), np.uint8)
    for form in ("IDX", "npz", "pictures", "Parquet"):
        (tmp_path / form).mkdir()
        WRITERS[form](tmp_path / form, {"train": Split(images, np.array([0, 1, 0, 1], np.uint8))})
    found = [contents(folder) for folder in tmp_path.iterdir()]
    assert found[0].train.images.shape == (4, 5, 9)
    assert all(agree(found[0], other) for other in found)


@pytest.mark.parametrize("side", [16, 256])
def test_sizes_that_people_have(tmp_path: Path, side: int) -> None:
    write_pictures(tmp_path, {"train": some(3, side, 3)})
    assert contents(tmp_path).train.images.shape == (3, side, side, 3)


def test_300_classes_need_two_bytes_a_label(tmp_path: Path) -> None:
    labels = np.arange(300)
    np.savez(tmp_path / "x.npz", x_train=some(300, 4).images, y_train=labels)
    found = contents(tmp_path)
    assert found.train.labels.dtype == np.uint16
    assert sorted(found.train.labels) == labels.tolist()


@pytest.mark.parametrize("pair", [("x_train", "y_train"), ("train_images", "train_labels"), ("images", "labels")])
def test_each_spelling_of_npz(tmp_path: Path, pair: tuple[str, str]) -> None:
    images, labels = some(6)
    arrays: dict[str, Any] = {pair[0]: images[..., None], pair[1]: labels.astype(">i4")}
    np.savez(tmp_path / "x.npz", **arrays)
    assert contents(tmp_path / "x.npz").train.images.shape == (6, 8, 8)


def test_a_kaggle_file_as_spreadsheets_write_it(tmp_path: Path) -> None:
    images, labels = some(5, 4)
    write_csv(tmp_path, {"train": Split(images, labels)})
    expected = contents(tmp_path)
    text = (tmp_path / "train.csv").read_text().replace("\n", "\r\n")
    (tmp_path / "train.csv").write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\r\n\r\n")
    assert agree(contents(tmp_path), expected)
    header, _, rest = text.partition("\r\n")
    assert header.startswith("label,pixel0")
    (tmp_path / "train.csv").write_bytes(b"\xef\xbb\xbf" + rest.rstrip("\r\n").encode())
    assert agree(contents(tmp_path), expected)


def test_a_label_in_quotation_marks_may_have_a_comma(tmp_path: Path) -> None:
    write_csv(tmp_path, {"train": some(5, 4, classes=2)}, names=['a, "b"', "c"])
    assert contents(tmp_path).classes == ('a, "b"', "c")


def test_one_colour_picture_makes_all_of_them_rgb(tmp_path: Path) -> None:
    grey, colour = some(4).images, some(1, channels=3).images
    for place, image in {
        "train/a/1": grey[0],
        "train/b/2": grey[1],
        "test/a/3": grey[2],
        "train/a/9": colour[0],
    }.items():
        path = tmp_path / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(image))
    found = contents(tmp_path)
    assert found.test
    assert found.train.images.shape[1:] == found.test.images.shape[1:] == (8, 8, 3)
    assert {image.tobytes() for image in found.train.images} == {
        colour[0].tobytes(),
        *(np.repeat(image[..., None], 3, 2).tobytes() for image in grey[:2]),
    }


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "JPEG"])
def test_each_kind_of_picture(tmp_path: Path, kind: str) -> None:
    for name, image in zip("ab", some(2).images, strict=True):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"1.{kind.lower()}").write_bytes(png(image, kind))
    assert contents(tmp_path).train.images.shape[:3] == (2, 8, 8)


def test_black_and_white_and_palettes(tmp_path: Path) -> None:
    for name, mode in (("a", "1"), ("b", "P")):
        (tmp_path / name).mkdir()
        Image.fromarray(some(1, channels=3).images[0]).convert(mode).save(tmp_path / name / "1.png")
    assert contents(tmp_path).train.images.shape == (2, 8, 8, 3)


def test_what_systems_and_people_leave_beside_the_data_is_ignored(tmp_path: Path) -> None:
    write_pictures(tmp_path, {"train": some(6)})
    expected = contents(tmp_path)
    (tmp_path / "README.md").write_text("mine")
    for name in (".DS_Store", "Thumbs.db", "._1.png", "desktop.ini"):
        (tmp_path / "train" / "0" / name).write_text("junk")
    assert agree(contents(tmp_path), expected)


def test_a_validation_split_is_left_out_and_the_log_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_pictures(tmp_path, {"train": some(6), "test": some(6)})
    expected = contents(tmp_path)
    (tmp_path / "val" / "0").mkdir(parents=True)
    (tmp_path / "val" / "0" / "1.png").write_bytes(b"is not read")
    assert agree(contents(tmp_path), expected)
    assert "val is not read: a validation split, and a run holds out its own" in caplog.text


def test_a_csv_that_is_no_split_is_named_as_what_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_csv(tmp_path, {"train": some(6, 4)})
    (tmp_path / "sample_submission.csv").write_text("ImageId,Label\n1,0\n")
    (tmp_path / "valid.csv").write_text("is not read")
    assert len(contents(tmp_path).train.labels) == 6
    assert "sample_submission.csv is not read: neither train.csv nor test.csv" in caplog.text
    assert "valid.csv is not read: a validation split, and a run holds out its own" in caplog.text


def test_a_file_with_gzip_beside_the_one_without_is_read_once(tmp_path: Path) -> None:
    write_idx(tmp_path, {"train": some(6)})
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"is not read")
    assert len(contents(tmp_path).train.labels) == 6


def test_without_pyarrow_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet(tmp_path, {"train": some(6)})
    real = builtins.__import__

    def without(name: str, *args: Any, **more: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DataError, match=r"pyarrow is not installed\. Install the extra `parquet`"):
        contents(tmp_path)


def test_progress_ends_with_the_whole(tmp_path: Path) -> None:
    write_npz(tmp_path, {"train": some(6)})
    seen: list[tuple[str, int, int | None]] = []
    read(open_tree(str(tmp_path)), lambda *what: seen.append(what))
    assert seen[-1] == ("x_train of images.npz", 384, 384)


@pytest.mark.parametrize("form", WRITERS)
def test_reading_takes_less_than_twice_the_memory_of_the_images(tmp_path: Path, form: str) -> None:
    count = 3000 if form in {"IDX", "IDX with gzip", "npz"} else 300
    split = some(count, 64)
    WRITERS[form](tmp_path, {"train": split})
    read(open_tree(str(tmp_path)))  # what is imported on first use
    tracemalloc.start()
    try:
        read(open_tree(str(tmp_path)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    batches = 24 * 2**20 if form == "CSV" else 2**21
    assert peak < split.images.nbytes * 1.2 + batches


def test_csv_is_read_at_ten_million_pixels_a_second_and_less_would_be_minutes(tmp_path: Path) -> None:
    line = ",".join(["7", *["123"] * 784]) + "\n"
    other = ",".join(["8", *["5"] * 784]) + "\n"
    (tmp_path / "train.csv").write_text((line + other) * 1500)
    start = time.process_time()
    found = contents(tmp_path)
    assert found.train.images.shape == (3000, 28, 28)
    assert time.process_time() - start < 3


def test_idx_sets_with_channels(tmp_path: Path) -> None:
    images, labels = some(6, channels=3)
    (tmp_path / "train-images-idx4-ubyte").write_bytes(idx.encode(images))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx.encode(labels))
    assert contents(tmp_path).train.images.shape == (6, 8, 8, 3)
