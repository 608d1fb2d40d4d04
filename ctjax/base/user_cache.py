"""The user's cache folder, for what can be made again."""

import os


def folder(name: str) -> str:
    """Names a folder of ctjax's in the user's cache; it need not exist.

    Args:
      name: of the folder.

    Returns:
      Its path, in XDG_CACHE_HOME where that is set, else in `~/.cache`.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(cache, "ctjax", name)
