"""Checks what an .npz file claims before memory is asked for."""

import math
import zipfile
import zlib
from typing import Any

import numpy as np

MAX_BYTES = 2**32
"""Most bytes of all arrays together; the largest network of CosmicTagger has 2^27."""

_HEADERS: dict[tuple[int, int], Any] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def check_sizes(path: str) -> None:
    """Refuses arrays that are larger than what the file holds, or than MAX_BYTES.

    Args:
      path: of the file.

    Raises:
      ValueError: an array says that it is larger, or the file is damaged.
      OSError: the file cannot be read.
    """
    total = 0
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                total += member.file_size
                with archive.open(member) as file:
                    version = np.lib.format.read_magic(file)
                    if version not in _HEADERS:
                        raise ValueError(f"{member.filename}: format {version}")
                    shape, _, dtype = _HEADERS[version](file)
                claimed = math.prod(shape) * dtype.itemsize
                if claimed > member.file_size:
                    raise ValueError(
                        f"{member.filename}: found {member.file_size} bytes, expected "
                        f"{claimed} for its shape"
                    )
    except (zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(str(error)) from error
    if total > MAX_BYTES:
        raise ValueError(f"found {total} bytes of arrays, expected {MAX_BYTES} at most")
