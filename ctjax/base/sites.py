"""Names the arrays of a minibatch as lists of active sites, on host and device alike.

A site is a pixel of some image that is looked at; all others do not exist for a sparse
network. The sites of several events form one list, sorted by event, plane, column and
row. A list has places for more sites than there are, so that few sizes, hence few
compiled programs, serve all minibatches. In tables of N sites, N stands for no site.
"""

from typing import Any, NamedTuple

Array = Any
"""numpy's on the host, jax's on a device."""


class Level(NamedTuple):
    """Holds the sites of one resolution.

    Attributes:
      image: [N] int32, which image each is of, event * P + plane, ascending; E * P for
        places without a site. Where planes are merged, the event; E without a site.
      neighbours: [N, k * k] int32, the sites around each, itself in the middle, row
        after row: number (row + 1) * 3 + (column + 1) for k = 3. Neighbourhood is
        mutual: what is number t of a site has that site as number k * k - 1 - t.
    """

    image: Array
    neighbours: Array


class Coarsening(NamedTuple):
    """Says which sites of a level belong to one of the next level, which exists for it.

    Attributes:
      parts: [M, T] int32, the up to T sites of the finer level, N for no site. Of 2 x 2
        pixels number 2 * (row % 2) + column % 2, of planes the plane.
      place: [N] int32, where each finer site is in `parts`, counted flat; M * T for
        places without a site.
    """

    parts: Array
    place: Array


class Cells(NamedTuple):
    """Says where the sites of one level are in the images of that level.

    Attributes:
      site: [E * P, h, w] int32, the site in each pixel of that level, N for none.
      place: [N] int32, where each site is in `site`, counted flat; E * P * h * w for
        places without a site.
    """

    site: Array
    place: Array


class Sites(NamedTuple):
    """Holds the events of a minibatch, in Q parts that are computed each on its own.

    All arrays have the axis Q before those named here and above.

    Attributes:
      charge: [N] float32, 0 for places without a site.
      label: [N] uint8, classes.
      wide: [N, 25] int32, neighbours in 5 x 5 pixels of the first level.
      levels: depth + 2 of them: each halves the image; the last merges the planes.
      steps: depth + 1 of them, from each level to the next.
      empty: [E * P, K] int32, pixels of each image without a site, by their class.
      cells: of the level of a head's map; None where no head has one.
    """

    charge: Array
    label: Array
    wide: Array
    levels: tuple[Level, ...]
    steps: tuple[Coarsening, ...]
    empty: Array
    cells: Cells | None = None
