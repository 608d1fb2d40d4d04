"""Turns the names of files in a configuration into paths."""

import os

from ctjax.config.fields import Data


def file_patterns(data: Data, names: str) -> list[str]:
    """Joins data_directory with each name of a comma-separated list.

    Args:
      data: the data section.
      names: its `file`, `aux_file` or `test_file`.

    Returns:
      Paths or glob patterns, in the order given.
    """
    return [
        os.path.join(data.data_directory, name.strip())
        for name in names.split(",")
        if name.strip()
    ]
