"""Brings an event into the sparse form of which a device makes dense images.

Per plane one ascending list of pixels with the charge and the class of each, so that
the device only has to write each value to its own place.
"""

from typing import NamedTuple

import numpy as np

from ctjax.data.voxels import Voxels


class SparsePlane(NamedTuple):
    """Holds the pixels of one plane that are not zero.

    Attributes:
      ids: [V] int32, ascending, unique: `column * h + row` of the pooled image.
      values: [V] float32.
      classes: [V] uint8.
    """

    ids: np.ndarray
    values: np.ndarray
    classes: np.ndarray


def sparse_planes(image: Voxels, label: Voxels | None) -> list[SparsePlane]:
    """Joins the pixels of an event's two products.

    Args:
      image: charges, ids ascending, each once in a plane.
      label: classes, likewise, or None.

    Returns:
      P planes; written to zeros they give the images of images.py bit for bit.
    """
    planes = []
    for plane, span in enumerate(image.planes):
        ids, charges = image.ids[span], image.values[span]
        if label is None:
            planes.append(SparsePlane(ids, charges, np.zeros(len(ids), np.uint8)))
            continue
        label_span = label.planes[plane]
        label_ids, classes = label.ids[label_span], label.values[label_span]
        if label.ids is not image.ids or label_span != span:
            both = np.union1d(ids, label_ids)
            charges = _spread(charges, ids, both)
            classes = _spread(classes, label_ids, both)
            ids = both
        planes.append(SparsePlane(ids, charges, classes))
    return planes


def _spread(values: np.ndarray, ids: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Places values at their ids among others, which get zero."""
    spread = np.zeros(len(among), values.dtype)
    spread[np.searchsorted(among, ids)] = values
    return spread


def capacity_for(count: int) -> int:
    """Rounds up to the next of 1024, 1536, 2048, 3072, 4096, ... places.

    Few sizes mean few compilations on the device; half steps waste less than whole
    powers of two.
    """
    capacity = 1024
    while capacity < count:
        power_of_two = capacity & (capacity - 1) == 0
        capacity = capacity * 3 // 2 if power_of_two else capacity * 4 // 3
    return capacity
