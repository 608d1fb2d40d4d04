"""Packages that only some commands need, imported when they are needed."""

import importlib
from typing import Any

from ctjax.base.errors import UserError


class MissingExtraError(UserError):
    """A package of an extra is not installed; the message says how to install it."""


def import_optional(module: str, extra: str) -> Any:
    """Imports a module of an optional package.

    Args:
      module: dotted name.
      extra: of pyproject.toml, whose packages have the module.

    Returns:
      The module.

    Raises:
      MissingExtraError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{module.split('.')[0]} is not installed; expected pip install "
            f"'ctjax[{extra}]'"
        ) from error
