"""Defines the form in which events travel from a file to an image."""

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
