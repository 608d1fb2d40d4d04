"""Tells regular files from what would keep a reader waiting for ever."""

import os
import stat

from ctjax.base.errors import UserError

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def other_kind(status: os.stat_result) -> str | None:
    """Names what is no regular file, None for one."""
    return KINDS.get(stat.S_IFMT(status.st_mode))


def check(path: str | os.PathLike) -> None:
    """Raises UserError for a path that leads to something other than a regular file.

    Args:
      path: of a file; OSError is raised where there is none.
    """
    kind = other_kind(os.stat(path))
    if kind is not None:
        raise UserError(f"{os.fspath(path)}: found {kind}, expected a regular file")
