"""The sparse form of an event, for dense images made on the device.

Per plane one ascending list of pixels with the charge and the class of each, pooled
already, so that the device only has to write each value to its own place.
"""

from typing import NamedTuple

import numpy as np

from ctjax.data.images import pooled_shape
from ctjax.data.larcv_file import Voxels


class SparsePlane(NamedTuple):
    """Pixels of one plane that hold anything.

    Attributes:
      ids: [V] int32, ascending, unique: `column * h + row` of the pooled image.
      values: [V] float32.
      classes: [V] uint8.
    """

    ids: np.ndarray
    values: np.ndarray
    classes: np.ndarray


def sparse_planes(
    image: Voxels,
    label: Voxels | None,
    image_shape: tuple[int, int],
    downsample: int,
) -> list[SparsePlane]:
    """Pools an event and joins the pixels of its two products.

    Args:
      image: charges.
      label: classes, or None.
      image_shape: rows H and columns W as stored.
      downsample: pooling by 2^d on each side.

    Returns:
      P planes; written to zeros they give the images of images.py bit for bit.
    """
    planes = []
    for plane, charge_span in enumerate(image.planes):
        ids = _pooled_ids(image.ids[charge_span], image_shape, downsample)
        charges = image.values[charge_span]
        if label is None:
            pixels, values = _pool_charges(ids, charges, image.ascending, downsample)
            classes = np.zeros(len(pixels), np.uint8)
        else:
            label_span = label.planes[plane]
            label_ids = _pooled_ids(label.ids[label_span], image_shape, downsample)
            pixels, values, classes = _pool_both(
                (ids, charges),
                (label_ids, label.values[label_span]),
                image.ascending,
                downsample,
            )
        planes.append(SparsePlane(pixels, values, classes))
    return planes


def capacity_for(count: int) -> int:
    """The next of 1024, 1536, 2048, 3072, 4096, ... places.

    Few sizes mean few compilations on the device; half steps waste less than whole
    powers of two.
    """
    capacity = 1024
    while capacity < count:
        power_of_two = capacity & (capacity - 1) == 0
        capacity = capacity * 3 // 2 if power_of_two else capacity * 4 // 3
    return capacity


def _pooled_ids(
    ids: np.ndarray, image_shape: tuple[int, int], downsample: int
) -> np.ndarray:
    if downsample == 0:
        return ids
    rows, _ = pooled_shape(image_shape, downsample)
    column = ids // np.int32(image_shape[0])
    row = ids - column * np.int32(image_shape[0])
    return (column >> downsample) * np.int32(rows) + (row >> downsample)


def _pool_charges(ids, charges, ascending, downsample):
    """Pixels [U] and charges [U] of one plane."""
    if downsample == 0 and ascending:
        return ids, charges
    pixels, place = np.unique(ids, return_inverse=True)
    return pixels, _pool_at(place, len(pixels), charges, downsample)


def _pool_at(place, num_pixels, charges, downsample):
    """Charges of the pixels, by the rule of images.fill_image."""
    values = np.zeros(num_pixels, np.float32)
    if downsample == 0:
        values[place] = charges
        return values
    np.add.at(values, place, charges)
    return values * np.float32(0.25**downsample)


def _pool_both(charged, labelled, ascending, downsample):
    """Pixels [U], charges [U] and classes [U] of one plane."""
    ids, charges = charged
    label_ids, labels = labelled
    same = np.array_equal(ids, label_ids)
    if same and downsample == 0 and ascending:
        return ids, charges, labels
    every_id = ids if same else np.concatenate([ids, label_ids])
    pixels, place = np.unique(every_id, return_inverse=True)
    values = _pool_at(place[: len(ids)], len(pixels), charges, downsample)
    classes = np.zeros(len(pixels), np.uint8)
    label_place = place if same else place[len(ids) :]
    if downsample == 0:
        classes[label_place] = labels
    else:
        np.maximum.at(classes, label_place, labels)
    return pixels, values, classes
