"""Says which pixels of padded images count in statistics.

A plane that is smaller than the image has its own pixels in the image's first rows and
columns; behind them lies padding, which no statistics count.
"""

import dataclasses
import enum

import jax
import jax.numpy as jnp
import numpy as np

from ctjax.base.detector import ImageShape


class PlaneAxis(enum.Enum):
    """Where the planes of an event are in an array."""

    IMAGES = "[B x P, H, W, C]: each plane is an image"
    NOWHERE = "[B, H, W, C]: a pixel is of all planes that have it"
    FEATURES = "[B, H, W, P x C]: each plane has its features"


@dataclasses.dataclass(frozen=True)
class OwnPixels:
    """Tells the planes' own pixels from padding, at every level of a network.

    Attributes:
      image_shape: (H, W) of the images that enter the network.
      plane_shapes: as in `Detector`, of those images.
      planes: where the planes are.
    """

    image_shape: ImageShape
    plane_shapes: tuple[ImageShape, ...]
    planes: PlaneAxis = PlaneAxis.IMAGES

    def mask(self, shape: tuple[int, ...], features: int) -> jax.Array:
        """Says which pixels are a plane's own.

        Args:
          shape: of an array of the level, [N, H, W, C], or [N, H, W / s, s C] where
            columns are features (`kernels.columns`).
          features: C.

        Returns:
          Bool, to be broadcast to that shape; of N images or of one.
        """
        images, height, width, wide = shape
        columns = wide // features
        rows, ends = self._ends(height, width * columns)
        inside = (
            jnp.asarray(np.arange(height) < rows[:, None])[:, :, None]
            & jnp.asarray(np.arange(width * columns) < ends[:, None])[:, None, :]
        )
        if self.planes is PlaneAxis.IMAGES:
            inside = jnp.tile(inside, (images // len(rows), 1, 1))[..., None]
        elif self.planes is PlaneAxis.NOWHERE:
            inside = inside.any(0)[None, ..., None]
        else:
            inside = jnp.repeat(inside, features // len(rows), 0)
            inside = jnp.moveaxis(inside, 0, -1)[None]
        if columns == 1:
            return inside
        inside = jnp.broadcast_to(inside, (*inside.shape[:3], features))
        return inside.reshape(*inside.shape[:2], width, wide)

    def mask_of(self, x: jax.Array) -> jax.Array:
        """Says the same of every value of an array [N, H, W, C]."""
        return jnp.broadcast_to(self.mask(x.shape, x.shape[-1]), x.shape)

    def count(self, shape: tuple[int, ...], features: int) -> np.ndarray:
        """Counts them for each image and, where these differ, each feature.

        Args:
          shape: as above.
          features: likewise.

        Returns:
          [N, 1] or [N, C] int.
        """
        images, height, width, wide = shape
        rows, ends = self._ends(height, width * wide // features)
        if self.planes is PlaneAxis.IMAGES:
            return np.tile(rows * ends, images // len(rows))[:, None]
        if self.planes is PlaneAxis.FEATURES:
            return np.tile(np.repeat(rows * ends, features // len(rows)), (images, 1))
        # Of the planes that reach a row, the widest has all pixels of the others.
        reach = [ends[rows > row].max(initial=0) for row in range(height)]
        return np.full((images, 1), sum(reach))

    def _ends(self, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns how many rows and columns each plane has at a level of that size."""
        whole, level = np.array(self.image_shape), np.array([height, width])
        rows, columns = -(-np.array(self.plane_shapes) * level // whole).T
        return rows, columns
