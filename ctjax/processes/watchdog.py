"""Ends a run whose steps do not end: a stuck collective, a dead file system."""

import contextlib
import faulthandler
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

from ctjax.processes import liveness
from ctjax.processes.join import Processes

logger = logging.getLogger("ctjax")


@contextlib.contextmanager
def watch(
    timeout_s: float | None, output_dir: str, processes: Processes
) -> Iterator[Callable[[], None]]:
    """Ends the process with status 1 when it has been silent for too long.

    The stacks of all threads go to the run's log (on other processes than the first to
    the terminal). The watch begins with the first sign of life, so that compilation
    does not count.

    Args:
      timeout_s: seconds of silence; None never ends anything.
      output_dir: of the run.
      processes: of the run.

    Yields:
      A function to be called as a sign of life.
    """
    if not timeout_s:
        yield lambda: None
        return
    last_sign: float | None = None
    done = threading.Event()

    def give_sign() -> None:
        nonlocal last_sign
        last_sign = time.monotonic()

    def look() -> None:
        while not done.wait(min(1.0, timeout_s / 4)):
            if last_sign is not None and time.monotonic() - last_sign > timeout_s:
                _end(timeout_s, output_dir, processes)

    thread = threading.Thread(target=look, name="ctjax-watchdog", daemon=True)
    thread.start()
    try:
        yield give_sign
    finally:
        done.set()
        thread.join()


def _end(timeout_s: float, output_dir: str, processes: Processes) -> None:
    words = f"no step ended within {timeout_s:g} s (run.step_timeout)"
    logger.error("%s; the stacks of all threads follow", words)
    if processes.is_first:
        path = os.path.join(output_dir, "process.log")
        with open(path, "a", encoding="utf-8") as log:
            faulthandler.dump_traceback(log, all_threads=True)
    else:
        faulthandler.dump_traceback(sys.stderr, all_threads=True)
    if processes.count > 1:
        liveness.end_after_error(processes.index, words)
    sys.stderr.write(f"ctjax: error: {words}: stacks of all threads in the log\n")
    liveness.end(0)
