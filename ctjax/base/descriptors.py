"""Makes room for many open files."""

import contextlib
import os
import resource

SPARE = 256
"""Descriptors for checkpoints, connections and libraries beside those asked for."""


def find_shortage(count: int) -> str | None:
    """Raises the process's limit of open files, as far as it may be, for more files.

    Args:
      count: of descriptors that are to be opened.

    Returns:
      None, or in words what is short.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _count_open() + count + SPARE
    if _suffices(soft, needed):
        return None
    if _suffices(hard, needed):
        # Not all systems let the limit be what they say it may be.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
            return None
    return f"found a limit of {soft} open files (ulimit -n), expected {needed} or more"


def _suffices(limit: int, needed: int) -> bool:
    return limit == resource.RLIM_INFINITY or needed <= limit


def _count_open() -> int:
    """Counts the open descriptors, as the system lists them."""
    try:
        return len(os.listdir("/dev/fd"))
    except OSError:
        return 3  # of the standard streams
