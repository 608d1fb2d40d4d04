"""Lets one run at a time write into a folder."""

import contextlib
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator

from ctjax.base.errors import UserError

logger = logging.getLogger("ctjax")

FILE = "run.lock"


class RunLockError(UserError):
    """The folder is in use by another run; the message says by which."""


@contextlib.contextmanager
def hold(output_dir: str) -> Iterator[None]:
    """Keeps other runs out of a folder.

    The operating system lets go of the lock when the process ends, however it does, so
    that no lock of a dead process is left.

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
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(words).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    """Reads which process holds the lock, in words."""
    try:
        words = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {words['process']} on {words['host']} since {words['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
