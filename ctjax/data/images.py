"""Sparse voxels to dense images, pooled on the way where asked for.

Pixels are counted flat over an event's image [P, H, W] of the pooled size, so that
one assignment fills all planes. Numbers are those of larcv3 followed by CosmicTagger,
bit for bit.
"""

import numpy as np

from ctjax.constants import NUM_PLANES
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


def find_pixels(
    voxels: Voxels, image_shape: tuple[int, int], downsample: int
) -> np.ndarray:
    """Index of each voxel's pixel in the flat pooled image of all planes.

    Args:
      voxels: of one event, ids `column * H + row` of the stored shape.
      image_shape: rows H and columns W as stored.
      downsample: pooling by 2^d on each side.

    Returns:
      [V] int32 index into [P, H / 2^d, W / 2^d].
    """
    rows, columns = pooled_shape(image_shape, downsample)
    column = voxels.ids // np.int32(image_shape[0])
    row = voxels.ids - column * np.int32(image_shape[0])
    pixels = (row >> downsample) * np.int32(columns) + (column >> downsample)
    for plane in range(1, NUM_PLANES):
        pixels[voxels.planes[plane]] += np.int32(plane * rows * columns)
    return pixels


def fill_image(
    image: np.ndarray, pixels: np.ndarray, values: np.ndarray, downsample: int
) -> None:
    """Writes charges into an image of zeros.

    Without pooling the last of several values of a pixel stays. With it they are
    added one by one in float32, in the file's order, and the sum is divided by the
    area of the cell, stored or not: larcv3's PoolAverage.

    Args:
      image: [P, h, w] float32, C-contiguous.
      pixels: [V] int32, flat.
      values: [V] float32.
      downsample: pooling by 2^d on each side.
    """
    flat = image.reshape(-1)
    if downsample == 0:
        flat[pixels] = values
        return
    scale = np.float32(0.25**downsample)
    scaled = values * scale
    # A power of two divides sum and summands alike, unless digits of these are lost
    # below the smallest float32; then the sum is divided, all read before any is
    # written, since pixels repeat.
    if np.array_equal(scaled / scale, values):
        np.add.at(flat, pixels, scaled)
    else:
        np.add.at(flat, pixels, values)
        flat[pixels] = flat[pixels] * scale


def fill_label(
    label: np.ndarray, pixels: np.ndarray, classes: np.ndarray, downsample: int
) -> None:
    """Writes classes into a label of zeros; pooling takes the highest class.

    Args:
      label: [P, h, w] uint8, C-contiguous.
      pixels: [V] int32, flat.
      classes: [V] uint8.
      downsample: pooling by 2^d on each side.
    """
    flat = label.reshape(-1)
    if downsample == 0:
        flat[pixels] = classes
    else:
        np.maximum.at(flat, pixels, classes)


def clear(dense: np.ndarray, pixels: np.ndarray) -> None:
    """Sets pixels back to zero: far less to write than the whole image.

    Args:
      dense: [P, h, w] of any type, C-contiguous.
      pixels: [V] int32, flat.
    """
    dense.reshape(-1)[pixels] = 0
