"""Names the user's cache folder, which holds what can be made again."""

import os


def folder(name: str) -> str:
    """Names one of ctjax's folders in the user's cache; it need not exist.

    Args:
      name: last part of its path.

    Returns:
      Its path, in XDG_CACHE_HOME where that is set, else in `~/.cache`.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(cache, "ctjax", name)
