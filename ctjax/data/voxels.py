"""Defines the form in which events travel from a file to an image."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Voxels(NamedTuple):
    """Holds the stored voxels of one event and product, in the file's order.

    Attributes:
      ids: [V] int32, `column * H + row`: the file has wires first.
      values: [V] float32 of images, uint8 classes of labels.
      planes: P slices of the two.
      ascending: whether every plane's ids ascend without duplicates.
    """

    ids: np.ndarray
    values: np.ndarray
    planes: tuple[slice, ...]
    ascending: bool


def no_voxels(num_planes: int) -> Voxels:
    """Returns an event without any charge."""
    planes = (slice(0, 0),) * num_planes
    return Voxels(np.zeros(0, np.int32), np.zeros(0, np.float32), planes, True)


def with_rows(
    voxels: Voxels, plane_shapes: Sequence[tuple[int, int]], num_rows: int
) -> Voxels:
    """Counts ids over columns of more rows, as of a larger image.

    Args:
      voxels: ids `column * h + row`, h the rows of the voxel's plane.
      plane_shapes: rows and columns of each plane.
      num_rows: H, at least h.

    Returns:
      The same with ids `column * H + row`; the very same where no plane has fewer rows.
    """
    if all(height == num_rows for height, _ in plane_shapes):
        return voxels
    ids = voxels.ids.copy()
    for span, (height, _) in zip(voxels.planes, plane_shapes, strict=True):
        column, row = np.divmod(ids[span], np.int32(height))
        ids[span] = column * np.int32(num_rows) + row
    return voxels._replace(ids=ids)
