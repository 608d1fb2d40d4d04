"""Applies and undoes the filters of HDF5 chunks: gzip and shuffle."""

import deflate
import h5py
import numpy as np


def inflate(data: bytes | memoryview, size: int) -> bytes | bytearray:
    """Inflates a zlib stream and checks its checksum.

    Args:
      data: the stream.
      size: bytes that it should have after.

    Raises:
      ValueError: or an error of the library, for a damaged stream.
    """
    return deflate.zlib_decompress(data, size)


def deflated(data: np.ndarray, level: int) -> bytes:
    """Compresses to a zlib stream.

    Args:
      data: [N] uint8, in one piece.
      level: as zlib has them, 1 to 9.
    """
    # The next level of libdeflate still takes less time than zlib's, and less space.
    return bytes(deflate.zlib_compress(data, level + 1))


def filter_codes(dataset: h5py.Dataset) -> list[int]:
    """Returns the dataset's filters in the order in which writing applies them."""
    properties = dataset.id.get_create_plist()
    return [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]


def shuffle(data: np.ndarray, itemsize: int) -> np.ndarray:
    """Does HDF5's shuffle: all first bytes of the rows, then all second ones.

    Args:
      data: [N * itemsize] uint8, whole rows.
      itemsize: bytes of a row.
    """
    return np.ascontiguousarray(data.reshape(-1, itemsize).T).reshape(-1)


def unshuffle(data: bytes | bytearray | memoryview, itemsize: int) -> memoryview:
    """Undoes `shuffle`; HDF5 leaves the bytes after the last whole row in place."""
    whole = len(data) // itemsize * itemsize
    rows = np.frombuffer(data, np.uint8, whole).reshape(itemsize, -1).T
    unshuffled = np.ascontiguousarray(rows).reshape(-1).data
    if whole == len(data):
        return unshuffled
    return memoryview(bytes(unshuffled) + bytes(data[whole:]))
