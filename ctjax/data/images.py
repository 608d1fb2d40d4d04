"""Sparse voxels to dense images, pooled on the way where asked for.

Pixels are counted flat over an event's image [P, H, W] of the pooled size, so that
one assignment fills all planes. Numbers are those of larcv3 followed by CosmicTagger,
bit for bit.
"""

import numpy as np

from ctjax.constants import NUM_PLANES
from ctjax.data import native
from ctjax.data.larcv_file import Voxels


def pooled_shape(image_shape: tuple[int, int], downsample: int) -> tuple[int, int]:
    """Rows and columns after pooling by 2^downsample.

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


def fill(
    image: np.ndarray,
    label: np.ndarray,
    charged: Voxels,
    classed: Voxels | None,
    image_shape: tuple[int, int],
    downsample: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Writes an event into zeros.

    Without pooling the last of several values of a pixel stays. With it charges are
    added one by one in float32, in the file's order, and the sum is divided by the
    area of the cell, stored or not: larcv3's PoolAverage. Of classes the highest of
    the cell stays.

    Args:
      image: [P, h, w] float32 zeros, C-contiguous.
      label: [P, h, w] uint8 zeros, C-contiguous; left as it is without classes.
      charged: voxels with charges.
      classed: voxels with classes, or None.
      image_shape: rows H and columns W as stored.
      downsample: pooling by 2^d on each side.

    Returns:
      Flat pixels written in image and in label, for `clear`; the very same array where
      both have the same voxels.
    """

    def write(voxels, charges, classes):
        pixels = native.fill(
            voxels.ids,
            voxels.planes,
            charges,
            classes,
            image_shape,
            downsample,
            image,
            label,
        )
        if pixels is None:
            pixels = _find_pixels(voxels, image_shape, downsample)
            if charges is not None:
                _write_charges(image.reshape(-1), pixels, charges, downsample)
            if classes is not None:
                _write_classes(label.reshape(-1), pixels, classes, downsample)
        return pixels

    if classed is None:
        pixels = write(charged, charged.values, None)
        return pixels, pixels[:0]
    if charged.ids is classed.ids and charged.planes == classed.planes:
        pixels = write(charged, charged.values, classed.values)
        return pixels, pixels
    return write(charged, charged.values, None), write(classed, None, classed.values)


def clear(
    image: np.ndarray, label: np.ndarray, pixels: tuple[np.ndarray, np.ndarray]
) -> None:
    """Sets pixels back to zero: far less to write than the whole image.

    Args:
      image: [P, h, w] float32, C-contiguous.
      label: [P, h, w] uint8, C-contiguous.
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


def _find_pixels(
    voxels: Voxels, image_shape: tuple[int, int], downsample: int
) -> np.ndarray:
    """Index [V] of each voxel's pixel in the flat pooled image of all planes."""
    rows, columns = pooled_shape(image_shape, downsample)
    column = voxels.ids // np.int32(image_shape[0])
    row = voxels.ids - column * np.int32(image_shape[0])
    pixels = (row >> downsample) * np.int32(columns) + (column >> downsample)
    for plane in range(1, NUM_PLANES):
        pixels[voxels.planes[plane]] += np.int32(plane * rows * columns)
    # The type of an index, to which numpy would convert it at each of four uses.
    return pixels.astype(np.intp)


def _write_charges(
    flat: np.ndarray, pixels: np.ndarray, charges: np.ndarray, downsample: int
) -> None:
    if downsample == 0:
        flat[pixels] = charges
        return
    np.add.at(flat, pixels, charges)
    # All are read before any is written, since pixels repeat.
    flat[pixels] = flat[pixels] * np.float32(0.25**downsample)


def _write_classes(
    flat: np.ndarray, pixels: np.ndarray, classes: np.ndarray, downsample: int
) -> None:
    if downsample == 0:
        flat[pixels] = classes
    else:
        np.maximum.at(flat, pixels, classes)
