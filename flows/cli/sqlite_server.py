"""Prefect's command line, for a server whose database is SQLite: `python -m flows.cli.sqlite_server server start`.

SQLite has one writer at a time, and the others wait for it, but not a transaction that has read before it writes: that
one gets "database is locked" at once, if another has written in between. Prefect's server begins its transactions
without the lock. With sixteen runs at once it met more than a hundred locks, stalled for minutes and gave events up,
notices among them; four runs met ten answers of 503. A transaction that takes the lock when it begins only waits.
Called by `server` and `background`, in the process of a server.
"""

from __future__ import annotations

import runpy

import sqlalchemy
from prefect.server.database.configurations import SQLITE_BEGIN_MODE, AioSqliteConfiguration


def lock_at_begin() -> None:
    """Let each transaction of Prefect's server take SQLite's write lock when it begins."""

    def begin(self: AioSqliteConfiguration, conn: sqlalchemy.Connection) -> None:
        if SQLITE_BEGIN_MODE.get():  # what only reads has no transaction
            conn.exec_driver_sql("BEGIN IMMEDIATE")

    AioSqliteConfiguration.begin_sqlite_stmt = begin  # type: ignore[method-assign]


if __name__ == "__main__":
    lock_at_begin()
    runpy.run_module("prefect", run_name="__main__")
