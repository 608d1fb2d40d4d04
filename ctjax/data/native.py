"""Calls the loops of native.c, where the installation could build them.

Each takes usual events only and gives None for others; larcv/file.py, pooling.py,
images.py, site_lists.py and joined_sites.py have the same in numpy for these, and for
installations without a compiler. Both give the same bits.
"""

import ctypes
from collections.abc import Callable

import numpy as np

from ctjax.base import native_library
from ctjax.base.native_library import address
from ctjax.data.larcv.records import VOXEL


def _load() -> ctypes.CDLL | None:
    routines = native_library.load(native_library.READING)
    if routines is None:
        return None
    pointer, count, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
    routines.ctjax_split_records.argtypes = [
        *(pointer, pointer, count, count, ctypes.c_float),
        *(pointer, pointer, pointer),
    ]
    routines.ctjax_pool.argtypes = [
        *(pointer, pointer, pointer, pointer, count, number, number, number),
        *(pointer, pointer, pointer, pointer),
    ]
    routines.ctjax_fill.argtypes = [
        *(pointer, pointer, pointer, pointer, count, number, number),
        *(pointer, pointer, pointer),
    ]
    routines.ctjax_clear.argtypes = [pointer, count, pointer, pointer]
    routines.ctjax_clear.restype = None
    sites = pointer, pointer, count, number, number
    routines.ctjax_find_neighbours.argtypes = [*sites, number, number, number, pointer]
    groups = pointer, pointer, pointer, pointer
    routines.ctjax_halve.argtypes = [*sites, *groups]
    routines.ctjax_merge_planes.argtypes = [*sites, *groups]
    routines.ctjax_renumber.argtypes = [
        *(pointer, count, number, number, number, pointer)
    ]
    routines.ctjax_renumber.restype = None
    return routines


routines = _load()
"""None where numpy does it all; looked up at every call."""


def language() -> str:
    """Returns what the loops are written in, "C" or "numpy", for logs."""
    return "numpy" if routines is None else "C"


def split_records(
    records: np.ndarray,
    planes: tuple[slice, ...],
    num_pixels: int,
    limit: float,
    are_charges: bool,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Takes records apart and checks them.

    Args:
      records: [V] of any type.
      planes: slices of them.
      num_pixels: of a plane.
      limit: the largest charge, finite in float32, or the largest class.
      are_charges: whether values are charges; else they are classes.

    Returns:
      Ids [V] int32, and charges [V] float32 or classes [V] uint8. None for records of
      another type, ids that do not ascend in a plane, and whatever is an error.
    """
    if routines is None or records.dtype != VOXEL:
        return None
    ids = np.empty(len(records), np.int32)
    values = np.empty(len(records), np.float32 if are_charges else np.uint8)
    spans = _spans(planes, len(records))
    is_usual = routines.ctjax_split_records(
        address(records, VOXEL),
        address(spans, np.int64),
        len(spans),
        num_pixels,
        limit,
        address(ids, np.int32),
        address(values if are_charges else None, np.float32),
        address(None if are_charges else values, np.uint8),
    )
    return (ids, values) if is_usual else None


def pool(
    ids: np.ndarray,
    planes: tuple[slice, ...],
    charges: np.ndarray | None,
    classes: np.ndarray | None,
    image_shape: tuple[int, int],
    downsample: int,
) -> tuple[np.ndarray, tuple[slice, ...], np.ndarray | None, np.ndarray | None] | None:
    """Pools voxels as pooling.pool does.

    Args:
      ids: [V] int32.
      planes: P slices of them.
      charges: [V] float32, or None.
      classes: [V] uint8, or None.
      image_shape: rows and columns as stored.
      downsample: pooling by 2^d on each side.

    Returns:
      Cells [U] int32, P slices of them, charges [U] and classes [U]; None for ids that
      do not ascend in a plane.
    """
    if routines is None:
        return None
    spans = _spans(planes, len(ids))
    cells, pooled_spans = np.empty_like(ids), np.empty_like(spans)
    sums = None if charges is None else np.empty_like(charges)
    highest = None if classes is None else np.empty_like(classes)
    is_usual = routines.ctjax_pool(
        address(ids, np.int32),
        address(charges, np.float32),
        address(classes, np.uint8),
        address(spans, np.int64),
        len(spans),
        *image_shape,
        downsample,
        address(cells, np.int32),
        address(sums, np.float32),
        address(highest, np.uint8),
        address(pooled_spans, np.int64),
    )
    if not is_usual:
        return None
    pooled_planes = tuple(slice(*span) for span in pooled_spans.tolist())
    num_cells = int(pooled_spans[-1, 1])
    return (
        cells[:num_cells],
        pooled_planes,
        None if sums is None else sums[:num_cells],
        None if highest is None else highest[:num_cells],
    )


def fill(
    ids: np.ndarray,
    planes: tuple[slice, ...],
    charges: np.ndarray | None,
    classes: np.ndarray | None,
    image: np.ndarray,
    label: np.ndarray,
) -> np.ndarray | None:
    """Writes voxels into zeros as images.fill does.

    Args:
      ids: [V] int32.
      planes: P slices of them.
      charges: [V] float32, or None to leave the image as it is.
      classes: [V] uint8, or None to leave the label as it is.
      image: [P, H, W] float32 zeros.
      label: [P, H, W] uint8 zeros.

    Returns:
      [V] int32 pixels written, flat; None, with nothing written, for ids outside of
      the image.
    """
    if routines is None:
        return None
    pixels = np.empty_like(ids)
    spans = _spans(planes, len(ids))
    if image.shape != label.shape or len(image) != len(spans):
        raise ValueError(f"expected one shape, got {image.shape} and {label.shape}")
    written = routines.ctjax_fill(
        address(ids, np.int32),
        address(charges, np.float32),
        address(classes, np.uint8),
        address(spans, np.int64),
        len(spans),
        *image.shape[1:],
        address(image, np.float32),
        address(label, np.uint8),
        address(pixels, np.int32),
    )
    return pixels if written else None


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
    if routines is None or pixels.dtype != np.int32:
        return False
    routines.ctjax_clear(
        address(pixels, np.int32),
        len(pixels),
        address(image, np.float32),
        address(label, np.uint8),
    )
    return True


def find_neighbours(
    ids: np.ndarray,
    planes: tuple[slice, ...],
    image_shape: tuple[int, int],
    size: int,
    first: int,
    absent: int,
    out: np.ndarray,
) -> bool:
    """Finds the sites around each as site_lists.find_neighbours does.

    Args:
      ids: [N] int32.
      planes: P slices of them, one after the other.
      image_shape: rows and columns.
      size: side of the square.
      first: number of the first site.
      absent: number that stands for no site.
      out: [N, size * size] int32.

    Returns:
      Whether it was done; not for ids that do not ascend in a plane.
    """
    if routines is None:
        return False
    spans = _spans(planes, len(ids))
    is_usual = routines.ctjax_find_neighbours(
        address(ids, np.int32),
        address(spans, np.int64),
        len(spans),
        *image_shape,
        size,
        first,
        absent,
        address(out, np.int32, len(ids) * size * size),
    )
    return bool(is_usual)


Groups = tuple[np.ndarray, tuple[slice, ...], np.ndarray, np.ndarray]
"""Ids [M] int32 of coarser sites and the slices of their planes; parts [M, T] and place
[N] int32, as in `ctjax.base.sites.Coarsening`."""


def halve(
    ids: np.ndarray, planes: tuple[slice, ...], image_shape: tuple[int, int]
) -> Groups | None:
    """Halves the resolution as site_lists.halve does; None for unusual sites."""
    if routines is None:
        return None
    arrays = ids, planes, image_shape, len(planes), 4
    return _group(routines.ctjax_halve, *arrays)


def merge_planes(
    ids: np.ndarray, planes: tuple[slice, ...], image_shape: tuple[int, int]
) -> Groups | None:
    """Merges the planes as site_lists.merge_planes does; None for unusual sites."""
    if routines is None:
        return None
    arrays = ids, planes, image_shape, 1, len(planes)
    return _group(routines.ctjax_merge_planes, *arrays)


def _group(
    routine: Callable[..., int],
    ids: np.ndarray,
    planes: tuple[slice, ...],
    image_shape: tuple[int, int],
    num_planes: int,
    size: int,
) -> Groups | None:
    """Calls what makes coarser sites, in `num_planes`, of groups of up to `size`."""
    spans = _spans(planes, len(ids))
    cells, place = np.empty_like(ids), np.empty_like(ids)
    parts = np.empty((len(ids), size), np.int32)
    coarser_spans = np.empty((num_planes, 2), np.int64)
    is_usual = routine(
        address(ids, np.int32),
        address(spans, np.int64),
        len(spans),
        *image_shape,
        address(cells, np.int32),
        address(coarser_spans, np.int64),
        address(parts, np.int32),
        address(place, np.int32),
    )
    if not is_usual:
        return None
    num_cells = int(coarser_spans[-1, 1])
    coarser_planes = tuple(slice(*span) for span in coarser_spans.tolist())
    return cells[:num_cells], coarser_planes, parts[:num_cells], place


def renumber(
    numbers: np.ndarray, shift: int, absent: tuple[int, int], out: np.ndarray
) -> bool:
    """Writes numbers of sites as joined_sites does.

    Args:
      numbers: int32, of any shape.
      shift: what to add.
      absent: the number that stands for no site, and what it becomes.
      out: int32, of as many elements.

    Returns:
      Whether it was done.
    """
    if routines is None:
        return False
    routines.ctjax_renumber(
        address(numbers, np.int32),
        numbers.size,
        shift,
        *absent,
        address(out, np.int32, numbers.size),
    )
    return True


def _spans(planes: tuple[slice, ...], length: int) -> np.ndarray:
    """Converts the planes to what C takes, [P, 2] int64.

    Raises:
      ValueError: for planes that are not those of a list of this length.
    """
    spans = np.array([(plane.start, plane.stop) for plane in planes], np.int64)
    counts = spans[:, 1] - spans[:, 0]
    within = 0 <= spans.min() and spans.max() == length
    if not within or counts.min() < 0 or counts.sum() != length:
        raise ValueError(f"expected planes of {length} voxels, got {planes}")
    return spans
