"""The same files in a folder, in a bucket, and over HTTPS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.address import Address
from tasks.data.sources import open_tree, read
from tasks.errors import DataError, KeyMissing, UsageError
from tasks.storage import open_store
from tests.s3 import make_bucket, serving
from tests.source_files import WRITERS, some, write_csv, write_idx, write_npz, write_pictures
from tests.tasks.data.sources.test_formats import agree, contents


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    with serving():
        make_bucket("data")
        yield


def upload(folder: Path, url: str) -> None:
    store = open_store(url)
    for path in folder.rglob("*"):
        if path.is_file():
            store.put(path.relative_to(folder).as_posix(), path.read_bytes())


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("form", WRITERS)
def test_a_bucket_gives_the_same_as_a_folder(tmp_path: Path, form: str) -> None:
    WRITERS[form](tmp_path, {"train": some(6), "test": some(6, seed=1)})
    upload(tmp_path, f"s3://data/{form.replace(' ', '')}/x")
    found = read(open_tree(f"s3://data/{form.replace(' ', '')}/x/"))
    assert agree(found, contents(tmp_path))


@pytest.mark.usefixtures("server")
def test_one_object_of_a_bucket(tmp_path: Path) -> None:
    write_npz(tmp_path, {"train": some(6)})
    upload(tmp_path, "s3://data")
    open_store("s3://data").put("images.npz.old", b"is not read")
    tree = open_tree("s3://data/images.npz")
    assert [file.name for file in tree.files] == ["images.npz"]
    assert agree(read(tree), contents(tmp_path))
    with pytest.raises(DataError, match=r"images\.npz: it has [0-9,]+ bytes, and at most 10 belong there"):
        tree.read("images.npz", 10)
    open_store("s3://data").delete("images.npz")
    with pytest.raises(DataError, match=r"images\.npz: it is not there"):
        tree.read("images.npz", 10**6)
    with pytest.raises(DataError, match=r"nowhere\.npz: it has no file"):
        read(open_tree("s3://data/nowhere.npz"))


def test_an_identity_changes_when_a_file_is_written_again(tmp_path: Path) -> None:
    write_csv(tmp_path, {"train": some(6, 4)})
    before = open_tree(str(tmp_path)).files
    assert open_tree(f"file://{tmp_path}").files == before
    write_csv(tmp_path, {"train": some(6, 4, seed=1)})
    assert open_tree(str(tmp_path)).files != before


def test_one_file_of_this_machine_may_be_a_link(tmp_path: Path) -> None:
    write_csv(tmp_path, {"train": some(6, 4)})
    (tmp_path / "link.csv").symlink_to("train.csv")
    assert agree(contents(tmp_path / "link.csv"), contents(tmp_path / "train.csv"))


class Site:
    """A folder as it is served: nothing is listed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, list[str]()

    def fetch(self, name: str, limit: int) -> bytes:
        self.asked.append(name)
        path = self.folder / name if name else next(self.folder.iterdir())
        if not path.exists():
            raise KeyMissing(f"cannot read {name}", "it is not there", "Look.")
        return path.read_bytes()


def test_idx_files_over_https_are_asked_for_by_name(tmp_path: Path) -> None:
    write_idx(tmp_path, {"train": some(6)})
    site = Site(tmp_path)
    tree = open_tree("https://host/letters/", site.fetch)
    assert agree(read(tree), contents(tmp_path))
    assert site.asked[:2] == ["train-images-idx3-ubyte.gz", "train-images-idx3-ubyte"]
    assert len(site.asked) == 8


def test_one_file_over_https(tmp_path: Path) -> None:
    write_csv(tmp_path, {"train": some(6, 4)})
    tree = open_tree(Address("https://user:secret@host/train.csv?X-Amz-Signature=secret"), Site(tmp_path).fetch)
    assert agree(read(tree), contents(tmp_path))
    assert tree.where == "https://host/train.csv"
    (tmp_path / "train.csv").write_bytes(b"label,a\n1,secret\n")
    with pytest.raises(DataError, match=r"cannot read train\.csv: "):
        read(open_tree("https://host/train.csv", Site(tmp_path).fetch))


def test_pictures_cannot_be_read_over_https(tmp_path: Path) -> None:
    write_pictures(tmp_path, {"train": some(6)})
    with pytest.raises(DataError, match="nothing can be listed there"):
        read(open_tree("https://host/pictures/", Site(tmp_path).fetch))


@pytest.mark.parametrize("address", ["ftp://host/x", "https://host/x.npz", "s3://user:secret@bucket/x", ""])
def test_an_address_of_no_known_kind(address: str) -> None:
    with pytest.raises(UsageError, match="cannot use the source") as error:
        open_tree(address)
    assert "secret" not in str(error.value)
