"""Pools events in their sparse form, which makes them smaller at once."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ctjax.data import native
from ctjax.data.voxels import Voxels


def padded_shape(
    plane_shapes: Sequence[tuple[int, int]],
    downsample: int,
    divisor: int = 1,
    smallest: int = 1,
) -> tuple[int, int]:
    """Returns the rows and columns of an image that holds every plane.

    Args:
      plane_shapes: rows and columns of each plane as stored.
      downsample: d >= 0.
      divisor: of the sides after pooling by 2^d.
      smallest: number of rows and columns after pooling.

    Raises:
      ValueError: a whole image would be pooled into less than a pixel.
    """
    factor = 2**downsample
    sides = [max(sizes) for sizes in zip(*plane_shapes, strict=True)]
    if downsample < 0 or factor > min(sides):
        raise ValueError(
            f"data.downsample = {downsample} pools by {factor}, expected no more than "
            f"the image's {sides[0]} rows and {sides[1]} columns"
        )
    step = divisor * factor
    rows, columns = (max(-(-side // step) * step, smallest * factor) for side in sides)
    return rows, columns


def pooled_shape(image_shape: tuple[int, int], downsample: int) -> tuple[int, int]:
    """Returns the rows and columns after pooling by 2^downsample.

    Args:
      image_shape: rows and columns as stored.
      downsample: d >= 0.

    Raises:
      ValueError: where a side is not divisible: pixels at the edge would alias.
    """
    factor = 2**downsample
    if downsample < 0 or image_shape[0] % factor or image_shape[1] % factor:
        raise ValueError(
            f"data.downsample = {downsample} pools by {factor}, which must divide the "
            f"image's {image_shape[0]} rows and {image_shape[1]} columns"
        )
    return image_shape[0] // factor, image_shape[1] // factor


def pool(
    image: Voxels,
    label: Voxels | None,
    image_shape: tuple[int, int],
    downsample: int,
) -> tuple[Voxels, Voxels | None]:
    """Pools an event; its ids ascend then, each once in a plane.

    Charges of a cell are added one by one in float32, in the file's order, and the sum
    is divided by the cell's area, stored or not; of classes the highest stays: the
    numbers of larcv3's PoolAverage and PoolMax, bit for bit. Without pooling the last
    value of an id stays.

    Args:
      image: charges.
      label: classes, or None.
      image_shape: rows H and columns W as stored.
      downsample: pooling by 2^d on each side.

    Returns:
      The same with ids `column * h + row` of the pooled image; of the two products the
      very same array, where it was so before.
    """
    if downsample == 0 and image.ascending and (label is None or label.ascending):
        return image, label
    same = label is not None and label.ids is image.ids and label.planes == image.planes
    classes = label.values if label is not None and same else None
    shape = image_shape, downsample
    cells, planes, sums, highest = _pool(image, image.values, classes, *shape)
    pooled = Voxels(cells, sums, planes, True)
    if label is None:
        return pooled, None
    if not same:
        cells, planes, _, highest = _pool(label, None, label.values, *shape)
    return pooled, Voxels(cells, highest, planes, True)


def _pool(
    voxels: Voxels,
    charges: np.ndarray | None,
    classes: np.ndarray | None,
    image_shape: tuple[int, int],
    downsample: int,
) -> tuple[np.ndarray, tuple[slice, ...], Any, Any]:
    """Pools charges and classes on the same ids; returns what native.pool does."""
    event = voxels.ids, voxels.planes, charges, classes, image_shape, downsample
    return native.pool(*event) or _pool_in_numpy(*event)


def _pool_in_numpy(ids, planes, charges, classes, image_shape, downsample):
    """Does the same as native.pool, for ids in any order."""
    rows, columns = pooled_shape(image_shape, downsample)
    column = ids // np.int32(image_shape[0])
    row = ids - column * np.int32(image_shape[0])
    cells = (column >> downsample) * np.int32(rows) + (row >> downsample)
    num_cells = np.int32(rows * columns)
    for plane, span in enumerate(planes):
        cells[span] += plane * num_cells
    # np.unique would do the same, three times as slowly: runs of ids ascend already.
    order = np.argsort(cells, kind="stable")
    cells = cells[order]
    is_first = np.append(True, cells[1:] != cells[:-1])[: len(cells)]
    place = np.empty(len(cells), np.intp)
    place[order] = np.cumsum(is_first) - 1
    cells = cells[is_first]
    if charges is not None:
        sums = np.zeros(len(cells), np.float32)
        if downsample:
            np.add.at(sums, place, charges)
            charges = sums * np.float32(0.25**downsample)
        else:
            sums[place] = charges
            charges = sums
    if classes is not None:
        highest = np.zeros(len(cells), np.uint8)
        if downsample:
            np.maximum.at(highest, place, classes)
        else:
            highest[place] = classes
        classes = highest
    ends = np.searchsorted(cells, num_cells * np.arange(len(planes) + 1))
    planes = tuple(map(slice, ends[:-1].tolist(), ends[1:].tolist()))
    return cells % num_cells, planes, charges, classes
