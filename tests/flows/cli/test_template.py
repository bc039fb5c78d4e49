"""The kept database of temporary servers: only ever a help, never a reason to fail."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from flows.cli import template


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of a whole kept database."""
    monkeypatch.setenv("RETRAIN_HOME", str(tmp_path / "home"))
    template.keep(migrated(tmp_path), tmp_path)
    return template._file()


def migrated(folder: Path) -> Path:
    """A database as Prefect's migrations leave it, of many pages."""
    with closing(sqlite3.connect(folder / "prefect.db")) as database, database:
        database.execute("CREATE TABLE IF NOT EXISTS alembic_version (version_num TEXT)")
        database.execute("DELETE FROM alembic_version")
        database.execute("INSERT INTO alembic_version VALUES ('abc')")
        database.execute("CREATE TABLE IF NOT EXISTS run (name TEXT UNIQUE)")
        database.executemany("INSERT OR IGNORE INTO run VALUES (?)", [(f"{number:0500}",) for number in range(100)])
    return folder / "prefect.db"


def test_a_whole_one_is_used(kept: Path, tmp_path: Path) -> None:
    template.copy_to(tmp_path / "new.db")
    assert (tmp_path / "new.db").read_bytes() == kept.read_bytes()


@pytest.mark.parametrize("damage", ["empty", "cut in the middle", "cut in a page", "zeros", "text", "never migrated"])
def test_a_damaged_one_is_made_anew(kept: Path, tmp_path: Path, damage: str) -> None:
    data = kept.read_bytes()
    bad = {
        "empty": b"",
        "cut in the middle": data[: len(data) // 8192 * 4096],
        "cut in a page": data[:-100],
        "zeros": data[: len(data) // 2].ljust(len(data), b"\0"),
        "text": b"no database",
    }
    if damage in bad:
        kept.write_bytes(bad[damage])
    else:
        kept.unlink()
        sqlite3.connect(kept).close()
    template.copy_to(tmp_path / "new.db")
    assert not (tmp_path / "new.db").exists()
    template.keep(tmp_path / "prefect.db", tmp_path)
    template.copy_to(tmp_path / "new.db")
    assert (tmp_path / "new.db").stat().st_size == len(data)


def test_one_of_another_user_is_neither_used_nor_deleted(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.chown(kept, 1234, -1) if os.geteuid() == 0 else monkeypatch.setattr(os, "geteuid", lambda: 4321)
    template.copy_to(tmp_path / "new.db")
    assert not (tmp_path / "new.db").exists()
    assert kept.exists()


def test_where_none_can_be_kept_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RETRAIN_HOME", str(tmp_path / "file" / "home"))
    template.keep(migrated(tmp_path), tmp_path)
    template.copy_to(tmp_path / "new.db")
    assert not (tmp_path / "new.db").exists()


def test_a_full_disk_leaves_no_half_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRAIN_HOME", str(tmp_path / "home"))

    def half(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes()[:5000])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", half)
    template.keep(migrated(tmp_path), tmp_path)
    assert not list((tmp_path / "home").iterdir())
