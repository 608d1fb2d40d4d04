"""Reads and checks the index tables of one larcv3 product, once and whole.

Event e has rows `first .. first + N - 1` of the tables `voxel_extents` and
`image_meta`, one per projection; each has `N` rows of the table `voxels`, beginning
at `first` of the event's first projection and running on. What larcv3's own writer
guarantees beyond that (every row used once and in order) is required in strict mode,
and a warning otherwise.
"""

import dataclasses
import logging

import h5py
import numpy as np

from ctjax.base.constants import NUM_PLANES
from ctjax.data.larcv.errors import LarcvFileError, Place
from ctjax.data.larcv.records import PlaneMeta
from ctjax.data.larcv.tables import OpenMode, read_table

logger = logging.getLogger("ctjax")

MAX_PIXELS = 2**26
"""Most pixels of a plane: a larger size is damage, and memory for it not asked for.

Pixels are counted in int32 over all planes.
"""


@dataclasses.dataclass(frozen=True)
class ProductIndex:
    """Says where the voxels of each event and plane of one product lie.

    Attributes:
      image_shape: rows H and columns W.
      first_voxel: [N] int64, row in `voxels` of the event's first voxel.
      row_start: [N + 1] int64, the event's first projection in the next two.
      voxel_count: [R] int64, stored voxels of a projection.
      plane: [R] int64, its plane.
      geometry: [R, 2, 2] float64, image_sizes and origin of a projection, each (wires,
        ticks) in the unit of the file; None where the file has none.
    """

    image_shape: tuple[int, int]
    first_voxel: np.ndarray
    row_start: np.ndarray
    voxel_count: np.ndarray
    plane: np.ndarray
    geometry: np.ndarray | None

    def spans(self, entry: int) -> tuple[int, int, tuple[slice, ...]]:
        """Returns an event's first row, number of voxels, and slice of each plane."""
        start, stop = self.row_start[entry : entry + 2].tolist()
        planes = [slice(0, 0)] * NUM_PLANES
        total = 0
        for plane, count in zip(
            self.plane[start:stop].tolist(),
            self.voxel_count[start:stop].tolist(),
            strict=True,
        ):
            planes[plane] = slice(total, total + count)
            total += count
        return int(self.first_voxel[entry]), total, tuple(planes)

    def metas(self, entry: int) -> list[PlaneMeta]:
        """Returns the image metas of an event, one per plane.

        A plane that the event lacks has that of another event; without geometry in the
        file the unit is the pixel.
        """
        height, width = self.image_shape
        if self.geometry is None:
            whole = PlaneMeta((width, height), (float(width), float(height)))
            return [whole] * NUM_PLANES
        metas = []
        span = slice(*self.row_start[entry : entry + 2].tolist())
        for plane in range(NUM_PLANES):
            rows = span.start + np.flatnonzero(self.plane[span] == plane)
            if not rows.size:
                rows = np.append(np.flatnonzero(self.plane == plane), 0)
            sizes, origin = map(tuple, self.geometry[rows[0]].tolist())
            metas.append(PlaneMeta((width, height), sizes, origin))
        return metas

    def counts_by_plane(self) -> np.ndarray:
        """Counts the stored voxels, [N, P] int64."""
        counts = np.zeros((len(self.first_voxel), NUM_PLANES), np.int64)
        entries = np.repeat(np.arange(len(counts)), np.diff(self.row_start))
        counts[entries, self.plane] = self.voxel_count
        return counts


def read_index(
    group: h5py.Group,
    num_events: int,
    num_voxels: int,
    chunk_rows: int,
    place: Place,
    mode: OpenMode,
) -> ProductIndex:
    """Reads and checks `extents`, `voxel_extents` and `image_meta` of a product.

    Args:
      group: of the product.
      num_events: rows of the event table.
      num_voxels: rows of the table `voxels`.
      chunk_rows: of the same table; 0 where it has no chunks.
      place: of the product, for errors.
      mode: how the file was opened.

    Returns:
      The index, projections gathered in the order of the events.

    Raises:
      LarcvFileError: naming entry and table, for everything inconsistent.
    """
    extents, table, meta = _read_tables(group, num_events, place, mode)
    first, projections = extents["first"], extents["N"]
    oddities = _check_ranges(
        first, projections, len(table["N"]), place.at(dataset="extents")
    )
    row_start = np.append(0, np.cumsum(projections))
    rows = np.arange(row_start[-1]) + np.repeat(first - row_start[:-1], projections)
    entries = np.repeat(np.arange(num_events), projections)
    table = {name: column[rows] for name, column in table.items()}
    meta = {name: column[rows] for name, column in meta.items()}
    image_shape = _check_meta(meta, entries, place.at(dataset="image_meta"))
    first_voxel = np.zeros(num_events, np.int64)
    filled = projections > 0
    first_voxel[filled] = table["first"][row_start[:-1][filled]]
    geometry = None
    if "image_sizes" in meta and "origin" in meta:
        geometry = np.stack([meta["image_sizes"], meta["origin"]], axis=1)
    index = ProductIndex(
        image_shape, first_voxel, row_start, table["N"], meta["projection_id"], geometry
    )
    place = place.at(dataset="voxel_extents")
    # Beyond it the sums below might begin again at 0.
    most = np.flatnonzero(table["N"] > MAX_PIXELS)
    if most.size:
        row = most[0]
        found = f"N = {table['N'][row]}"
        place.at(entry=int(entries[row])).fail(found, f"at most {MAX_PIXELS} voxels")
    ends = np.append(0, np.cumsum(table["N"]))
    totals = ends[row_start[1:]] - ends[row_start[:-1]]
    oddities += _check_ranges(first_voxel, totals, num_voxels, place, chunk_rows)
    oddities += _check_columns(index, table, entries, place)
    if mode.strict and oddities:
        raise LarcvFileError(oddities[0])
    for oddity in oddities:
        logger.warning("%s; larcv3 reads this, but would not have written it", oddity)
    return index


def _read_tables(
    group: h5py.Group, num_events: int, place: Place, mode: OpenMode
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Reads `extents`, `voxel_extents` and `image_meta`, and checks their lengths."""
    extents = read_table(group, "extents", ("first", "N"), place, mode)
    table = read_table(group, "voxel_extents", ("first", "N", "ID"), place, mode)
    members = "valid", "projection_id", "number_of_voxels"
    geometry = "image_sizes", "origin"
    meta = read_table(group, "image_meta", members, place, mode, geometry)
    for name, length, expected in (
        ("extents", len(extents["N"]), num_events),
        ("image_meta", len(meta["valid"]), len(table["N"])),
    ):
        if length != expected:
            place.at(dataset=name).fail(f"{length} rows", f"{expected}")
    return extents, table, meta


def _check_columns(
    index: ProductIndex, table: dict[str, np.ndarray], entries: np.ndarray, place: Place
) -> list[str]:
    """Compares the columns that larcv3 ignores with those that it follows."""
    before = np.append(0, np.cumsum(index.voxel_count))[:-1]
    begins = np.append(before, 0)[index.row_start[:-1]]
    running = before + (index.first_voxel - begins)[entries]
    oddities = []
    for name, expected in (("first", running), ("ID", index.plane)):
        wrong = np.flatnonzero(table[name] != expected)
        if wrong.size:
            row = wrong[0]
            oddities.append(
                f"{place.at(entry=int(entries[row]))}: found {name} = "
                f"{table[name][row]}, expected {expected[row]}"
            )
    return oddities


def _check_ranges(
    first: np.ndarray,
    count: np.ndarray,
    length: int,
    place: Place,
    chunk_rows: int = 0,
) -> list[str]:
    """Checks that events have ranges of a table of their own.

    Args:
      first: [N] int64, row of the table.
      count: [N] int64, rows.
      length: of the table.
      place: of the table with the ranges, for errors.
      chunk_rows: an event may begin with a chunk, after unused rows; 0 if not.

    Returns:
      What is unusual: rows used by several events, or by none.

    Raises:
      LarcvFileError: for a range beyond the table, or two that overlap in part.
    """
    beyond = np.flatnonzero((count > length) | (first > length - count))
    beyond = beyond[count[beyond] != 0]
    if beyond.size:
        entry = int(beyond[0])
        found = f"first = {first[entry]} and N = {count[entry]}"
        place.at(entry=entry).fail(found, f"a range of a table of {length} rows")
    used = np.flatnonzero(count > 0)
    starts, index, inverse = np.unique(
        first[used], return_index=True, return_inverse=True
    )
    ends = starts + count[used][index]
    shorter = np.flatnonzero(count[used] != count[used][index][inverse])
    overlapping = np.flatnonzero(ends[:-1] > starts[1:])
    if shorter.size or overlapping.size:
        entry = int(used[shorter[0]] if shorter.size else used[index[overlapping[0]]])
        found = f"first = {first[entry]} and N = {count[entry]}"
        place.at(entry=entry).fail(found, "no rows in common with another event")
    oddities = []
    if len(starts) != len(used):
        oddities.append(
            f"{place}: found several events with the same rows, expected rows of their "
            "own"
        )
    if (np.diff(index) < 0).any():
        entry = int(used[index[np.flatnonzero(np.diff(index) < 0)[0]]])
        oddities.append(
            f"{place.at(entry=entry)}: found rows before those of an earlier event, "
            "expected the order of the events"
        )
    row = _find_unused_row(starts, ends, length, chunk_rows)
    if row is not None:
        oddities.append(
            f"{place}: found row {row} used by no event, expected an event for each"
        )
    return oddities


def _find_unused_row(
    starts: np.ndarray, ends: np.ndarray, length: int, chunk_rows: int
) -> int | None:
    """Finds the first row of a table between ranges that ascend; None for none.

    Rows before a range that begins with a chunk are not looked at.
    """
    stops, begins = np.append(0, ends), np.append(starts, length)
    unused = begins > stops
    if chunk_rows:
        unused[:-1] &= starts % chunk_rows != 0
    return int(stops[np.argmax(unused)]) if unused.any() else None


def _check_meta(
    meta: dict[str, np.ndarray], entries: np.ndarray, place: Place
) -> tuple[int, int]:
    """Checks validity, planes and shapes; returns rows and columns of the image.

    Args:
      meta: members of `image_meta`, [R] or [R, 2] int64.
      entries: [R] int64, the event of each row.
      place: of the table, for errors.

    Raises:
      LarcvFileError: naming the entry.
    """
    if not len(entries):
        place.fail("no projection in any event", "at least one")

    def fail_at(row: int, found: str, expected: str) -> None:
        place.at(entry=int(entries[row])).fail(found, expected)

    invalid = np.flatnonzero(meta["valid"] == 0)
    if invalid.size:
        fail_at(invalid[0], "valid = 0", "valid = 1")
    plane = meta["projection_id"]
    unknown = np.flatnonzero((plane < 0) | (plane >= NUM_PLANES))
    if unknown.size:
        row = unknown[0]
        fail_at(row, f"projection_id = {plane[row]}", f"0 to {NUM_PLANES - 1}")
    _, index, seen = np.unique(
        entries * NUM_PLANES + plane, return_index=True, return_counts=True
    )
    if (seen > 1).any():
        row = index[np.argmax(seen > 1)]
        fail_at(row, f"projection_id = {plane[row]} twice", "each plane once")
    shapes = meta["number_of_voxels"]
    other = np.flatnonzero((shapes != shapes[0]).any(axis=1))
    if other.size:
        found = f"number_of_voxels = {shapes[other[0]].tolist()}"
        fail_at(other[0], found, f"{shapes[0].tolist()} as in the first event")
    # The file counts wires first; images have drift ticks as rows.
    num_columns, num_rows = shapes[0].tolist()
    if min(num_rows, num_columns) < 1 or num_rows * num_columns > MAX_PIXELS:
        found = f"number_of_voxels = {shapes[0].tolist()}"
        place.fail(found, f"1 to {MAX_PIXELS} pixels")
    return num_rows, num_columns
