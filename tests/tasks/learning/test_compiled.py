from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.learning import compiled
from tasks.storage.local import LocalStore
from tasks.storage.verified import fetch_sealed, sealed

# Trains, and prints the digest of the weights.
PROGRAM = """
from tasks.learning.model_file import weights_digest
from tasks.learning.training import fit
from tasks.settings import Recipe
from tests.tasks.learning.test_training import examples
print(weights_digest(fit(examples(300), Recipe(epochs=1)).model))
"""


def train(home: Path, *, succeeds: bool = True) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "RETRAIN_HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode == 0) == succeeds, done.stderr
    return done.stdout


def test_what_was_compiled_is_used_again_and_what_is_damaged_is_compiled_anew(tmp_path: Path) -> None:
    home = tmp_path / "home"
    weights = train(home)
    first, _ = sorted(home.rglob("*.pb"))  # of whole batches, and of the rest; of the process nothing is left
    first.write_bytes(first.read_bytes()[:-100])
    assert train(home) == weights

    first.write_bytes(sealed(b"no machine code"))  # as no damage leaves it
    assert train(home, succeeds=False) == ""  # so it is used

    no_folder = tmp_path / "a-file"
    no_folder.touch()
    assert train(no_folder) == weights


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LocalStore]:
    """The copies in a home of its own, as a new process finds them."""
    monkeypatch.setenv("RETRAIN_HOME", str(tmp_path))
    compiled.folder.cache_clear()
    yield LocalStore(tmp_path / "cache")
    compiled.folder.cache_clear()


@pytest.mark.parametrize("whose", ["own", "a link", "for all to write"])
def test_a_folder_in_which_others_can_write_is_not_used(whose: str, kept: LocalStore, tmp_path: Path) -> None:
    own = compiled._own_folder()
    assert own
    kept.put(f"compiled/{own.name}/kept/entry.pb", sealed(b"machine code"))
    if whose == "a link":
        own.rename(tmp_path / "elsewhere")
        own.symlink_to(tmp_path / "elsewhere")
    elif whose == "for all to write":
        own.chmod(0o777)
    temporary = compiled.folder()
    assert (temporary and [file.name for file in temporary.iterdir()]) == (["entry.pb"] if whose == "own" else None)


def test_the_newest_entries_are_kept(kept: LocalStore) -> None:
    temporary = compiled.folder()
    assert temporary
    for number in range(compiled.MOST + 3):
        (temporary / f"{number}.pb").write_bytes(b"%d" % number)
        (temporary / f"{number}.pb.half-written").touch()
        compiled.keep()
    entries = [fetch_sealed(kept, entry.key) for entry in kept.list("compiled/") if "/kept/" in entry.key]
    assert sorted(map(int, entries)) == list(range(3, compiled.MOST + 3))


def test_the_folder_of_a_process_that_was_killed_is_deleted_by_a_later_one(kept: LocalStore) -> None:
    own = compiled._own_folder()
    assert own
    old, new = own / "process-old", own / "process-new"
    for folder in (old, new):
        folder.mkdir()
        (folder / "entry.pb").touch()
    os.utime(old, (0, 0))
    assert compiled.folder()
    assert (old.exists(), new.exists()) == (False, True)


def test_where_there_is_no_room_everything_is_compiled(kept: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "LARGEST", 1 << 60)
    assert compiled.folder() is None
    compiled.keep()
    assert not list(kept.list(""))
