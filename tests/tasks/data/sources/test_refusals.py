"""What is refused: each defect is one line that names the file."""

from __future__ import annotations

import gzip
import io
import os
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
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
from tasks.data.sources import open_tree, read, trees
from tasks.errors import DataError
from tests.source_files import WRITERS, png, some, write_csv, write_gzip, write_idx, write_parquet, write_pictures

LABELS = "train-labels-idx1-ubyte"
IMAGES = "train-images-idx3-ubyte"


def refusal(folder: Path) -> str:
    with pytest.raises(DataError) as error:
        read(open_tree(str(folder)))
    assert str(error.value).isprintable()
    str(error.value).encode()
    return str(error.value)


def header(kind: int, *shape: int) -> bytes:
    return bytes((0, 0, kind, len(shape))) + struct.pack(f">{len(shape)}I", *shape)


# What stands in no format.


def test_a_folder_in_no_format_is_refused_with_all_that_would_do(tmp_path: Path) -> None:
    assert "it has no file" in refusal(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    text = refusal(tmp_path)
    assert "none of its 1 files, as notes.txt, is of a known format" in text
    assert all(name in text for name in ("IDX", "npz", "pictures", "CSV", "Parquet"))


def test_two_formats_in_one_folder_are_refused(tmp_path: Path) -> None:
    write_csv(tmp_path, {"train": some(6)})
    write_pictures(tmp_path, {"train": some(6)})
    assert "it has files of pictures and CSV. Keep one format" in refusal(tmp_path)


# IDX


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        (LABELS, idx.encode(np.zeros(5, np.uint8)), f"cannot read {LABELS}: 6 images have 5 labels"),
        (LABELS, header(8, 6) + bytes(5), f"cannot read {LABELS}: it has 5 bytes after its header instead of 6"),
        (LABELS, header(8, 6) + bytes(7), f"cannot read {LABELS}: it has more than the 6 bytes"),
        (LABELS, header(0x0B, 6) + bytes(12), "its numbers are of the type 0x0b, and only unsigned bytes"),
        (LABELS, header(8, 6, 2) + bytes(12), "it starts with 00000802, not as IDX of 1 dimensions"),
        (LABELS, b"", "it starts with nothing"),
        (LABELS, b"\0\0\x08\x01\0", "it ends inside its header"),
        (LABELS, header(8, 2**32 - 1), "it has 4,294,967,295 labels"),
        (IMAGES, header(8, 2**32 - 1, 512, 512), "it has 4,294,967,295 images"),
        (IMAGES, header(8, 10**7, 512, 512), "its images have 2,621 GB of pixels, and 64 can be used"),
        (IMAGES, header(8, 6, 3, 8), "its images have 3 × 8 pixels, and 4 to 512 pixels a side can be used"),
        (IMAGES, header(8, 6, 8, 8, 4) + bytes(1536), r"its images have the shape \(6, 8, 8, 4\)"),
        (IMAGES, header(8, 0, 8, 8), "it has 0 images"),
        (f"{IMAGES}.gz", gzip.compress(header(8, 6, 8, 8) + bytes(384), mtime=0)[:-9], "the gzip file is cut off"),
        (f"{IMAGES}.gz", b"<html>", "it is not a valid gzip file"),
        (f"{IMAGES}.gz", gzip.compress(header(8, 6, 8, 8) + bytes(9999), mtime=0), "more than the 384 bytes"),
    ],
)
def test_idx(tmp_path: Path, name: str, data: bytes, why: str) -> None:
    write_idx(tmp_path, {"train": some(6)})
    (tmp_path / name.removesuffix(".gz")).unlink()
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=why):
        read(open_tree(str(tmp_path)))


def test_idx_files_that_are_not_there_or_of_two_sets(tmp_path: Path) -> None:
    write_idx(tmp_path, {"train": some(6), "test": some(6)})
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    assert "there is no IDX file of the test labels beside t10k-images-idx3-ubyte" in refusal(tmp_path)
    (tmp_path / IMAGES).unlink()
    assert f"there is no IDX file of the train images beside {LABELS}" in refusal(tmp_path)
    write_gzip(tmp_path, {"train": some(6)})
    assert "it has the files of 2 data sets: one without a prefix, own" in refusal(tmp_path)


# npz


def save(path: Path, **arrays: Any) -> None:
    np.savez(path / "x.npz", **arrays)


IMAGES_6, LABELS_6 = some(6)


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        ({"images": IMAGES_6}, "x.npz: it holds images instead of x_train with y_train or "),
        ({"images": IMAGES_6 / 255, "labels": LABELS_6}, "images of x.npz: its pixels are float64 instead of uint8"),
        ({"images": IMAGES_6, "labels": LABELS_6 / 2}, "labels of x.npz: its labels are float64 instead of whole"),
        ({"images": IMAGES_6, "labels": np.eye(6, dtype=int)}, "its labels have the shape (6, 6) instead of (n,)"),
        ({"images": IMAGES_6, "labels": LABELS_6[:5]}, "labels of x.npz: 6 images have 5 labels"),
        ({"images": IMAGES_6.T, "labels": LABELS_6}, "images of x.npz: its columns come first"),
        ({"images": IMAGES_6[0], "labels": LABELS_6}, "its images have the shape (8, 8) instead of"),
        ({"images": IMAGES_6, "labels": LABELS_6.astype(object)}, "it holds a pickled object, which is never loaded"),
        ({"images": IMAGES_6, "labels": -LABELS_6.astype(int)}, "labels of x.npz: label -2 is below 0"),
        ({"x_train": IMAGES_6, "y_train": LABELS_6, "x_test": IMAGES_6}, "y_test of x.npz: the archive has no such"),
        (
            {"images": IMAGES_6, "labels": LABELS_6, "classes": np.array([str(name) for name in range(300)])},
            "labels of x.npz: its labels are uint8, which tells no 300 classes apart",
        ),
        ({"images": IMAGES_6, "labels": LABELS_6, "classes": np.array(["a", "b"])}, "label 2 is none of the 2 classes"),
        ({"images": IMAGES_6, "labels": LABELS_6, "classes": np.arange(3)}, "classes of x.npz: it is int64 (3,)"),
        (
            {"images": IMAGES_6, "labels": LABELS_6, "classes": np.array(["a" * 10**6, "b", "c"])},
            "and 1,028,096 are enough for all names",
        ),
        (
            {"x_train": IMAGES_6, "y_train": LABELS_6, "x_test": some(6, 9).images, "y_test": LABELS_6},
            "its images have 8 × 8 pixels for training and 9 × 9 pixels for the test",
        ),
    ],
)
def test_npz(tmp_path: Path, arrays: dict[str, Any], why: str) -> None:
    save(tmp_path, **arrays)
    assert why in refusal(tmp_path)


def test_an_npz_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"<html>")
    assert "x.npz: it is not a valid .npz archive (BadZipFile)" in refusal(tmp_path)
    save(tmp_path, images=IMAGES_6, labels=LABELS_6)
    (tmp_path / "x.npz").rename(tmp_path / "y.npz")
    save(tmp_path, images=IMAGES_6, labels=LABELS_6)
    assert "it has 2 .npz files" in refusal(tmp_path)


def test_an_archive_that_claims_60_gb_costs_no_memory(tmp_path: Path) -> None:
    member = io.BytesIO()
    shape = (10**6, 245, 245)
    np.lib.format.write_array_header_1_0(member, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("images.npy", member.getvalue())
        archive.writestr("labels.npy", idx.encode(LABELS_6))
    tracemalloc.start()
    try:
        why = refusal(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()
    assert "its header tells of 60,025,000,000 bytes, and the archive has 128 for them" in why


# Pictures


def picture(mode: str, side: int = 8, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (side, side)).save(buffer, kind, **options)
    return buffer.getvalue()


def huge(side: int) -> bytes:
    """A PNG of so many pixels a side by its header."""
    parts = picture("L")
    size = struct.pack(">II", side, side) + parts[24:29]
    return parts[:16] + size + struct.pack(">I", zlib.crc32(b"IHDR" + size)) + parts[33:]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (picture("L", 9), "it has 9 × 9 pixels, and train/0/a.png has 8 × 8. Resize"),
        (picture("RGBA"), "it has transparency"),
        (picture("P", transparency=0), "it has transparency"),
        (picture("I;16"), "its pixels are I;16 instead of 8 bits"),
        (picture("CMYK", kind="JPEG"), "its pixels are CMYK instead of 8 bits"),
        (picture("L", kind="GIF", save_all=True, append_images=[Image.new("L", (8, 8), 9)]), "more than one frame"),
        (picture("L")[:40], "it is not a picture that can be decoded"),
        (b"<svg/>", "it is not a picture that can be decoded (UnidentifiedImageError)"),
        (b"", "it is not a picture that can be decoded"),
        (huge(9_000), "its images have 9000 × 9000 pixels, and 4 to 512"),
        (huge(60_000), "it is not a picture that can be decoded (DecompressionBombError)"),
        (picture("L", 600), "its images have 600 × 600 pixels, and 4 to 512"),
        (bytes(16_000_001), "it has more than the 16,000,000 bytes that may be read"),
    ],
)
def test_pictures(tmp_path: Path, data: bytes, why: str) -> None:
    write_pictures(tmp_path, {"train": some(6)})
    (tmp_path / "train" / "0" / "a.png").write_bytes(png(IMAGES_6[0]))
    (tmp_path / "train" / "0" / "zz.png").write_bytes(data)
    for old in (tmp_path / "train" / "0").glob("[0-9].png"):
        old.unlink()
    text = refusal(tmp_path)
    assert "train/0/zz.png: " in text
    assert why in text


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("loose.png", "cannot read loose.png: it lies in no folder of a class"),
        ("train/loose.png", "and train/2/5.png lie at different depths|and train/0/.* lie at different depths|train/"),
        ("other/0/1.png", "cannot read other/0/1.png: its folder other is neither train nor test"),
        ("train/0/notes.txt", "cannot read train/0/notes.txt: it is no picture by its name"),
    ],
)
def test_pictures_in_the_wrong_place(tmp_path: Path, name: str, why: str) -> None:
    write_pictures(tmp_path, {"train": some(6)})
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(png(IMAGES_6[0]))
    with pytest.raises(DataError, match=why):
        read(open_tree(str(tmp_path)))


def test_an_empty_folder_of_a_class_is_named(tmp_path: Path) -> None:
    """A class would be gone without a word, as where a copy is not finished."""
    write_pictures(tmp_path, {"train": some(6)})
    (tmp_path / "logs").mkdir()
    assert len(read(open_tree(str(tmp_path))).classes) == 3
    (tmp_path / "train" / "9").mkdir()
    (tmp_path / "train" / "9" / ".DS_Store").touch()
    assert "cannot read train/9/: the folder is empty. Put pictures of its class there" in refusal(tmp_path)


def test_pictures_for_the_test_alone(tmp_path: Path) -> None:
    write_pictures(tmp_path, {"test": some(6)})
    assert "it has pictures for the test and none for training" in refusal(tmp_path)


# CSV


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda text: text.replace("\n1,", "\n1,x", 1), "column 2 is 'x"),
        (lambda text: text + "1," + ",".join(["5"] * 15 + ["256"]) + "\n", "line 8, column 17 is '256', not a whole"),
        (lambda text: text + "1," + ",".join(["5"] * 3 + [""] + ["5"] * 12), "line 8, column 5 is '', not a whole"),
        (lambda text: text + "1," + ",".join(["0.5"] + ["5"] * 15), "line 8, column 2 is '0.5', not a whole"),
        (lambda text: text + "1," + ",".join(["-1"] + ["5"] * 15), "line 8, column 2 is '-1', not a whole"),
        (lambda text: text + "1," + ",".join(["\x00"] + ["5"] * 15), r"line 8, column 2 is '\\x00', not a whole"),
        (lambda text: text + "1,5,5\n", "line 8 has 3 columns instead of 17"),
        (lambda text: text + '"1,5,5\n', "the label in line 8 has no second quotation mark"),
        (lambda text: text.replace("label,", "").replace("pixel15", "pixel15,label"), "column label is number 17"),
        (lambda text: text.replace("label,", "").replace("pixel15", "pixel15,Class"), "column class is number 17"),
        (lambda text: text.replace(",", ";"), "its first line has no commas"),
        (lambda text: text.partition("\n")[0], "it has no image"),
        (lambda text: "1,2,3,4\n2,3,4,5\n", "its 3 columns after the label are|its images have 1 × 1 pixels"),
        (lambda text: "1," + ",".join("5" * 17), "its 17 columns after the label are no square image"),
        (lambda text: "", "its first line has no commas"),
        (lambda text: "".join(f"a{n}," + ",".join("5" * 16) + "\n" for n in range(1001)), "more than 1,000 different"),
        (lambda text: text + "4," + ",".join("5" * 16), "its labels go from 0 to 4, and none is 3"),
        (lambda text: text + "-4," + ",".join("5" * 16), "label -4 is below 0"),
        (lambda text: text + "\udcff," + ",".join("5" * 16), "is not UTF-8"),
        (lambda text: text + " ," + ",".join("5" * 16), "a class has an empty name"),
        (lambda text: text + "x" * 101 + "," + ",".join("5" * 16), "has 101 characters, and 100 can be used"),
        (lambda text: text + "a\u202eb," + ",".join("5" * 16), "has the character U\\+202E in its name"),
        (lambda text: text + "a\x1b[2J," + ",".join("5" * 16), "has the character U\\+001B in its name"),
    ],
)
def test_csv(tmp_path: Path, change: Callable[[str], str], why: str) -> None:
    write_csv(tmp_path, {"train": some(6, 4)})
    text = change((tmp_path / "train.csv").read_text())
    (tmp_path / "train.csv").write_text(text, errors="surrogateescape")
    with pytest.raises(DataError, match=why) as error:
        read(open_tree(str(tmp_path)))
    assert str(error.value).isprintable()


def test_a_csv_in_utf_16(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("label,pixel0\n", encoding="utf-16")
    assert "cannot read train.csv: it is UTF-16. Save it as UTF-8" in refusal(tmp_path)


def test_a_test_file_without_labels_as_kaggle_has_it(tmp_path: Path) -> None:
    write_csv(tmp_path, {"train": some(6, 4)})
    (tmp_path / "test.csv").write_text(",".join("5" * 16))
    assert "cannot read test.csv: it has 16 columns, and train.csv has 17. The test images need" in refusal(tmp_path)


def test_a_line_without_an_end_is_not_held(tmp_path: Path) -> None:
    write_csv(tmp_path, {"train": some(6, 4)})
    with (tmp_path / "train.csv").open("ab") as file:
        file.truncate(2 * 10**7)
    tracemalloc.start()
    try:
        assert "line 8 has more than" in refusal(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


# Parquet


def write_table(folder: Path, **columns: Any) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), folder / "train.parquet")


PICTURES = [{"bytes": png(image), "path": None} for image in IMAGES_6]


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"text": ["a"], "label": [1]}, "its columns are text, label, and image and label are needed"),
        ({"image": [[1, 2]], "label": [1]}, "its column image holds no bytes of pictures"),
        ({"image": [{"path": "a.png"}], "label": [1]}, "its column image holds no bytes of pictures"),
        ({"image": PICTURES, "label": [0.5] * 6}, "its column label is double instead of whole numbers or names"),
        ({"image": PICTURES, "label": [0, 1, None, 0, 1, 1]}, "row 2 of train.parquet: its label is empty"),
        ({"image": [*PICTURES[:5], None], "label": [0, 1] * 3}, "row 5 of train.parquet: its image is empty"),
        ({"image": [*PICTURES[:5], {"bytes": None, "path": "a"}], "label": [0, 1] * 3}, "row 5 of train.parquet: its"),
        ({"image": [b"junk"] * 6, "label": [0, 1] * 3}, "row 0 of train.parquet: it is not a picture"),
        ({"image": PICTURES, "label": [0] * 6}, "it has one class only, 0"),
        ({"image": PICTURES[:0], "label": []}, "train.parquet: its column"),
    ],
)
def test_parquet(tmp_path: Path, columns: dict[str, Any], why: str) -> None:
    write_table(tmp_path, **columns)
    assert why in refusal(tmp_path)


def test_parquet_files_that_do_not_fit_each_other(tmp_path: Path) -> None:
    write_parquet(tmp_path, {"train": some(6)}, ("a", "b", "c"))
    write_parquet(tmp_path, {"test": some(6)}, ("a", "c", "b"))
    assert "test-00000-of-00002.parquet: its label column has other classes" in refusal(tmp_path)
    (tmp_path / "more.parquet").write_bytes(b"")
    assert "more.parquet: its name tells neither train nor test" in refusal(tmp_path)


def test_a_declared_class_without_an_image(tmp_path: Path) -> None:
    write_parquet(tmp_path, {"train": some(6)}, ("a", "b", "c", "d"))
    assert "class d has no training image" in refusal(tmp_path)


def test_a_parquet_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"<html>" * 100)
    assert "train.parquet: it is no Parquet file that can be read" in refusal(tmp_path)


# The canonical form


def test_a_class_that_only_the_test_split_has(tmp_path: Path) -> None:
    write_pictures(tmp_path, {"train": some(6), "test": Split(IMAGES_6[:1], np.array([9], np.uint8))})
    assert "class 9 has no training image" in refusal(tmp_path)


def test_grey_training_images_and_a_test_in_rgb(tmp_path: Path) -> None:
    write_idx(tmp_path, {"train": some(6), "test": some(6, channels=3)})
    assert "its images have 8 × 8 pixels for training and 8 × 8 pixels in RGB for the test" in refusal(tmp_path)


def test_1001_classes(tmp_path: Path) -> None:
    save(tmp_path, images=some(1001, 4).images, labels=np.arange(1001))
    assert "it has 1,001 classes, and 2 to 1,000 can be used" in refusal(tmp_path)
    for number in range(1001):
        (tmp_path / "p" / f"c{number}").mkdir(parents=True)
        (tmp_path / "p" / f"c{number}" / "1.png").write_bytes(b"is not read")
    assert "it has 1,001 classes, and 2 to 1,000 can be used" in refusal(tmp_path / "p")


# Where the files are


def test_links_are_refused_by_name(tmp_path: Path) -> None:
    write_pictures(tmp_path, {"train": some(6)})
    (tmp_path / "train" / "0" / "9.png").symlink_to("/etc/hostname")
    assert "train/0/9.png: it is a link, and links are not followed. Put the file itself there" in refusal(tmp_path)
    (tmp_path / "train" / "0" / "9.png").unlink()
    (tmp_path / "test").symlink_to("train")
    assert "test: it is a link" in refusal(tmp_path)


def test_a_file_that_became_a_link_or_a_pipe_after_the_listing_is_not_opened(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside, outside):
        folder.mkdir()
        write_idx(folder, {"train": some(6)})
    labels = inside / LABELS
    for replace in (lambda path: path.symlink_to(outside / LABELS), os.mkfifo):
        tree = open_tree(str(inside))
        assert tree.files
        labels.unlink()
        replace(labels)
        with pytest.raises(DataError, match=LABELS):
            read(tree)
        labels.unlink()
        labels.touch()


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.npz")
    assert "x.npz: it is neither a file nor a folder" in refusal(tmp_path)


def test_folders_without_end_and_files_without_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path.joinpath(*"abcdefghij")
    deep.mkdir(parents=True)
    assert "it lies more than 8 folders deep" in refusal(tmp_path)
    monkeypatch.setattr(trees, "MOST_FILES", 5)
    write_pictures(tmp_path, {"train": some(6)})
    assert "it has more than 5 files. Pack them: as Parquet, .npz or IDX" in refusal(tmp_path / "train")


def test_a_name_that_is_no_text_or_breaks_the_line_is_shown_in_one(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/a\xff\nb"
    os.mkdir(folder)  # noqa: PTH102
    (tmp_path / "c").mkdir()
    for name in (os.fsdecode(folder), str(tmp_path / "c")):
        Path(name, "1.png").write_bytes(png(IMAGES_6[0]))
    assert "has the character U+DCFF in its name" in refusal(tmp_path)
    Path(os.fsdecode(folder), "1.png").write_bytes(b"junk")
    assert r"a\udcff\nb/1.png: it is not a picture" in refusal(tmp_path)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="it is not there"):
        open_tree(str(tmp_path / "nowhere"))


# Any byte


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(list(WRITERS)), st.integers(0, 10**6), st.lists(st.tuples(st.integers(0), st.binary(max_size=4)))
)
def test_damaged_files_are_read_or_refused(form: str, cut: int, changes: list[tuple[int, bytes]]) -> None:
    with TemporaryDirectory() as folder:
        WRITERS[form](Path(folder), {"train": some(6, 4)})
        paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        path = paths[cut % len(paths)]
        data = bytearray(path.read_bytes())
        for place, change in changes:
            place %= len(data)
            data[place : place + len(change)] = change
        path.write_bytes(data[: cut % (len(data) + 1) or None])
        with suppress(DataError):
            found = read(open_tree(folder))
            assert found.train.labels.max() < len(found.classes)
            assert len(found.train.images) == len(found.train.labels)
