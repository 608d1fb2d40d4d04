"""The loops of native.c, where the installation could build them.

Each takes usual events only and gives None for others; larcv_file.py and images.py
have the same in numpy for these, and for installations without a compiler. Both give
the same bits.
"""

import ctypes
import pathlib

import numpy as np
import numpy.typing as npt

from ctjax.data.larcv_records import VOXEL

VERSION = 1
"""Of native.c; a library built from another one is not used."""


def _load() -> ctypes.CDLL | None:
    path = pathlib.Path(__file__).with_name("_native.abi3.so")
    try:
        library = ctypes.CDLL(str(path))
        if library.ctjax_version() != VERSION:
            return None
    except (OSError, AttributeError):
        return None
    pointer, count, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
    library.ctjax_split_records.argtypes = [
        *(pointer, pointer, count, count),
        *(pointer, pointer, pointer),
    ]
    library.ctjax_fill.argtypes = [
        *(pointer, pointer, pointer, pointer, count),
        *(number, number, number, pointer, pointer, pointer),
    ]
    library.ctjax_fill.restype = count
    library.ctjax_clear.argtypes = [pointer, count, pointer, pointer]
    library.ctjax_clear.restype = None
    return library


library = _load()
"""None where numpy does it all; looked up at every call."""


def language() -> str:
    """What the loops are written in, for logs: "C" or "numpy"."""
    return "numpy" if library is None else "C"


def split_records(
    records: np.ndarray, planes: tuple[slice, ...], num_pixels: int, *, charges: bool
) -> tuple[np.ndarray, np.ndarray] | None:
    """Takes records apart and checks them.

    Args:
      records: [V] of any type.
      planes: slices of them.
      num_pixels: of a plane.
      charges: whether values are charges, otherwise classes.

    Returns:
      Ids [V] int32, and charges [V] float32 or classes [V] uint8. None for records of
      another type, ids that do not ascend in a plane, and whatever is an error.
    """
    if library is None or records.dtype != VOXEL:
        return None
    ids = np.empty(len(records), np.int32)
    values = np.empty(len(records), np.float32 if charges else np.uint8)
    spans = _spans(planes, len(records))
    is_usual = library.ctjax_split_records(
        _address(records, VOXEL),
        spans.ctypes.data,
        len(spans),
        num_pixels,
        ids.ctypes.data,
        values.ctypes.data if charges else None,
        None if charges else values.ctypes.data,
    )
    return (ids, values) if is_usual else None


def fill(
    ids: np.ndarray,
    planes: tuple[slice, ...],
    charges: np.ndarray | None,
    classes: np.ndarray | None,
    image_shape: tuple[int, int],
    downsample: int,
    image: np.ndarray,
    label: np.ndarray,
) -> np.ndarray | None:
    """Writes voxels into zeros as images.fill does.

    Args:
      ids: [V] int32.
      planes: P slices of them.
      charges: [V] float32, or None to leave the image as it is.
      classes: [V] uint8, or None to leave the label as it is.
      image_shape: rows and columns as stored.
      downsample: pooling by 2^d on each side.
      image: [P, h, w] float32 zeros.
      label: [P, h, w] uint8 zeros.

    Returns:
      [U] int32 pixels written, flat and without duplicates; None, with nothing
      written, for ids that do not ascend in a plane.
    """
    if library is None:
        return None
    pixels = np.empty(len(ids), np.int32)
    spans = _spans(planes, len(ids))
    num_pixels = library.ctjax_fill(
        _address(ids, np.int32),
        None if charges is None else _address(charges, np.float32),
        None if classes is None else _address(classes, np.uint8),
        spans.ctypes.data,
        len(spans),
        *image_shape,
        downsample,
        _address(image, np.float32),
        _address(label, np.uint8),
        pixels.ctypes.data,
    )
    return None if num_pixels < 0 else pixels[:num_pixels]


def clear(
    pixels: np.ndarray, image: np.ndarray | None, label: np.ndarray | None
) -> bool:
    """Sets pixels of either or both back to zero.

    Args:
      pixels: [U] int32, as `fill` gave them for arrays of this shape.
      image: [P, h, w] float32.
      label: [P, h, w] uint8.

    Returns:
      Whether it was done.
    """
    if library is None or pixels.dtype != np.int32:
        return False
    library.ctjax_clear(
        _address(pixels, np.int32),
        len(pixels),
        None if image is None else _address(image, np.float32),
        None if label is None else _address(label, np.uint8),
    )
    return True


def _address(array: np.ndarray, dtype: npt.DTypeLike) -> int:
    """Where an array's numbers are.

    Raises:
      ValueError: for an array of another type, or not in one piece.
    """
    if array.dtype != dtype or not array.flags.c_contiguous:
        raise ValueError(f"expected {dtype} in C order, got {array.dtype}")
    return array.ctypes.data


def _spans(planes: tuple[slice, ...], length: int) -> np.ndarray:
    """The planes as C takes them, [P, 2] int64.

    Raises:
      ValueError: for planes that are not those of a list of this length.
    """
    spans = np.array([(plane.start, plane.stop) for plane in planes], np.int64)
    counts = spans[:, 1] - spans[:, 0]
    within = 0 <= spans.min() and spans.max() == length
    if not within or counts.min() < 0 or counts.sum() != length:
        raise ValueError(f"expected planes of {length} voxels, got {planes}")
    return spans
