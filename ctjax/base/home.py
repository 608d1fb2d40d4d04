"""Finds the user's home folder, which in a container need not exist."""

import os

from ctjax.base.errors import UserError


def expand(path: str) -> str:
    """Puts the home folder for `~` at the start of a path.

    Args:
      path: any; the shell leaves `~` as it is after `=`.

    Returns:
      The path; `~name` as it is where there is no such user.

    Raises:
      UserError: no home folder is known, and a folder named `~` would be made.
    """
    expanded = os.path.expanduser(path)
    if expanded == "~" or expanded.startswith("~/"):
        raise UserError(
            f"{path}: found no home folder of user {os.getuid()}; expected HOME to be "
            "set, or a path without ~"
        )
    return expanded
