"""Prefect's command line, for a server whose database is SQLite: `python -m flows.cli.sqlite_server server start`.

SQLite has one writer at a time, and the others wait for it, but not a transaction that has read before it writes: that
one gets "database is locked" at once, if another has written in between. Prefect's server begins its transactions
without the lock. With sixteen runs at once it met more than a hundred locks, stalled for minutes and gave events up,
notices among them; four runs met ten answers of 503. A transaction that takes the lock when it begins only waits.

Such a server also keeps in memory which events it has seen. One that follows another waits for that for 15 minutes: an
event that was before a restart never comes again, nor one of a run that a schedule made a moment ago, as the server
sends none. So the verdict of such a run was told a quarter of an hour late, or after another restart never.

And it logs a notice that cannot be delivered with the address of the webhook, which is a secret.

Called by `background`, in the process of a server; a temporary one calls `lock_at_begin`.
"""

from __future__ import annotations

import logging
import runpy
from datetime import timedelta
from importlib import import_module

import httpx
import sqlalchemy
from prefect.server.database.configurations import SQLITE_BEGIN_MODE, AioSqliteConfiguration
from prefect.server.events.ordering import memory


def lock_at_begin() -> None:
    """Let each transaction of Prefect's server take SQLite's write lock when it begins."""

    def begin(self: AioSqliteConfiguration, conn: sqlalchemy.Connection) -> None:
        if SQLITE_BEGIN_MODE.get():  # what only reads has no transaction
            conn.exec_driver_sql("BEGIN IMMEDIATE")

    AioSqliteConfiguration.begin_sqlite_stmt = begin  # type: ignore[method-assign]


def wait_briefly() -> None:
    """Let an event wait only shortly for the one that it follows; in this process that takes milliseconds."""
    memory.PRECEDING_EVENT_LOOKBACK = timedelta(seconds=30)  # type: ignore[attr-defined]


class NoticeWithoutAddress(logging.Filter):
    """Of a notice that cannot be delivered, drops the traceback, which repeats the webhook's address."""

    def filter(self, record: logging.LogRecord) -> bool:
        """See the base class."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, httpx.HTTPError | httpx.InvalidURL):
            status = f" {error.response.status_code}" if isinstance(error, httpx.HTTPStatusError) else ""
            record.msg, record.args = f"a notice was not delivered: {type(error).__name__}{status}", None
            record.exc_info = record.exc_text = None
        return True


def hide_addresses() -> None:
    """Let the log of the server say of a notice that it was not delivered, and not where to."""
    logging.getLogger("prefect.server.utilities.messaging.memory").addFilter(NoticeWithoutAddress())


if __name__ == "__main__":
    lock_at_begin()
    wait_briefly()
    hide_addresses()
    import_module("deployments.notice_log")  # a block whose class the server does not know cannot notify
    runpy.run_module("prefect", run_name="__main__")
