"""Puts the lists of several events into one, of which places may stay empty."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ctjax.base.detector import COSMIC_TAGGER, Detector, ImageShape
from ctjax.base.sites import Cells, Coarsening, Level, Sites
from ctjax.data import native
from ctjax.data.minibatch import SiteForm
from ctjax.data.site_lists import (
    SiteList,
    count_sites,
    find_neighbours,
    level_shapes,
    plane_of_each,
)

WIDE = 5
"""Side of the square of pixels around each site that a network sees first."""

NARROW = 3
"""Side of that square at all levels before the planes are merged."""

INNER = np.arange(WIDE * WIDE).reshape(WIDE, WIDE)[1:-1, 1:-1].reshape(-1)
"""Numbers in the large square of the pixels in the small one."""


class JoinedSites(NamedTuple):
    """Holds the arrays of one minibatch, as HostMinibatch has them."""

    sites: Sites
    site_ids: np.ndarray


def make_arrays(
    form: SiteForm,
    size: int,
    places: Sequence[int],
    image_shape: ImageShape,
    detector: Detector = COSMIC_TAGGER,
) -> JoinedSites:
    """Makes arrays that hold whatever the memory does.

    Args:
      form: of the lists.
      size: E, events of a part.
      places: for sites, by level.
      image_shape: rows and columns of the first level.
      detector: whose P planes and K classes they are.
    """

    def empty(*shape: int, dtype: Any = np.int32) -> np.ndarray:
        return np.empty((form.parts, *shape), dtype)

    sides = [NARROW] * (form.depth + 1) + [form.deepest_size]
    widths = [4] * form.depth + [detector.num_planes]
    finest, num_images = places[0], size * detector.num_planes
    cells = None
    if form.map_level is not None:
        shape = level_shapes(image_shape, form.depth)[form.map_level]
        cells = Cells(empty(num_images, *shape), empty(places[form.map_level]))
    sites = Sites(
        charge=empty(finest, dtype=np.float32),
        label=empty(finest, dtype=np.uint8),
        wide=empty(finest, WIDE * WIDE),
        levels=tuple(
            Level(empty(count), empty(count, side * side))
            for count, side in zip(places, sides, strict=True)
        ),
        steps=tuple(
            Coarsening(empty(coarse, width), empty(fine))
            for coarse, fine, width in zip(places[1:], places[:-1], widths, strict=True)
        ),
        empty=empty(num_images, detector.num_classes),
        cells=cells,
    )
    return JoinedSites(sites, empty(finest))


def count_places(sites: Sites) -> list[int]:
    """Returns the number of places at each level."""
    return [level.image.shape[-1] for level in sites.levels]


def join_parts(
    events: Sequence[SiteList],
    num_pixels: int,
    out: JoinedSites,
    map_level: int | None = None,
) -> JoinedSites:
    """Writes the events of a minibatch into its parts, which take them in order.

    Args:
      events: B of them.
      num_pixels: H * W.
      out: with places for all sites of each part; every number is written.
      map_level: of the form that `out` has been made for.

    Returns:
      The very same arrays.
    """
    num_parts = len(out.site_ids)
    size = len(events) // num_parts
    for part in range(num_parts):
        of_part = events[part * size : (part + 1) * size]
        join_events(of_part, part_of(out.sites, part), map_level)
        ids = np.concatenate([event.grids[0].ids for event in of_part])
        out.site_ids[part, : len(ids)] = ids
        out.site_ids[part, len(ids) :] = num_pixels
    return out


def part_of(sites: Sites, part: int) -> Sites:
    """Takes one part out of the axis Q."""
    return Sites(
        charge=sites.charge[part],
        label=sites.label[part],
        wide=sites.wide[part],
        levels=tuple(
            Level(*(array[part] for array in level)) for level in sites.levels
        ),
        steps=tuple(Coarsening(*(array[part] for array in s)) for s in sites.steps),
        empty=sites.empty[part],
        cells=sites.cells and Cells(*(array[part] for array in sites.cells)),
    )


def join_events(
    events: Sequence[SiteList], out: Sites, map_level: int | None = None
) -> None:
    """Writes events one after the other into the lists of a part.

    Neighbours are found where they are to be: nothing of their size is copied.

    Args:
      events: E of them.
      out: without the axis Q, with places for all sites; every number is written.
      map_level: as in `join_parts`.
    """
    places = count_places(out)
    num_planes = len(out.empty) // len(events)
    images = [num_planes] * (len(places) - 1) + [1]
    first = [0] * len(places)
    for number, event in enumerate(events):
        counts = count_sites(event)
        spans = [slice(f, f + count) for f, count in zip(first, counts, strict=True)]
        out.charge[spans[0]] = event.charge
        out.label[spans[0]] = event.label
        out.empty[number * num_planes : (number + 1) * num_planes] = event.empty
        _write_neighbours(event, spans, out)
        for level, (grid, span) in enumerate(zip(event.grids, spans, strict=True)):
            image = out.levels[level].image[span]
            np.add(plane_of_each(grid), number * images[level], out=image)
        for level, step in enumerate(event.steps):
            fine, coarse = spans[level : level + 2]
            parts, place = out.steps[level]
            width, none = parts.shape[1], (counts[level], places[level])
            _renumber(step.parts, first[level], none, parts[coarse])
            # All fine sites have a place; no number stands for none.
            shift = first[level + 1] * width
            np.add(step.place, np.int32(shift), out=place[fine])
        if map_level is not None:
            _write_cells(event, number, map_level, first[map_level], out)
        first = [span.stop for span in spans]
    _pad(out, first, [len(events) * num for num in images])


def _write_neighbours(event: SiteList, spans: list[slice], out: Sites) -> None:
    """Finds the neighbours of an event's sites, which are to be at some places."""
    finest, *coarser = event.grids
    wide, narrow = out.wide[spans[0]], out.levels[0].neighbours[spans[0]]
    find_neighbours(finest, WIDE, spans[0].start, len(out.wide), wide)
    # Numbers are all in range; to check that, numpy would make a copy first.
    np.take(wide, INNER, axis=1, out=narrow, mode="clip")
    for grid, span, level in zip(coarser, spans[1:], out.levels[1:], strict=True):
        table = level.neighbours
        size = math.isqrt(table.shape[1])
        find_neighbours(grid, size, span.start, len(table), table[span])


def _write_cells(
    event: SiteList, number: int, level: int, first: int, out: Sites
) -> None:
    """Writes which pixels of a level are an event's sites, and which are none.

    Args:
      event: number `number` of the part.
      number: likewise.
      level: of the map.
      first: number of the event's first site of that level among all.
      out: of the part.
    """
    assert out.cells is not None
    grid = event.grids[level]
    num_rows, num_columns = grid.image_shape
    column, row = np.divmod(grid.ids, np.int32(num_rows))
    images = slice(number * len(event.empty), (number + 1) * len(event.empty))
    image = images.start + plane_of_each(grid)
    count, cells = len(grid.ids), out.cells
    cells.site[images] = len(cells.place)
    cells.site[image, row, column] = np.arange(first, first + count)
    place = (image * num_rows + row) * num_columns + column
    cells.place[first : first + count] = place


def _pad(out: Sites, counts: list[int], num_images: list[int]) -> None:
    """Writes what stands for no site at the places beyond those taken.

    Args:
      out: of one part.
      counts: places taken, by level.
      num_images: of a part, by level.
    """
    out.charge[counts[0] :] = 0
    out.label[counts[0] :] = 0
    out.wide[counts[0] :] = len(out.wide)
    for level, count, num in zip(out.levels, counts, num_images, strict=True):
        level.image[count:] = num
        level.neighbours[count:] = len(level.neighbours)
    if out.cells is not None:
        count = np.count_nonzero(out.cells.site != len(out.cells.place))
        out.cells.place[count:] = out.cells.site.size
    for number, step in enumerate(out.steps):
        step.parts[counts[number + 1] :] = len(step.place)
        step.place[counts[number] :] = step.parts.size


def _renumber(
    numbers: np.ndarray, shift: int, absent: tuple[int, int], out: np.ndarray
) -> None:
    """Writes numbers of an event's sites as those among all.

    Args:
      numbers: of any shape, int32.
      shift: what to add.
      absent: the number that stands for no site, of the event and of all.
      out: of the same shape.
    """
    if not native.renumber(numbers, shift, absent, out):
        np.add(numbers, np.int32(shift), out=out)
        out[numbers == absent[0]] = absent[1]
