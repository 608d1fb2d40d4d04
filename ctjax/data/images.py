"""Writes sparse voxels into dense images, and clears them again.

Pixels are counted flat over an event's image [P, H, W], so that one assignment fills
all planes.
"""

import numpy as np

from ctjax.data import native
from ctjax.data.voxels import Voxels


def fill(
    image: np.ndarray, label: np.ndarray, charged: Voxels, classed: Voxels | None
) -> tuple[np.ndarray, np.ndarray]:
    """Writes an event into zeros.

    Args:
      image: [P, H, W] float32 zeros, C-contiguous.
      label: [P, H, W] uint8 zeros, C-contiguous; left as it is without classes.
      charged: voxels with charges, each id once in a plane.
      classed: voxels with classes, likewise, or None.

    Returns:
      Flat pixels written in image and in label, for `clear`; the very same array where
      both have the same voxels.
    """
    if classed is None:
        pixels = _write(charged, charged.values, None, image, label)
        return pixels, pixels[:0]
    if charged.ids is classed.ids and charged.planes == classed.planes:
        pixels = _write(charged, charged.values, classed.values, image, label)
        return pixels, pixels
    return (
        _write(charged, charged.values, None, image, label),
        _write(classed, None, classed.values, image, label),
    )


def clear(
    image: np.ndarray, label: np.ndarray, pixels: tuple[np.ndarray, np.ndarray]
) -> None:
    """Sets pixels back to zero: far less to write than the whole image.

    Args:
      image: [P, H, W] float32, C-contiguous.
      label: [P, H, W] uint8, C-contiguous.
      pixels: of image and label, from `fill`.
    """
    if pixels[0] is pixels[1]:
        parts = [(pixels[0], image, label)]
    else:
        parts = [(pixels[0], image, None), (pixels[1], None, label)]
    for at, *arrays in parts:
        if not native.clear(at, *arrays):
            for dense in arrays:
                if dense is not None:
                    dense.reshape(-1)[at] = 0


def _write(
    voxels: Voxels,
    charges: np.ndarray | None,
    classes: np.ndarray | None,
    image: np.ndarray,
    label: np.ndarray,
) -> np.ndarray:
    """Writes charges and classes, where there are any; returns the pixels."""
    pixels = native.fill(voxels.ids, voxels.planes, charges, classes, image, label)
    if pixels is not None:
        return pixels
    num_planes, num_rows, num_columns = image.shape
    column = voxels.ids // np.int32(num_rows)
    row = voxels.ids - column * np.int32(num_rows)
    pixels = row * np.int32(num_columns) + column
    for plane in range(1, num_planes):
        pixels[voxels.planes[plane]] += np.int32(plane * num_rows * num_columns)
    # The type of an index, to which numpy would convert it at each of four uses.
    pixels = pixels.astype(np.intp)
    if charges is not None:
        image.reshape(-1)[pixels] = charges
    if classes is not None:
        label.reshape(-1)[pixels] = classes
    return pixels
