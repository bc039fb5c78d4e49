"""A migrated database for temporary Prefect servers, kept in `RETRAIN_HOME`: to migrate a new one takes seconds.

It only saves time. So one that is damaged, or belongs to another user, is not used, and one that cannot be kept is no
error. Called by `flows.cli.server`.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing, suppress
from importlib.metadata import version
from pathlib import Path

from tasks.settings import home


def copy_to(target: Path) -> None:
    """Copy the kept database, if there is a whole one. A damaged one is deleted, so that `keep` makes it anew."""
    file = _file()
    try:
        if file.stat().st_uid not in {0, os.geteuid()}:  # another user could have put anything into it
            return
        shutil.copyfile(file, target)
    except OSError:
        target.unlink(missing_ok=True)
        return
    if not _is_whole(target):
        target.unlink()
        with suppress(OSError):
            file.unlink()


def keep(database: Path, folder: Path) -> None:
    """Keep a migrated database, unless there is one; `folder` takes a copy of it on the way."""
    file, copy = _file(), folder / "template.db"
    partial = file.with_suffix(f".{os.getpid()}")
    try:
        if file.exists():
            return
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        shutil.copyfile(copy, partial)
        partial.replace(file)
    except (OSError, sqlite3.Error):
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _is_whole(database: Path) -> bool:
    """Whether it is a database that was migrated, without damage."""
    try:
        size = database.stat().st_size
        with closing(sqlite3.connect(database)) as connection:
            (pages,), (each,) = (
                connection.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size")
            )
            migrated = connection.execute("SELECT count(*) FROM alembic_version").fetchone()
            checked = connection.execute("PRAGMA quick_check").fetchone()
            return bool(size == pages * each and migrated == (1,) and checked == ("ok",))
    except sqlite3.Error:
        return False


def _file() -> Path:
    return home() / f"prefect-{version('prefect')}.db"
