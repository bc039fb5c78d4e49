"""A command in a terminal of 80 columns and 24 rows: a real one, as far as the command can tell."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Sequence

COLUMNS, ROWS = 80, 24


def in_terminal(command: Sequence[str], **environment: str) -> tuple[int, str]:
    """The exit code, and all that standard output and standard error have shown."""
    terminal, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    with subprocess.Popen(
        command, stdin=side, stdout=side, stderr=side, env={**os.environ, "TERM": "xterm", **environment}
    ) as process:
        os.close(side)
        shown = b"".join(iter(lambda: _read(terminal), b""))
    os.close(terminal)
    return process.returncode, shown.decode().replace("\r\n", "\n")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # how Linux says that the other side is closed
        return b""
