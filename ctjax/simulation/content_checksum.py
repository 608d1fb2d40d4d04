"""Sums up what a larcv3 file says, whatever its compression and chunks."""

import hashlib
import os

import h5py
import numpy as np

from ctjax.base import hdf5_members, regular_files
from ctjax.base.errors import UserError

BLOCK_ROWS = 1 << 20


def content_checksum(path: str | os.PathLike) -> str:
    """Returns the SHA-256 over all columns of all tables of a file.

    Each column of each dataset is hashed by itself as little-endian values in row
    order; the result is the hash of the lines `path/member digest`, sorted by path. A
    dataset of several names counts once, and soft links do not.
    Padding, chunks, filters and the versions of HDF5 and zlib do not enter.

    Args:
      path: larcv3 file.

    Returns:
      64 hexadecimal digits.

    Raises:
      UserError: it is no regular file, or some of it lies in another.
      OSError: the file cannot be read.
    """
    regular_files.check(path)
    try:
        return _sum_up(path)
    except hdf5_members.OutsideError as error:
        found = f"{os.fspath(path)}: found {error}"
        raise UserError(f"{found}, expected all tables in this file") from error


def _sum_up(path: str | os.PathLike) -> str:
    """Returns the checksum of a regular file."""
    lines = []
    with h5py.File(path, "r") as file:
        for name, dataset in hdf5_members.walk(file):
            hashes = {key: hashlib.sha256() for key in _columns(dataset.dtype)}
            for begin in range(0, dataset.shape[0], BLOCK_ROWS):
                block = dataset[begin : begin + BLOCK_ROWS]
                for key, digest in hashes.items():
                    column = block
                    for member in key:
                        column = column[member]
                    little = column.dtype.newbyteorder("<")
                    digest.update(np.ascontiguousarray(column, little).tobytes())
            for key, digest in hashes.items():
                lines.append(f"{'/'.join((name, *key))} {digest.hexdigest()}\n")
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def _columns(dtype: np.dtype, above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Lists the paths of a record type's members, those of nested records included."""
    if dtype.names is None:
        return [above]
    return [
        path for name in dtype.names for path in _columns(dtype[name], (*above, name))
    ]
