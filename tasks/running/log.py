"""The log of a run on the server: the project's lines, and each error once.

Prefect's engine logs an exception where the task fails, where the flow fails, where the process ends, and in the last
state of task and flow. `OneErrorOnce` leaves the first, and of an error that we raise on purpose only its one line.
"""

from __future__ import annotations

import logging
import traceback

from prefect.exceptions import CancelledRun, FailedRun
from prefect.logging.handlers import APILogHandler

from tasks.address import hidden
from tasks.errors import GateRejected, RetrainError

LOGGERS = ("prefect.flow_runs", "prefect.task_runs", "prefect.engine")

# What the engine raises for a state that the flow has returned: the state says it all.
RETURNED = (GateRejected, FailedRun, CancelledRun)


def set_up() -> None:
    """Show the logger `retrain` with the run, and filter what Prefect's engine says about errors."""
    log = logging.getLogger("retrain")
    log.setLevel(logging.INFO)
    log.addHandler(APILogHandler())
    for name in LOGGERS:
        logging.getLogger(name).addFilter(OneErrorOnce())
    # While the server is away it prints each event that cannot be sent, a screen long. Prefect resets the level.
    logging.getLogger("prefect._internal.concurrency").addFilter(lambda record: record.levelno >= logging.CRITICAL)


class OneErrorOnce(logging.Filter):
    """Drops each exception that was logged before, and the traceback of a RetrainError."""

    def filter(self, record: logging.LogRecord) -> bool:
        """See the base class."""
        if str(record.msg).startswith("Finished in state Failed("):
            record.msg, record.args = "Finished in state Failed", None
        error = record.exc_info[1] if record.exc_info else None
        if error is None:
            return True
        if isinstance(error, RETURNED) or getattr(error, "_is_logged", False):
            return False
        error._is_logged = True  # type: ignore[attr-defined]
        if isinstance(error, RetrainError):
            record.msg, record.args, record.exc_info, record.exc_text = str(error), None, None, None
        else:
            record.exc_text = hidden("".join(traceback.format_exception(error)).rstrip())
        return True
