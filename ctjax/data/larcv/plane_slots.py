"""Finds which images a file has of an event, and which of those asked for each is.

An event may have several images of one projection id, as those of several TPCs.
"""

from collections.abc import Sequence

import numpy as np

from ctjax.base.detector import ImageShape
from ctjax.data.larcv.errors import BadEvents, Place

NOT_CHOSEN = -1
"""In place of a number: an image that is not read."""

MAX_PLANES = 64
"""Larger projection ids are taken for damage."""


def find_planes(projection_ids: np.ndarray) -> tuple[int, ...]:
    """Finds the planes of a file, 0 and up.

    An id that fewer than half as many images have as the most frequent one is damage,
    or a plane of few events, which has to be asked for.

    Args:
      projection_ids: [R] int64, of all images of all events.
    """
    known = (projection_ids >= 0) & (projection_ids < MAX_PLANES)
    counts = np.bincount(projection_ids[known], minlength=1)
    is_plane = 2 * counts >= max(1, counts.max())
    return tuple(range(int(np.append(is_plane, False).argmin())))


def find_slots(
    projection_ids: np.ndarray,
    entries: np.ndarray,
    planes: Sequence[int] | None,
    place: Place,
    bad: BadEvents,
) -> tuple[tuple[int, ...], np.ndarray]:
    """Says which of the images asked for each image is.

    Args:
      projection_ids: [R] int64, in the order of the events.
      entries: [R] int64, the event of each, ascending.
      planes: projection ids asked for; one that is named again is the event's next
        image of that id. None for all planes of the file, once each.
      place: of the table, for errors.
      bad: takes events with other images.

    Returns:
      The planes, and [R] int64 the place of each image among them; NOT_CHOSEN for what
      is not asked for and for events that are bad.
    """
    chosen = find_planes(projection_ids) if planes is None else tuple(planes)
    occurrence = _count_before(projection_ids, entries)
    slots = np.full(len(projection_ids), NOT_CHOSEN)
    seen: dict[int, int] = {}
    for slot, plane in enumerate(chosen):
        number = seen.get(plane, 0)
        seen[plane] = number + 1
        slots[(projection_ids == plane) & (occurrence == number)] = slot
    is_named = np.isin(projection_ids, list(seen))
    wrong = (slots == NOT_CHOSEN) & (is_named | (planes is None))
    for row in first_by_entry(wrong, entries):
        plane = int(projection_ids[row])
        if plane not in seen:
            usual = f"{', '.join(map(str, chosen))}, or " if chosen else ""
            expected = f"{usual}others by data.planes"
            bad.add(int(entries[row]), place, f"projection_id = {plane}", expected)
            continue
        count = int((projection_ids[entries == entries[row]] == plane).sum())
        times = "twice" if count == 2 else f"{count} times"
        often = "once" if seen[plane] == 1 else f"{seen[plane]} times"
        bad.add(
            int(entries[row]),
            place,
            f"projection_id = {plane} {times}",
            "each plane once (data.planes may name one again)"
            if planes is None
            else f"{often} as in data.planes",
        )
    return chosen, slots


def find_shapes(
    number_of_voxels: np.ndarray,
    slots: np.ndarray,
    entries: np.ndarray,
    planes: Sequence[int],
    place: Place,
    bad: BadEvents,
) -> list[ImageShape | None]:
    """Returns rows and columns of each plane, those that most of its images have.

    Args:
      number_of_voxels: [R, 2] int64, columns and rows.
      slots: [R] int64, the place of each image among the planes.
      entries: [R] int64, the event of each.
      planes: projection ids.
      place: of the table, for errors.
      bad: takes events with other sizes.

    Returns:
      None for a plane without any image.
    """
    shapes: list[ImageShape | None] = []
    for slot, plane in enumerate(planes):
        rows = np.flatnonzero(slots == slot)
        if not rows.size:
            shapes.append(None)
            continue
        sizes = number_of_voxels[rows]
        usual = find_usual_size(sizes)
        other = (sizes != usual).any(1)
        for row in rows[first_by_entry(other, entries[rows])].tolist():
            bad.add(
                int(entries[row]),
                place,
                f"number_of_voxels = {number_of_voxels[row].tolist()}",
                f"{usual.tolist()} as in most events of plane {plane}",
            )
        # The file counts wires first; images have drift ticks as rows.
        shapes.append((int(usual[1]), int(usual[0])))
    return shapes


def find_usual_size(sizes: np.ndarray) -> np.ndarray:
    """Returns the size, [2], that most of the images of a plane have, [R, 2]."""
    found, first, counts = np.unique(
        sizes, axis=0, return_index=True, return_counts=True
    )
    # Of two that are as frequent, the one that comes first.
    return found[np.lexsort((first, -counts))[0]]


def first_by_entry(is_wrong: np.ndarray, entries: np.ndarray) -> np.ndarray:
    """Returns the first row of each event that is wrong somewhere.

    Args:
      is_wrong: [R] bool.
      entries: [R] int64, ascending.
    """
    rows = np.flatnonzero(is_wrong)
    return rows[np.unique(entries[rows], return_index=True)[1]]


def _count_before(projection_ids: np.ndarray, entries: np.ndarray) -> np.ndarray:
    """Counts, for each image, those of its event and id that come before it."""
    order = np.lexsort((np.arange(len(entries)), projection_ids, entries))
    keys = np.stack([entries[order], projection_ids[order]], 1)
    starts = np.append(True, (keys[1:] != keys[:-1]).any(1))[: len(keys)]
    positions = np.arange(len(keys))
    counts = positions - np.maximum.accumulate(np.where(starts, positions, 0))
    result = np.empty(len(keys), np.int64)
    result[order] = counts
    return result


def take_planes(
    rows: np.ndarray, planes: tuple[slice, ...]
) -> tuple[np.ndarray, tuple[slice, ...]]:
    """Leaves out the rows of images that are not asked for."""
    ends = np.cumsum([0, *(plane.stop - plane.start for plane in planes)]).tolist()
    kept = np.concatenate([rows[plane] for plane in planes])
    return kept, tuple(map(slice, ends, ends[1:]))


def are_within(ids: np.ndarray, planes: Sequence[slice], sizes: Sequence[int]) -> bool:
    """Says whether ids that ascend in each plane end within each plane's pixels."""
    last = [int(ids[p.stop - 1]) if p.stop > p.start else -1 for p in planes]
    return all(id < size for id, size in zip(last, sizes, strict=True))


def check_ids(
    ids: np.ndarray, planes: Sequence[slice], sizes: Sequence[int], place: Place
) -> None:
    """Raises LarcvFileError where ids in any order are beyond their plane's pixels."""
    for plane, size in zip(planes, sizes, strict=True):
        own = ids[plane]
        if len(own) and not 0 <= own.min() <= own.max() < size:
            place.fail(f"ids from {own.min()} to {own.max()}", f"0 to {size - 1}")
