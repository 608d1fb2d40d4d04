"""Names the user's cache folder, which holds what can be made again."""

import os
import stat

from ctjax.base import home
from ctjax.base.errors import UserError


def folder(name: str) -> str | None:
    """Names one of ctjax's folders in the user's cache; it need not exist.

    Args:
      name: last part of its path.

    Returns:
      Its path, in XDG_CACHE_HOME where that is an absolute path, else in `~/.cache`;
      None where no home folder is known.
    """
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(cache):
        try:
            cache = home.expand("~/.cache")
        except UserError:
            return None
    return os.path.join(cache, "ctjax", name)


def make_private(path: str) -> str | None:
    """Makes a folder that its user alone can write, if it is not there.

    Args:
      path: of the folder.

    Returns:
      None, or in words why it is not such a folder.
    """
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        status = os.stat(path)
    except OSError as error:
        return f"it cannot be made ({error.strerror})"
    if status.st_uid != os.geteuid():
        return f"it belongs to user {status.st_uid}, not to {os.geteuid()}"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others can write into it (mode {stat.S_IMODE(status.st_mode):o})"
    return None
