"""A notification block that appends notices to a file: whom the runs of `retrain up` tell where nobody is named.

The server itself sends each notice, so its process has to know this class: `flows.cli.sqlite_server` imports it. Other
servers don't, and so have no such log. Used by `deployments.setup`.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from uuid import UUID

from prefect.blocks.abstract import NotificationBlock

NAME = "notices"


class NoticeLog(NotificationBlock):
    """A file on the server's machine, a line for each notice: when, what, and its text."""

    _block_type_name = "Retrain notice log"
    _block_type_slug = "retrain-notice-log"

    path: str

    async def notify(self, body: str, subject: str | None = None) -> None:
        """Append a notice."""
        when = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S")
        line = " ".join(f"{when}  {subject or ''}: {body}".split())
        with Path(self.path).open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")


def notice_log(path: Path) -> UUID:
    """Put the block that writes to this file on the configured server, or update it; its id."""
    return UUID(str(NoticeLog(path=str(path)).save(NAME, overwrite=True)))
