"""Takes requests to stop a training early: signals and a time limit."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""What launchers, people and Slurm's --signal send."""

STATUS = 75
"""Exit status of a run that has saved its state and is to be started again; that of
EX_TEMPFAIL in sysexits.h."""


class Interrupted(Exception):
    """Says that a training was stopped early and can go on; the message says why."""


class StopRequest:
    """Remembers whether, and why, this process is asked to stop.

    Attributes:
      reason: words, or None.
    """

    def __init__(self, max_time_s: float | None):
        """Takes the seconds after which to stop; None for no limit."""
        self._signal: str | None = None
        self._deadline = time.monotonic() + max_time_s if max_time_s else None

    @property
    def reason(self) -> str | None:
        """Returns words for the log, or None."""
        if self._signal is not None:
            return self._signal
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return "run.max_time"
        return None

    def note(self, number: int, frame: object) -> None:
        """Handles a signal; the second SIGINT ends the process at once."""
        if number == signal.SIGINT and self._signal == signal.SIGINT.name:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._signal = signal.Signals(number).name


@contextlib.contextmanager
def watch(max_time_s: float | None) -> Iterator[StopRequest]:
    """Takes signals as requests to stop, as long as the block is not left.

    Args:
      max_time_s: seconds after which to stop; None for no limit.

    Yields:
      The request, to be looked at between steps.
    """
    request = StopRequest(max_time_s)
    if threading.current_thread() is not threading.main_thread():
        yield request  # others may not set handlers
        return
    before = {number: signal.signal(number, request.note) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def take_sigterm_as_interrupt() -> None:
    """Has SIGTERM raise KeyboardInterrupt, which leaves no unfinished file behind."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
