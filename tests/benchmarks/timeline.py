"""One run of the job as a timeline: when each import begins, each log line, and the end, in seconds of the process.

    python -m tests.benchmarks.timeline [options of `retrain run`]

An import is that of a large package, with the thread that imports it. The process that loads the model back imports
TensorFlow too; it begins where the first thread does. What follows the last line is the interpreter's own exit.
`TIMELINE_START` is the time at which the process was started; without it, its start is not in the timeline.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
import time
from contextlib import redirect_stdout

PACKAGES = ("boto3", "keras", "prefect", "pydantic", "tensorflow")


class Timeline(logging.Handler):
    """Prints what happens, on standard output, with the seconds since this process started."""

    def __init__(self) -> None:
        super().__init__()
        self._started = float(os.environ.get("TIMELINE_START") or time.time())
        self._seen = set[str]()

    def say(self, what: str) -> None:
        """Print a line."""
        print(f"{time.time() - self._started:6.2f} s  {what}", file=sys.__stdout__, flush=True)

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record of the project's log."""
        self.say(record.getMessage())

    def audit(self, event: str, arguments: tuple[object, ...]) -> None:
        """Print the first import of a large package. An audit hook of the interpreter."""
        if event == "import" and arguments[0] in PACKAGES and arguments[0] not in self._seen:
            self._seen.add(str(arguments[0]))
            self.say(f"imports {arguments[0]} ({threading.current_thread().name})")


def main() -> int:
    """Run the job, and return its exit code."""
    timeline = Timeline()
    timeline.say("Python runs")
    sys.addaudithook(timeline.audit)
    from flows.cli.main import main

    timeline.say("the command line is imported")
    logging.getLogger("retrain").addHandler(timeline)
    with redirect_stdout(io.StringIO()):  # of the summary
        code = main(["run", *sys.argv[1:]])
    timeline.say(f"the command ends with {code}")
    return code


if __name__ == "__main__":
    sys.exit(main())
