"""Lets one run at a time write into a folder."""

import contextlib
import fcntl
import fnmatch
import json
import logging
import os
import socket
import time
from collections.abc import Iterator

from ctjax.base.errors import UserError
from ctjax.data.larcv import disk_file

logger = logging.getLogger("ctjax")

FILE = "run.lock"

LEFT_BEHIND = (
    "*_metrics.csv.partial",
    "*_config.json.partial",
    "inference_confusion.csv.partial",
    "predictions.h5.unfinished",
    "predictions.h5.rank*",
    "report.html.unfinished",
)
"""Patterns of what a run that is killed leaves unfinished, beside hidden part files."""


class RunLockError(UserError):
    """The folder is in use by another run; the message says by which."""


@contextlib.contextmanager
def hold(output_dir: str) -> Iterator[None]:
    """Keeps other runs out of a folder.

    The operating system lets go of the lock when the process ends, however it does, so
    that no lock of a dead process is left. What such a process has left unfinished is
    removed.

    Args:
      output_dir: of the run; made where absent.

    Yields:
      Nothing.

    Raises:
      RunLockError: another process holds it.
    """
    os.makedirs(output_dir, exist_ok=True)
    path = os.path.join(output_dir, FILE)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunLockError(
                f"{output_dir}: in use by {_holder(descriptor)}; expected a folder of "
                "this run's own (output_dir or run.id)"
            ) from error
        except OSError as error:
            # Some parallel file systems are mounted without locks.
            logger.warning("%s: no lock on this file system (%s)", path, error)
        words = {
            "process": os.getpid(),
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        _remove_unfinished(output_dir)
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(words).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _remove_unfinished(output_dir: str) -> None:
    """Removes the unfinished files of runs that were killed."""
    disk_file.remove_left_parts(output_dir)
    for name in os.listdir(output_dir):
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in LEFT_BEHIND):
            # A name that is none of ours, such as a folder's, stays.
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(output_dir, name))


def _holder(descriptor: int) -> str:
    """Reads which process holds the lock, in words."""
    try:
        words = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {words['process']} on {words['host']} since {words['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
