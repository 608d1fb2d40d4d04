"""Names the values of nested sections by their dotted names."""

from collections.abc import Mapping
from typing import Any


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested sections into one dictionary.

    Args:
      values: by name; a section is a mapping of its own.
      prefix: dotted name of the section with a final dot.

    Returns:
      Every value that is no section, by its dotted name.
    """
    flat = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
