"""The entry point of the command line: runs `main`, and ends with one line and 130 on Ctrl-C, SIGTERM or SIGHUP.

The imports of `main`, of Prefect and of the flow take seconds, and an interrupt of an import is a long traceback, or
another error, or a lock that stays locked. So this module imports none of that, and an import ends at once: there is
nothing to undo. Where there is, the main thread gets a KeyboardInterrupt, so that a run tells the server and temporary
files are deleted. Compiled code can delay that for minutes, so a thread ends the process after a second Ctrl-C, or
after GRACE_PERIOD. The processes that a run has started end by themselves then: their standard input closes. After the
first signal nothing is printed but one line.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

STOPPED = 130  # 128 + SIGINT, as a shell reports it

# Seconds from the first signal to the end of the process.
GRACE_PERIOD = 5.0

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# What is still to be printed on a signal, and where: TensorFlow's import redirects 2 for a while.
_line = ["retrain: stopped. Run again: finished steps are reused.\n"]
_stderr = 2
_lock = threading.RLock()

_at_once = True


def start() -> int:
    """Run the command line and return its exit code: 130 if a signal has come, whatever became of it."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # libraries' own; what they filter themselves is lost where two threads import
    handled = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]  # which is what nohup does
    for number in handled:
        signal.signal(number, _interrupt)
    _watch(handled)
    try:
        code = int(importlib.import_module("flows.cli.main").main())  # by name: the commands import `ends` from here
    except BaseException:
        if not stopping():
            raise
        code = STOPPED
    return STOPPED if stopping() else code


@contextmanager
def ends(at_once: bool) -> Iterator[None]:
    """Say of this block whether a signal ends it at once; otherwise it gets a KeyboardInterrupt."""
    global _at_once
    before, _at_once = _at_once, at_once
    try:
        yield
    finally:
        _at_once = before


def stopping() -> bool:
    """Whether a signal has come that ends this process."""
    return not _line


def _interrupt(*_: object) -> None:
    _stop()
    if _at_once:
        os._exit(STOPPED)
    raise KeyboardInterrupt


def _stop() -> None:
    """Print the line, and nothing any more."""
    with _lock:  # neither thread ends the process before the other one has written
        if stopping():
            return
        line = _line.pop()
        with suppress(OSError):
            os.write(_stderr, line.encode())
        null = os.open(os.devnull, os.O_WRONLY)
        for descriptor in {2, sys.stderr.fileno()}:
            os.dup2(null, descriptor)


def _watch(handled: list[signal.Signals]) -> None:
    """Start the thread that ends the process if the main thread does not."""
    global _stderr
    import atexit

    from flows.cli.streams import prepare

    def watch() -> None:
        timer = threading.Timer(GRACE_PERIOD, os._exit, (STOPPED,))
        timer.daemon = True
        interrupts = 0
        while interrupts < 2:
            number = os.read(read, 1)[0]
            if number in handled and not timer.ident:
                _stop()
                timer.start()
            interrupts += number == signal.SIGINT and number in handled
        os._exit(STOPPED)

    prepare()  # before a new descriptor takes the number of a closed stream
    # The first one registered runs last. What is half imported cannot be ended in order.
    atexit.register(lambda: stopping() and os._exit(STOPPED))
    _stderr = os.dup(2)
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)  # gets each signal at once, whatever the main thread does
    with suppress(RuntimeError):  # no more threads are allowed: then a second Ctrl-C waits for the main thread too
        threading.Thread(target=watch, daemon=True).start()
