"""Reads minibatches as lists of sites, several events in one list.

The lists of all minibatches are of one size, which is chosen from a few events. Where
that is too little for a minibatch its own are larger; no site is ever left out. Their
size is of the minibatch alone, whatever came before: sums over longer lists are rounded
otherwise, and a run that goes on would not end bit for bit as one without a break.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np

from ctjax.data.forms import Arrays, Lending, Submit
from ctjax.data.joined_sites import (
    JoinedSites,
    count_places,
    join_parts,
    make_arrays,
)
from ctjax.data.larcv.file import LarcvFileError
from ctjax.data.minibatch import HostMinibatch, SiteForm
from ctjax.data.order import PADDING
from ctjax.data.site_lists import SiteList, count_sites, level_shapes, list_no_sites
from ctjax.data.sources import EventSource
from ctjax.data.sparse import capacity_for

logger = logging.getLogger("ctjax")

SAMPLED_EVENTS = 16
"""Events by which the first sizes are chosen."""

MARGIN = 1.1
"""Places for each site of the largest event or minibatch seen, before rounding."""


class SiteLists:
    """Reads lists of sites: events on threads, and what joins them on one of these."""

    def __init__(self, source: EventSource, form: SiteForm, num_spare: int):
        """Takes the events and how many minibatches' arrays to keep."""
        self._source = source
        self._form = form
        self._lending: Lending[JoinedSites] = Lending(num_spare)
        self._no_event = list_no_sites(source.detector, form.depth)
        self._minibatch_size = 0
        self._sample: list[Future] = []
        self._places: tuple[int, ...] = ()
        self._known: set[tuple[int, ...]] = set()
        self._turn = threading.Event()
        self._turn.set()

    def start(
        self, entries: np.ndarray, submit: Submit
    ) -> tuple[list[Future], Callable[[list], Arrays]]:
        """Starts to read the events and to join them.

        Raises:
          ValueError: where they cannot be cut into equal parts, or are not as many as
            before.
        """
        self._check_size(len(entries))
        if self._form.is_alone and not self._sample:
            chosen = sampled_entries(self._source.num_events)
            self._sample = [submit(self._count, entry) for entry in chosen]
        events = [
            None if entry == PADDING else submit(self._read, entry)
            for entry in entries.tolist()
        ]
        # Places are logged in the order of the minibatches, whichever is read first.
        # What a task waits for was submitted before it: it is under way already.
        before, self._turn = self._turn, threading.Event()
        joined = submit(self._join, entries, events, before, self._turn)
        return [joined], lambda results: self._lend(*results)

    def release(self, minibatch: HostMinibatch) -> None:
        """Takes the arrays back."""
        self._lending.give_back(minibatch.site_ids)

    def close(self) -> None:
        """Forgets all arrays."""
        self._lending.clear()

    def _check_size(self, minibatch_size: int) -> None:
        expected = self._minibatch_size or minibatch_size
        if minibatch_size != expected or minibatch_size % self._form.parts:
            raise ValueError(
                f"found a minibatch of {minibatch_size} events, expected {expected} "
                f"in {self._form.parts} equal parts"
            )
        self._minibatch_size = minibatch_size

    def _lend(self, arrays: JoinedSites) -> Arrays:
        site_ids = self._lending.lend(arrays.site_ids, arrays)
        return {"sites": arrays.sites, "site_ids": site_ids}

    def _read(self, entry: int) -> SiteList:
        """Reads one event; runs on a thread."""
        return self._source.read_sites(entry, self._form.depth)

    def _count(self, entry: int) -> list[int]:
        """Counts an event's sites by level; runs on a thread."""
        try:
            return count_sites(self._read(entry))
        except LarcvFileError:
            # A damaged event stops only who asks for it.
            return count_sites(self._no_event)

    def _join(
        self,
        entries: np.ndarray,
        tasks: list[Future | None],
        before: threading.Event,
        turn: threading.Event,
    ) -> JoinedSites:
        """Waits for the events and puts them into lists; runs on a thread."""
        try:
            before.wait()
            events = [task.result() if task else self._no_event for task in tasks]
            places = self._make_room(entries, events)
        finally:
            turn.set()
        arrays = self._lending.take(lambda free: count_places(free.sites) == [*places])
        if arrays is None:
            size = len(entries) // self._form.parts
            source = self._source
            kind = source.image_shape, source.detector
            arrays = make_arrays(self._form, size, places, *kind)
        height, width = self._source.image_shape
        return join_parts(events, height * width, arrays, self._form.map_level)

    def _make_room(
        self, entries: np.ndarray, events: list[SiteList]
    ) -> tuple[int, ...]:
        """Returns places by level that are enough for every part, and logs changes."""
        parts = self._form.parts
        size = len(events) // parts
        counts = np.array([count_sites(event) for event in events])
        needed = counts.reshape(parts, size, -1).sum(1)
        image_shape, depth = self._source.image_shape, self._form.depth
        num_planes = self._source.detector.num_planes
        pixels = pixels_by_level(image_shape, depth, num_planes)
        possible = [size * count for count in pixels]
        places = self._places
        if not places:
            if self._form.is_alone:
                sample = [task.result() for task in self._sample]
                places = places_for(size * np.max(sample, 0), possible)
            else:
                most = size * num_planes * self._source.max_pixels
                places = certain_places(most, possible)
            self._places = places
            words = "Sites by level: up to %s; events in one list: %d"
            logger.info(words, _listed(places), size)
        if (needed <= places).all():
            return places
        if not self._form.is_alone:
            part, level = np.argwhere(needed > places)[0].tolist()
            entry = part * size + counts[part * size :][:size, level].argmax()
            self._refuse(int(entries[entry]), level, needed[part, level], places)
        larger = doubled(places, needed.max(0), possible)
        if larger not in self._known:
            self._known.add(larger)
            logger.info(
                "Sites by level: up to %s instead of %s, for a minibatch with %s; the "
                "step is compiled again",
                *map(_listed, (larger, places, needed.max(0))),
            )
        return larger

    def _refuse(self, entry: int, level: int, found: int, places: tuple[int, ...]):
        """Raises the error of a minibatch for which there is no place."""
        raise LarcvFileError(
            f"{self._source.file_of(entry)}, entry {entry}: found {found} sites at "
            f"level {level} of this and the events beside it, expected at most "
            f"{places[level]} in a run of several processes"
        )


def sampled_entries(num_events: int) -> list[int]:
    """Chooses up to SAMPLED_EVENTS events, spread evenly over all."""
    count = min(SAMPLED_EVENTS, num_events)
    return np.linspace(0, num_events - 1, count).round().astype(int).tolist()


def pixels_by_level(
    image_shape: tuple[int, int], depth: int, num_planes: int
) -> list[int]:
    """Counts an event's pixels at each level: the most sites that it can have.

    Args:
      image_shape: rows and columns of the first level.
      depth: how often the image is halved.
      num_planes: P.

    Returns:
      depth + 2 numbers; at the last level all planes are one.
    """
    shapes = level_shapes(image_shape, depth)
    pixels = [rows * columns for rows, columns in shapes]
    return [*(num_planes * count for count in pixels[:-1]), pixels[-1]]


def places_for(needed: Sequence[int], possible: Sequence[int]) -> tuple[int, ...]:
    """Chooses places, by level, for what is needed and somewhat more.

    Args:
      needed: sites of the largest part.
      possible: sites of a part that are all pixels.

    Returns:
      One of few numbers, or what is possible.
    """
    return tuple(
        min(capacity_for(int(MARGIN * count)), most)
        for count, most in zip(needed, possible, strict=True)
    )


def doubled(
    places: Sequence[int], needed: Sequence[int], possible: Sequence[int]
) -> tuple[int, ...]:
    """Doubles places, at all levels together, until they are enough.

    Args:
      places: by level.
      needed: sites of the largest part, at most what is possible.
      possible: sites of a part that are all pixels.
    """
    while any(count > there for count, there in zip(needed, places, strict=True)):
        places = [min(2 * n, most) for n, most in zip(places, possible, strict=True)]
    return tuple(places)


def certain_places(most: int, possible: Sequence[int]) -> tuple[int, ...]:
    """Chooses places, by level, that are never too few.

    All processes must come to the same numbers without a word between them.

    Args:
      most: sites of a part at the first level.
      possible: sites of a part that are all pixels.
    """
    return tuple(min(capacity_for(most), count) for count in possible)


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(str(number) for number in numbers)
