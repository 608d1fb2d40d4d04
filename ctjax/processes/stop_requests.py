"""Takes requests to stop a training early: signals and a time limit."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
"""What launchers, people, Slurm's --signal and a terminal that is closed send."""

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
        before = signal.getsignal(signal.SIGINT)
        self._is_in_a_program = before is signal.default_int_handler
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
        """Handles a signal; the second SIGINT ends at once.

        What it ends is the process, or in a notebook this call alone.
        """
        if number == signal.SIGINT and self._signal == signal.SIGINT.name:
            if self._is_in_a_program:
                raise KeyboardInterrupt
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
    with _handling(SIGNALS, request.note):
        yield request


def ending_at_once() -> contextlib.AbstractContextManager[None]:
    """Has the signals end a training outside of its steps, with STATUS and one line.

    Before and after `watch` takes them there is nothing to save. At once: what is
    imported, opened or written in these seconds cannot be told to stop.
    """
    return _handling(SIGNALS, _end)


def interrupting() -> contextlib.AbstractContextManager[None]:
    """Has SIGTERM and SIGHUP raise KeyboardInterrupt, as SIGINT does.

    What is left by an exception leaves no unfinished file behind.
    """
    return _handling((signal.SIGTERM, signal.SIGHUP), signal.default_int_handler)


@contextlib.contextmanager
def _handling(
    numbers: tuple[signal.Signals, ...], handler: Callable[[int, Any], Any]
) -> Iterator[None]:
    """Sets a handler for as long as the block is not left.

    SIGHUP stays ignored where nohup has it ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # others may not set handlers
        return
    is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    before = {
        number: signal.signal(number, handler)
        for number in numbers
        if number is not signal.SIGHUP or not is_ignored
    }
    try:
        yield
    finally:
        for number, handler_before in before.items():
            signal.signal(number, handler_before)


def _end(number: int, frame: object) -> NoReturn:
    with contextlib.suppress(OSError):
        sys.stderr.write(
            f"ctjax: stopped by {signal.Signals(number).name} while no step was under "
            "way; the same command goes on\n"
        )
        sys.stderr.flush()
    os._exit(STATUS)
