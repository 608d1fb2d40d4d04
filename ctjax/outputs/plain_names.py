"""Gives folders names that the storage library takes for what they are."""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator

PATTERNS = re.compile(r"[][*?]")
"""What orbax takes for a pattern where it joins the files of a checkpoint."""

NOT_TAKEN = re.compile(r"[\\\ud800-\udfff]")
"""What tensorstore takes for a slash, and bytes that are no text."""


@contextlib.contextmanager
def plain_name(folder: str, *, is_written: bool) -> Iterator[str]:
    """Finds a name for a folder of checkpoints that orbax can work with.

    Args:
      folder: its path.
      is_written: whether checkpoints are to be written.

    Yields:
      The path itself, or a link to the folder in one for temporary files.
    """
    if not NOT_TAKEN.search(folder) and not (is_written and PATTERNS.search(folder)):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="ctjax-") as links:
        link = os.path.join(links, "checkpoints")
        # Checksums are looked for beside the checkpoints.
        for ending in ("", "_checksums"):
            os.symlink(os.path.abspath(f"{folder}{ending}"), f"{link}{ending}")
        yield link
