"""Reads and writes .safetensors files.

Source:
  The format's description, github.com/huggingface/safetensors: eight bytes with the
  length of a header in JSON, the header, and the bytes of the tensors.
"""

import json
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

METADATA = "__metadata__"
"""Entry of the header that is no tensor: texts by name."""

BFLOAT16 = "BF16"

DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    BFLOAT16: "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
}
"""Types as numpy reads them; numpy has no bfloat16."""

LENGTH_BYTES = 8
ALIGNMENT = 8
"""Of the tensors' first byte, to which a header is filled up with spaces."""


def read(path: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads a file.

    Args:
      path: of the file.

    Returns:
      Tensors by name, of bfloat16 as float32, and the texts of the header.

    Raises:
      ValueError: it is no such file, or a damaged one; nothing is read that its header
        claims beyond its end.
      OSError: it cannot be read.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        if not 0 < length <= size - LENGTH_BYTES:
            raise ValueError(
                f"found a header of {length} bytes in a file of {size}, expected less"
            )
        header = json.loads(file.read(length))
        data = file.read()
    if not isinstance(header, dict):
        raise ValueError("found a header that is no mapping")
    texts = header.pop(METADATA, {})
    return {name: _tensor(name, entry, data) for name, entry in header.items()}, texts


def _tensor(name: str, entry: Any, data: bytes) -> np.ndarray:
    """Takes a tensor out of the bytes of all."""
    try:
        code, shape = entry["dtype"], [int(number) for number in entry["shape"]]
        first, stop = (int(number) for number in entry["data_offsets"])
        dtype = np.dtype(DTYPES[code])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{name}: found {str(entry)[:100]} in the header") from error
    expected = math.prod(shape) * dtype.itemsize
    is_inside = 0 <= first <= stop <= len(data) and min(shape, default=0) >= 0
    if not is_inside or stop - first != expected:
        raise ValueError(
            f"{name}: found bytes {first} to {stop} of {len(data)}, expected "
            f"{expected} for its shape {shape}"
        )
    array = np.frombuffer(data[first:stop], dtype).reshape(shape)
    if code == BFLOAT16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array


def write(
    path: str, tensors: Mapping[str, np.ndarray], texts: Mapping[str, str]
) -> None:
    """Writes a file.

    Args:
      path: of the file.
      tensors: float32, by name.
      texts: for the header, by name.

    Raises:
      OSError: it cannot be written.
    """
    header: dict[str, Any] = {METADATA: dict(texts)}
    first = 0
    for name, tensor in tensors.items():
        stop = first + 4 * tensor.size
        header[name] = {
            "dtype": "F32",
            "shape": list(tensor.shape),
            "data_offsets": [first, stop],
        }
        first = stop
    words = json.dumps(header).encode()
    words += b" " * (-len(words) % ALIGNMENT)
    with open(path, "wb") as file:
        file.write(len(words).to_bytes(LENGTH_BYTES, "little"))
        file.write(words)
        for tensor in tensors.values():
            file.write(np.ascontiguousarray(tensor, "<f4").tobytes())
