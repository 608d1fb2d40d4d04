"""Names the labels of a network's heads, on host and device alike.

Positions are (row, column). Those in cm are from the origin of the image's geometry.
"""

from typing import Any, NamedTuple

Array = Any
"""numpy's on the host, jax's on a device."""

NO_CELL, UNKNOWN_CELL = -1, -2
"""In place of the row and column of a cell: there is no vertex, nothing is known."""


class VertexLabel(NamedTuple):
    """Holds where the vertices of events are, and the geometry of their images.

    Attributes:
      position: [B, P, 2] float32, in cm; not a number where a plane has no vertex.
      cell: [B, P, 2] int32, of the map of the head; `NO_CELL` where there is none,
        `UNKNOWN_CELL` where nothing is known.
      offset: [B, P, 2] float32, in the cell, from 0 to 1; 0 where there is none.
      origin: [B, P, 2] float32, of the image, in cm.
      cell_size: [B, P, 2] float32, in cm.
    """

    position: Array
    cell: Array
    offset: Array
    origin: Array
    cell_size: Array


class HeadLabels(NamedTuple):
    """Holds the labels of the heads that a network has; of others None.

    Attributes:
      event: [B] int32, class of the event, -1 where unknown.
      vertex: of the vertices.
    """

    event: Array | None = None
    vertex: VertexLabel | None = None
