"""Reads fields that say how a file of a detector is read, as they are typed."""

from collections.abc import Sequence
from typing import Any

from ctjax.base.errors import ConfigError
from ctjax.commands import words
from ctjax.config import resolve
from ctjax.config.detectors import DETECTOR_FIELDS
from ctjax.config.fields import Data

NAMES = tuple(f"data.{name}" for name in DETECTOR_FIELDS)


def read(arguments: Sequence[str]) -> dict[str, Any]:
    """Reads `data.FIELD=VALUE` of each argument.

    Returns:
      Values by the names of `DETECTOR_FIELDS`.

    Raises:
      ConfigError: another field, or a value that cannot be used.
    """
    values = words.sort(arguments).values()
    for name in values:
        if name not in NAMES:
            raise ConfigError(f"{name}: expected one of {', '.join(NAMES)}")
    fields = {name.removeprefix("data."): value for name, value in values.items()}
    resolve.build(Data, fields, "data.")
    return fields
