"""Lists the images of a sparse2d product: planes, sizes, voxels, values, labels.

Where the voxels lie is known of every event, values are read of some of them.
"""

import dataclasses

import h5py
import numpy as np

from ctjax.config.detectors import MAX_PLANES
from ctjax.data.larcv.chunks import RowReader
from ctjax.data.larcv.errors import Place
from ctjax.data.larcv.listed_rows import (
    Rows,
    check_rows,
    noting,
    read_rows,
)
from ctjax.data.larcv.plane_slots import find_usual_size
from ctjax.data.larcv.tables import OpenMode, open_table

MAX_LABELS = 32
"""More different whole numbers are charges."""

MAX_SAMPLED_EVENTS = 256

Geometry = tuple[tuple[float, float], tuple[float, float]]
"""image_sizes and origin, each of wires and ticks, in the unit of the file."""


@dataclasses.dataclass(frozen=True)
class Values:
    """Sums up the finite values of the voxels that were looked at.

    Attributes:
      count: their number.
      lowest: value.
      highest: value.
      mean: of the values.
      median_size: median of the values without their sign.
      labels: voxels of each value, where the values are few whole numbers.
    """

    count: int
    lowest: float
    highest: float
    mean: float
    median_size: float
    labels: dict[int, int] | None


@dataclasses.dataclass(frozen=True)
class Plane:
    """Says what the images of one plane are.

    Attributes:
      projection: its id.
      size: wires and ticks, of most events that have the plane; None if unknown.
      num_images: events that have it.
      num_empty: images of those without a voxel.
      num_voxels: of all events.
      most_voxels: of one event.
      geometry: None where the file has none.
      values: of the voxels that were looked at; None where there were none.
    """

    projection: int
    size: tuple[int, int] | None
    num_images: int
    num_empty: int
    num_voxels: int
    most_voxels: int
    geometry: Geometry | None
    values: Values | None


@dataclasses.dataclass(frozen=True)
class Images:
    """Says what the images of a product are.

    Attributes:
      planes: in the order of their ids.
      num_events: that the index speaks of.
      num_empty: events without a voxel.
      bad_entries: events of which something is wrong, as far as they were looked at.
      problems: a line for each kind of what is wrong with them.
      num_sampled_events: those whose voxels were read.
      num_sampled_voxels: of these events.
      repeats: images of one plane that most events have.
    """

    planes: tuple[Plane, ...]
    num_events: int
    num_empty: int
    bad_entries: frozenset[int]
    problems: tuple[str, ...]
    num_sampled_events: int
    num_sampled_voxels: int
    repeats: int

    @property
    def num_voxels(self) -> int:
        """Returns the voxels of all planes and events."""
        return sum(plane.num_voxels for plane in self.planes)

    @property
    def labels(self) -> dict[int, int] | None:
        """Returns the voxels of each label; None where some values are no labels."""
        counts: dict[int, int] = {}
        for plane in self.planes:
            if plane.values is not None:
                if plane.values.labels is None:
                    return None
                for label, count in plane.values.labels.items():
                    counts[label] = counts.get(label, 0) + count
        return dict(sorted(counts.items())) if 0 < len(counts) <= MAX_LABELS else None


def read(
    group: h5py.Group,
    max_sample: int,
    place: Place,
    mode: OpenMode,
    problems: list[str],
) -> Images | None:
    """Lists the images of a product.

    Args:
      group: of the product.
      max_sample: voxels to read at most, spread over the events.
      place: of the file, for errors.
      mode: how the file was opened.
      problems: to which a line is added for each thing that is wrong with the
        product, not with some of its events.

    Returns:
      The images; None where there is nothing to tell which there are.
    """
    reader = None
    with noting(problems, place):
        voxels = open_table(group, "voxels", ("id", "value"), place)
        at_voxels = place.at(dataset="voxels")
        reader = RowReader(voxels, mode.descriptor, at_voxels, raw_chunks=True)
    rows = read_rows(group, place, mode, problems)
    if rows is None:
        return None
    check_rows(rows, None if reader is None else reader.num_rows)
    sampled: dict[int, list[np.ndarray]] = {}
    entries, num_sampled = np.array([], np.int64), 0
    if reader is not None:
        entries = _pick_entries(rows, max_sample)
        sampled, num_sampled = _sample(rows, entries, reader, max_sample, place)
    filled = np.unique(rows.entry[rows.count > 0])
    return Images(
        tuple(
            _list_plane(rows, plane, sampled.get(plane, []))
            for plane in np.unique(rows.plane).tolist()
            if 0 <= plane < MAX_PLANES
        ),
        len(rows.is_bad),
        len(rows.is_bad) - len(filled),
        frozenset(np.flatnonzero(rows.is_bad).tolist()),
        tuple(rows.problems),
        len(entries),
        num_sampled,
        rows.repeats,
    )


def _pick_entries(rows: Rows, max_sample: int) -> np.ndarray:
    """Picks events to read, spread over the file: all, where they are few."""
    totals = np.bincount(rows.entry, rows.count, len(rows.is_bad)).astype(np.int64)
    found = np.flatnonzero((totals > 0) & ~rows.is_lost)
    if not found.size:
        return found
    number = int(max_sample / totals[found].mean())
    number = min(max(1, number), MAX_SAMPLED_EVENTS, found.size)
    return found[np.linspace(0, found.size - 1, number).round().astype(int)]


def _sample(
    rows: Rows,
    entries: np.ndarray,
    reader: RowReader,
    max_sample: int,
    place: Place,
) -> tuple[dict[int, list[np.ndarray]], int]:
    """Reads voxels of some events; returns finite values by plane, number of all."""
    sampled: dict[int, list[np.ndarray]] = {}
    unreadable, beyond, infinite = [], [], []
    message, num_sampled = "", 0
    for entry in entries.tolist():
        images = range(*np.searchsorted(rows.entry, [entry, entry + 1]).tolist())
        first = int(rows.start[images[0]])
        total = int(rows.count[images.start : images.stop].sum())
        found: list[str] = []
        voxels = None
        with noting(found, place):
            voxels = reader.read(first, min(total, max_sample))
        if voxels is None:
            unreadable.append(entry)
            message = message or found[0]
            continue
        num_sampled += len(voxels)
        for image in images:
            begin = int(rows.start[image]) - first
            part = voxels[begin : begin + int(rows.count[image])]
            values = np.array(part["value"], np.float64)
            is_finite = np.isfinite(values)
            if not is_finite.all():
                infinite.append(entry)
            if rows.size is not None and len(part):
                ids = part["id"]
                if not 0 <= ids.min() <= ids.max() < rows.size[image].prod():
                    beyond.append(entry)
            sampled.setdefault(int(rows.plane[image]), []).append(values[is_finite])
    for found_in, what in (
        (unreadable, message),
        (beyond, "voxel ids beyond the image"),
        (infinite, "values that are not finite"),
    ):
        rows.refuse(np.array(found_in, np.int64), what)
    return sampled, num_sampled


def _list_plane(rows: Rows, plane: int, sampled: list[np.ndarray]) -> Plane:
    here = np.flatnonzero(rows.plane == plane)
    counts = rows.count[here]
    size = geometry = None
    if rows.size is not None:
        wires, ticks = find_usual_size(rows.size[here]).tolist()
        size = wires, ticks
    if rows.geometry is not None:
        sizes, origin = map(tuple, rows.geometry[here[0]].tolist())
        geometry = sizes, origin
    return Plane(
        plane,
        size,
        len(np.unique(rows.entry[here])),
        int((counts == 0).sum()),
        int(counts.sum()),
        int(counts.max()),
        geometry,
        _sum_up(np.concatenate(sampled)) if sampled else None,
    )


def _sum_up(values: np.ndarray) -> Values | None:
    """Sums up the values of a plane; None where there are none."""
    if not values.size:
        return None
    labels = None
    # A million charges are told from labels by the first few.
    if len(np.unique(values[:1000])) <= MAX_LABELS:
        different, counts = np.unique(values, return_counts=True)
        are_whole = (different == np.rint(different)).all()
        if len(different) <= MAX_LABELS and are_whole and different[-1] < 2**53:
            numbers = different.astype(np.int64).tolist()
            labels = dict(zip(numbers, counts.tolist(), strict=True))
    return Values(
        values.size,
        float(values.min()),
        float(values.max()),
        float(values.mean()),
        float(np.median(np.abs(values))),
        labels,
    )
