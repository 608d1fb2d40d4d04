"""Says what the heads of a network find, and reads an event's class and vertex off it.

Positions are (row, column). Those in cm are from the origin of the image's geometry,
which a file has; where nothing is known of it the unit is the pixel.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ctjax.base.detector import Detector
from ctjax.base.event_classes import UNKNOWN_CLASS
from ctjax.base.head_labels import UNKNOWN_CELL, HeadLabels, VertexLabel

NUM_VERTEX_SCORES = 3


class Outputs(NamedTuple):
    """Holds what a network with heads returns.

    Attributes:
      pixels: [B, P, H, W, K] float32, scores of the classes of pixels; of sites
        [Q, N, K].
      event: [B, 4] float32, scores of the classes of events; None without that head.
      vertex: [B, P, h, w, 3] float32, logits of a cell of the plane having the vertex,
        and of its row and column in the cell; None without that head.
    """

    pixels: jax.Array
    event: jax.Array | None = None
    vertex: jax.Array | None = None


def split(outputs: Any) -> Outputs:
    """Returns the outputs of a network with heads or without."""
    return outputs if isinstance(outputs, Outputs) else Outputs(outputs)


def vertex_of_label(label: VertexLabel, scores: jax.Array) -> jax.Array:
    """Returns the map of a label, [B, P, h, w] float32: 1 where the vertex is.

    Args:
      label: of B events.
      scores: [B, P, h, w, ...], of which the size matters alone.
    """
    cell, (rows, columns) = jnp.asarray(label.cell), scores.shape[2:4]
    is_row = jnp.arange(rows)[None, None] == cell[..., 0, None]
    is_column = jnp.arange(columns)[None, None] == cell[..., 1, None]
    return (is_row[..., :, None] & is_column[..., None, :]).astype(jnp.float32)


def own_cells(outputs: Outputs, detector: Detector, halvings: int) -> np.ndarray | None:
    """Says which cells have pixels of each plane, [P, h, w] bool; None for all.

    Args:
      outputs: of the network.
      detector: whose planes they are.
      halvings: as of `ActiveHeads`.
    """
    if detector.plane_shapes is None or outputs.vertex is None:
        return None
    rows, columns = outputs.vertex.shape[2:4]
    row, column = np.ogrid[:rows, :columns]
    row, column = row * 2**halvings, column * 2**halvings
    return np.stack([(row < h) & (column < w) for h, w in detector.plane_shapes])


def best_cell(detection: jax.Array, is_own: np.ndarray | None = None) -> jax.Array:
    """Returns the cell of the largest score, the first where several are alike.

    Args:
      detection: [B, P, h, w] float32.
      is_own: see `own_cells`.

    Returns:
      [B, P] int32, counted row after row.
    """
    if is_own is not None:
        detection = jnp.where(is_own[None], detection, -jnp.inf)
    return jnp.argmax(detection.reshape(*detection.shape[:2], -1), -1)


def locate_vertex(
    scores: jax.Array, label: VertexLabel, is_own: np.ndarray | None = None
) -> jax.Array:
    """Reads the position of each plane's vertex off a map.

    Args:
      scores: [B, P, h, w, 3] float32, as of `Outputs.vertex`.
      label: for the geometry alone.
      is_own: see `own_cells`.

    Returns:
      [B, P, 3] float32: row and column in cm, and the score of the cell, from 0 to 1.
    """
    scores = jax.nn.sigmoid(scores)
    best = best_cell(scores[..., 0], is_own)
    flat = scores.reshape(*scores.shape[:2], -1, NUM_VERTEX_SCORES)
    of_cell = jnp.take_along_axis(flat, best[..., None, None], 2)[:, :, 0]
    cell = jnp.stack(jnp.divmod(best, scores.shape[3]), -1)
    position = label.origin + (cell + of_cell[..., 1:]) * label.cell_size
    return jnp.concatenate([position, of_cell[..., :1]], -1)


def unknown_label(outputs: Outputs, halvings: int) -> HeadLabels:
    """Returns labels of events of which nothing is known; the unit is the pixel.

    Args:
      outputs: of the network.
      halvings: as of `ActiveHeads`.
    """
    event = vertex = None
    if outputs.event is not None:
        event = jnp.full(len(outputs.event), UNKNOWN_CLASS, jnp.int32)
    if outputs.vertex is not None:
        shape = *outputs.vertex.shape[:2], 2
        vertex = VertexLabel(
            position=jnp.full(shape, jnp.nan),
            cell=jnp.full(shape, UNKNOWN_CELL, jnp.int32),
            offset=jnp.zeros(shape),
            origin=jnp.zeros(shape),
            cell_size=jnp.full(shape, 2.0**halvings),
        )
    return HeadLabels(event, vertex)
