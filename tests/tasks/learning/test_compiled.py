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
    kept = {path: path.read_bytes() for path in home.rglob("*.pb")}
    assert len(kept) == 2  # whole batches, and the rest
    first, _ = sorted(kept)
    first.write_bytes(kept[first][:-100])
    assert train(home) == weights

    first.write_bytes(sealed(b"no machine code"))  # as no damage leaves it
    assert train(home, succeeds=False) == ""  # so it is used

    no_folder = tmp_path / "a-file"
    no_folder.touch()
    assert train(no_folder) == weights


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LocalStore]:
    """As in a new process, with a home of its own."""
    monkeypatch.setenv("RETRAIN_HOME", str(tmp_path))
    compiled.folder.cache_clear()
    compiled._temporary.cache_clear()
    yield LocalStore(tmp_path / "cache")
    compiled._temporary().cleanup()
    compiled.folder.cache_clear()
    compiled._temporary.cache_clear()


@pytest.mark.parametrize("whose", ["own", "a link", "for all to write"])
def test_a_folder_in_which_others_can_write_is_not_used(whose: str, process: LocalStore, tmp_path: Path) -> None:
    prefix = compiled._own_prefix()
    assert prefix
    process.put(f"{prefix}entry.pb", sealed(b"machine code"))
    folder = process.path(prefix.rstrip("/"))
    if whose == "a link":
        folder.rename(tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere")
    elif whose == "for all to write":
        folder.chmod(0o777)
    temporary = compiled.folder()
    assert (temporary and [file.name for file in temporary.iterdir()]) == (["entry.pb"] if whose == "own" else None)


def test_the_newest_entries_are_kept(process: LocalStore) -> None:
    temporary = compiled.folder()
    assert temporary
    for number in range(compiled.MOST + 3):
        (temporary / f"{number}.pb").write_bytes(b"%d" % number)
        (temporary / f"{number}.pb.half-written").touch()
        compiled.keep()
    kept = [fetch_sealed(process, entry.key) for entry in process.list("compiled/")]
    assert sorted(map(int, kept)) == list(range(3, compiled.MOST + 3))


def test_where_there_is_no_room_everything_is_compiled(process: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "LARGEST", 1 << 60)
    assert compiled.folder() is None
    compiled.keep()
    assert not list(process.list(""))
