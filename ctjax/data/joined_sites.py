"""Puts the lists of several events into one, of which places may stay empty."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ctjax.base.constants import NUM_CLASSES, NUM_PLANES
from ctjax.base.sites import Coarsening, Level, Sites
from ctjax.data import native
from ctjax.data.minibatch import SiteForm
from ctjax.data.site_lists import NARROW, WIDE, EventSites, count_sites


class JoinedSites(NamedTuple):
    """Holds the arrays of one minibatch, as HostMinibatch has them."""

    sites: Sites
    site_ids: np.ndarray


class _Table(NamedTuple):
    """Holds an array that names sites by numbers.

    Attributes:
      numbers: [N] or [N, ...] int32.
      level: of its rows.
      of_level: of the sites that it names.
      factor: how many numbers there are for each of these.
    """

    numbers: np.ndarray
    level: int
    of_level: int
    factor: int = 1


def make_arrays(form: SiteForm, size: int, places: Sequence[int]) -> JoinedSites:
    """Makes arrays that hold whatever the memory does.

    Args:
      form: of the lists.
      size: E, events of a part.
      places: for sites, by level.
    """

    def empty(*shape: int, dtype: Any = np.int32) -> np.ndarray:
        return np.empty((form.parts, *shape), dtype)

    sides = [NARROW] * (form.depth + 1) + [form.deepest_size]
    widths = [4] * form.depth + [NUM_PLANES]
    finest = places[0]
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
        empty=empty(size * NUM_PLANES, NUM_CLASSES),
    )
    return JoinedSites(sites, empty(finest))


def join_parts(
    events: Sequence[EventSites], num_pixels: int, out: JoinedSites
) -> JoinedSites:
    """Writes the events of a minibatch into its parts, which take them in order.

    Args:
      events: B of them.
      num_pixels: H * W.
      out: with places for all sites of each part; every number is written.

    Returns:
      The very same arrays.
    """
    num_parts = len(out.site_ids)
    size = len(events) // num_parts
    for part in range(num_parts):
        of_part = events[part * size : (part + 1) * size]
        sites = part_of(out.sites, part)
        join_events([sites for sites, _ in of_part], sites)
        ids = np.concatenate([ids for _, ids in of_part])
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
    )


def join_events(events: Sequence[Sites], out: Sites) -> None:
    """Writes events one after the other into the lists of a part.

    Args:
      events: E of them, with as many places as sites.
      out: without the axis Q, with places for all sites; every number is written.
    """
    places = count_sites(out)
    num_planes = len(out.empty) // len(events)
    images = [num_planes] * (len(places) - 1) + [1]
    first = [0] * len(places)
    for number, event in enumerate(events):
        counts = count_sites(event)
        spans = [slice(f, f + count) for f, count in zip(first, counts, strict=True)]
        out.charge[spans[0]] = event.charge
        out.label[spans[0]] = event.label
        out.empty[number * num_planes : (number + 1) * num_planes] = event.empty
        for level, (span, num) in enumerate(zip(spans, images, strict=True)):
            image = out.levels[level].image[span]
            np.add(event.levels[level].image, number * num, out=image)
        for table, of_event in zip(_tables(out), _tables(event), strict=True):
            of, factor = table.of_level, table.factor
            _renumber(
                of_event.numbers,
                first[of] * factor,
                (counts[of] * factor, places[of] * factor),
                table.numbers[spans[table.level]],
            )
        first = [span.stop for span in spans]
    out.charge[first[0] :] = 0
    out.label[first[0] :] = 0
    for level, num in enumerate(images):
        out.levels[level].image[first[level] :] = len(events) * num
    for table in _tables(out):
        absent = places[table.of_level] * table.factor
        table.numbers[first[table.level] :] = absent


def _tables(sites: Sites) -> Iterator[_Table]:
    """Yields all tables of a part."""
    yield _Table(sites.wide, 0, 0)
    for number, level in enumerate(sites.levels):
        yield _Table(level.neighbours, number, number)
    for number, step in enumerate(sites.steps):
        yield _Table(step.parts, number + 1, number)
        yield _Table(step.place, number, number + 1, step.parts.shape[1])


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
