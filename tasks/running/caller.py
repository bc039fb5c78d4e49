"""Ends a subprocess as soon as its caller has ended, however that came. Called by `tasks.learning.predictions`.

Imports nothing that takes time, because the caller may end while the subprocess is still importing.
"""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path


def follow(folder: Path) -> threading.Event:
    """Watch standard input: the event is set by a byte; where it closes, the folder is deleted and the process ends."""
    asked = threading.Event()

    def watch() -> None:
        while os.read(0, 1):  # not `sys.stdin`, whose lock would be held when Python ends
            asked.set()
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    return asked
