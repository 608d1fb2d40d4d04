"""Reads weights that TensorFlow and Keras have written, without either.

TensorFlow 2 writes a bundle: PREFIX.index, a sorted table in the form of LevelDB, says
where each variable lies in PREFIX.data-00000-of-00001. Keras 3 writes an HDF5 file.

Source:
  tensorflow/core/util/tensor_bundle (bundle, protocol buffers of its entries) and
  tensorflow/core/lib/io/table (table), as their headers describe the formats.
"""

import math
import os
import struct
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from ctjax.base import hdf5_members, regular_files
from ctjax.base.crc32c import crc32c
from ctjax.models import tensorflow_weights
from ctjax.models.torch_weights import WeightsError

INDEX = ".index"
VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"

_FOOTER_BYTES = 48
_MAGIC = 0xDB4775248B80FB57
_TRAILER_BYTES = 5  # of a block: its compression and its checksum
_MASK_DELTA = 0xA282EAD8

_TYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", 19: "<f2"}
"""Numpy's types by the numbers of TensorFlow's."""

_OF_TEXT = 7
"""TensorFlow's number for strings."""


class _DamagedError(ValueError):
    """Tells of bytes that are not what the format says."""


def read_bundle(prefix: str) -> dict[str, np.ndarray]:
    """Reads the variables of a TensorFlow checkpoint.

    Args:
      prefix: path of the index but for `.index`.

    Returns:
      Path in the object graph to array.

    Raises:
      WeightsError: a file is absent, damaged or of another kind.
    """
    index = prefix + INDEX
    regular_files.check(index)
    try:
        with open(index, "rb") as file:
            content = file.read()
        entries = dict(_table(content))
        header = _fields(entries.pop(b""))
        shards = header.get(1, [1])[0]
        if header.get(2, [0])[0] != 0:
            raise _DamagedError("numbers of another byte order, expected little-endian")
    except (_DamagedError, KeyError, IndexError, struct.error, OSError) as error:
        raise WeightsError(
            f"{index}: expected the index of a TensorFlow checkpoint: {error}"
        ) from error
    found = {}
    for key, value in entries.items():
        name = key.decode("utf-8", "replace")
        try:
            array = _read_entry(prefix, shards, value)
        except (_DamagedError, IndexError, struct.error, OSError) as error:
            raise WeightsError(f"{prefix}: {name}: {error}") from error
        if array is not None:
            found[name.removesuffix(VALUE)] = array
    return found


def read_keras(path: str) -> dict[str, np.ndarray]:
    """Reads the variables of a `.weights.h5` of Keras 3; links are passed over.

    Returns:
      Path in the object graph to array.

    Raises:
      WeightsError: the file is absent, damaged or of another kind.
    """
    regular_files.check(path)
    found: dict[str, np.ndarray] = {}

    try:
        with h5py.File(path, "r") as file:
            for name, item in hdf5_members.walk(file, refuse_others=False):
                if "/vars/" in name:
                    found[tensorflow_weights.from_keras_path(name)] = item[()]
    except Exception as error:  # h5py's are of many kinds
        raise WeightsError(f"{path}: expected an HDF5 file: {error}") from error
    if not found:
        raise WeightsError(f"{path}: found no variables, expected Keras's weights")
    return found


def _table(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields the keys and values of a table."""
    footer = content[-_FOOTER_BYTES:]
    if len(footer) < _FOOTER_BYTES or struct.unpack("<Q", footer[-8:])[0] != _MAGIC:
        raise _DamagedError("found no table")
    _, place = _handle(footer, 0)
    handle, _ = _handle(footer, place)
    for _, value in _block(content, *handle):
        yield from _block(content, *_handle(value, 0)[0])


def _handle(data: bytes, place: int) -> tuple[tuple[int, int], int]:
    """Reads where a block lies: offset and size, and the place behind."""
    offset, place = _varint(data, place)
    size, place = _varint(data, place)
    return (offset, size), place


def _block(content: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Yields the keys and values of one block, whose keys share beginnings."""
    end = offset + size
    if end + _TRAILER_BYTES > len(content):
        raise _DamagedError("found a part of it")
    (checksum,) = struct.unpack_from("<I", content, end + 1)
    if _masked(crc32c(content[offset : end + 1])) != checksum:
        raise _DamagedError("found another checksum than its own")
    if content[end] != 0:
        raise _DamagedError("found a compressed table, which TensorFlow does not write")
    (restarts,) = struct.unpack_from("<I", content, end - 4)
    end -= 4 * (restarts + 1)
    key, place = b"", offset
    while place < end:
        shared, place = _varint(content, place)
        rest, place = _varint(content, place)
        length, place = _varint(content, place)
        key = key[:shared] + content[place : place + rest]
        place += rest
        yield key, content[place : place + length]
        place += length


def _read_entry(prefix: str, shards: int, entry: bytes) -> np.ndarray | None:
    """Reads the array of one entry; None for a text."""
    fields = _fields(entry)
    kind = fields.get(1, [0])[0]
    if kind == _OF_TEXT:
        return None
    if kind not in _TYPES or 7 in fields:
        raise _DamagedError(f"of type {kind} or in slices, expected numbers, whole")
    dimensions = [
        _fields(dimension)
        for shape in fields.get(2, [])
        for dimension in _fields(shape).get(2, [])  # none of a scalar's
    ]
    shape = tuple(dimension.get(1, [0])[0] for dimension in dimensions)
    shard, offset, size = (fields.get(number, [0])[0] for number in (3, 4, 5))
    dtype = np.dtype(_TYPES[kind])
    if math.prod(shape) * dtype.itemsize != size:
        raise _DamagedError(f"{size} bytes for an array of shape {shape}")
    path = f"{prefix}.data-{shard:05d}-of-{shards:05d}"
    regular_files.check(path)
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size < offset + size:
            raise _DamagedError(f"{os.path.basename(path)} ends before it")
        file.seek(offset)
        data = file.read(size)
    if _masked(crc32c(data)) != fields.get(6, [None])[0]:
        raise _DamagedError("found another checksum than its own")
    return np.frombuffer(data, dtype).reshape(shape)


def _fields(message: bytes) -> dict[int, list[Any]]:
    """Reads a message of protocol buffers: values by the numbers of their fields."""
    found: dict[int, list[Any]] = {}
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        number, kind = tag >> 3, tag & 7
        value: Any
        if kind == 0:
            value, place = _varint(message, place)
        elif kind == 2:
            length, place = _varint(message, place)
            value, place = message[place : place + length], place + length
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
            value = int.from_bytes(message[place : place + length], "little")
            place += length
        else:
            raise _DamagedError("found no message of protocol buffers")
        found.setdefault(number, []).append(value)
    return found


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """Reads a whole number of seven bits a byte, and the place behind it."""
    number = shift = 0
    while True:
        byte = data[place]
        place += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, place
        shift += 7


def _masked(checksum: int) -> int:
    """Returns a checksum as TensorFlow stores it, beside data that hold checksums."""
    rotated = (checksum >> 15) | (checksum << 17) & 0xFFFFFFFF
    return (rotated + _MASK_DELTA) & 0xFFFFFFFF
