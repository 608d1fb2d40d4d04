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

from ctjax.base.detector import ImageShape
from ctjax.data.larcv.errors import BadEvents, LarcvFileError, Place
from ctjax.data.larcv.plane_slots import (
    NOT_CHOSEN,
    find_shapes,
    find_slots,
    first_by_entry,
)
from ctjax.data.larcv.records import PlaneMeta
from ctjax.data.larcv.row_ranges import (
    check_columns,
    check_ranges,
    find_beyond,
    find_unused,
)
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
      planes: projection id of each of S images of an event; where one is there twice,
        the second is the event's next image of that id.
      plane_shapes: rows and columns of each.
      first_voxel: [N] int64, row in `voxels` of the event's first voxel.
      row_start: [N + 1] int64, the event's first projection in the next two.
      voxel_count: [R] int64, stored voxels of a projection.
      plane: [R] int64, which of the S images it is; -1 for one that is not read.
      geometry: [R, 2, 2] float64, image_sizes and origin of a projection, each (wires,
        ticks) in the unit of the file; None where the file has none.
    """

    planes: tuple[int, ...]
    plane_shapes: tuple[ImageShape, ...]
    first_voxel: np.ndarray
    row_start: np.ndarray
    voxel_count: np.ndarray
    plane: np.ndarray
    geometry: np.ndarray | None

    def spans(
        self, entry: int, chosen: slice = slice(None)
    ) -> tuple[int, int, tuple[slice, ...]]:
        """Returns an event's first row, number of voxels, and slices of its planes.

        Args:
          entry: number of the event.
          chosen: which of the S images are asked for.
        """
        start, stop = self.row_start[entry : entry + 2].tolist()
        planes = [slice(0, 0)] * (len(self.planes) + 1)
        total = 0
        for plane, count in zip(
            self.plane[start:stop].tolist(),
            self.voxel_count[start:stop].tolist(),
            strict=True,
        ):
            # What is not chosen is at -1, the last place.
            planes[plane] = slice(total, total + count)
            total += count
        return int(self.first_voxel[entry]), total, tuple(planes[:-1][chosen])

    def metas(self, entry: int, chosen: slice = slice(None)) -> list[PlaneMeta]:
        """Returns the image metas of an event, one per plane.

        A plane that the event lacks has that of another event; without geometry in the
        file the unit is the pixel.
        """
        metas = []
        span = slice(*self.row_start[entry : entry + 2].tolist())
        for plane in range(len(self.planes))[chosen]:
            height, width = self.plane_shapes[plane]
            rows = span.start + np.flatnonzero(self.plane[span] == plane)
            if not rows.size:
                rows = np.flatnonzero(self.plane == plane)
            if self.geometry is None or not rows.size:
                sizes = float(width), float(height)
                metas.append(PlaneMeta((width, height), sizes))
                continue
            sizes, origin = map(tuple, self.geometry[rows[0]].tolist())
            metas.append(PlaneMeta((width, height), sizes, origin))
        return metas

    def counts_by_plane(self) -> np.ndarray:
        """Counts the stored voxels, [N, S] int64."""
        counts = np.zeros((len(self.first_voxel), len(self.planes) + 1), np.int64)
        entries = np.repeat(np.arange(len(counts)), np.diff(self.row_start))
        counts[entries, self.plane] = self.voxel_count
        return counts[:, :-1]


def find_max_voxels(image: ProductIndex, label: ProductIndex | None = None) -> int:
    """Returns the most voxels that image and label of one plane have together."""
    counts = image.counts_by_plane()
    if label is not None:
        of_labels = label.counts_by_plane()
        # Equal counts mean the same pixels in every file seen; if not, the sparse
        # minibatches grow once more.
        counts = np.where(counts == of_labels, counts, counts + of_labels)
    return int(counts.max())


def read_index(
    group: h5py.Group,
    num_events: int,
    num_voxels: int,
    chunk_rows: int,
    place: Place,
    mode: OpenMode,
    planes: tuple[int, ...] | None,
    bad: BadEvents,
) -> ProductIndex:
    """Reads and checks `extents`, `voxel_extents` and `image_meta` of a product.

    Args:
      group: of the product.
      num_events: rows of the event table.
      num_voxels: rows of the table `voxels`.
      chunk_rows: of the same table; 0 where it has no chunks.
      place: of the product, for errors.
      mode: how the file was opened.
      planes: projection ids of the images to read; None for all of the file.
      bad: takes events that are inconsistent in themselves; they have no voxels then.

    Returns:
      The index, projections gathered in the order of the events.

    Raises:
      LarcvFileError: naming entry and table, for everything inconsistent.
    """
    extents, table, meta = _read_tables(group, num_events, place, mode)
    first, projections = extents["first"], extents["N"]
    at_extents, at_meta = place.at(dataset="extents"), place.at(dataset="image_meta")
    for entry in find_beyond(first, projections, len(table["N"]), at_extents, bad):
        projections[entry] = 0
    oddities = check_ranges(first, projections, at_extents)
    if not bad.reasons:
        oddities += find_unused(first, projections, len(table["N"]), at_extents)
    row_start = np.append(0, np.cumsum(projections))
    rows = np.arange(row_start[-1]) + np.repeat(first - row_start[:-1], projections)
    entries = np.repeat(np.arange(num_events), projections)
    table = {name: column[rows] for name, column in table.items()}
    meta = {name: column[rows] for name, column in meta.items()}
    planes, shapes, slots = _check_meta(meta, entries, planes, at_meta, bad)
    place = place.at(dataset="voxel_extents")
    first_voxel, totals = _find_voxels(
        table, entries, row_start, num_voxels, place, bad
    )
    slots[np.isin(entries, bad.entries())] = NOT_CHOSEN
    counts, geometry = table["N"], _geometry(meta)
    index = ProductIndex(
        planes, shapes, first_voxel, row_start, counts, slots, geometry
    )
    oddities += check_ranges(first_voxel, totals, place)
    if not bad.reasons:
        oddities += find_unused(first_voxel, totals, num_voxels, place, chunk_rows)
        firsts = _running_first(index, entries)
        expected = {"first": firsts, "ID": meta["projection_id"]}
        oddities += check_columns(table, expected, entries, place)
    _judge_oddities(oddities, mode)
    return index


def _judge_oddities(oddities: list[str], mode: OpenMode) -> None:
    """Refuses what larcv3 would not have written, or says so, as the mode has it."""
    if mode.strict and oddities:
        raise LarcvFileError(oddities[0])
    for oddity in oddities:
        logger.warning("%s; larcv3 reads this, but would not have written it", oddity)


def check_alike(label: ProductIndex, image: ProductIndex, place: Place) -> None:
    """Checks that labels are of the sizes of the charges.

    Raises:
      LarcvFileError: they are not.
    """
    shapes = zip(label.plane_shapes, image.plane_shapes, strict=True)
    for (height, width), expected in shapes:
        if (height, width) != expected:
            place.fail(
                f"images of {height} x {width}", f"{expected[0]} x {expected[1]}"
            )


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


def _geometry(meta: dict[str, np.ndarray]) -> np.ndarray | None:
    if "image_sizes" in meta and "origin" in meta:
        return np.stack([meta["image_sizes"], meta["origin"]], axis=1)
    return None


def _find_voxels(
    table: dict[str, np.ndarray],
    entries: np.ndarray,
    row_start: np.ndarray,
    num_voxels: int,
    place: Place,
    bad: BadEvents,
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the rows of each event's voxels; bad events have none from here on.

    Args:
      table: `voxel_extents` in the order of the events.
      entries: [R] int64, the event of each row.
      row_start: [N + 1] int64, each event's first row.
      num_voxels: rows of the table `voxels`.
      place: of the table, for errors.
      bad: takes events whose voxels go beyond that table.

    Returns:
      [N] int64 the first row of each event, and [N] int64 how many it has.
    """
    counts = table["N"]
    for row in first_by_entry(counts > MAX_PIXELS, entries).tolist():
        # Beyond it the sums below might begin again at 0.
        found = f"N = {counts[row]}"
        bad.add(int(entries[row]), place, found, f"at most {MAX_PIXELS} voxels")
    counts[np.isin(entries, bad.entries())] = 0
    first_voxel = np.zeros(len(row_start) - 1, np.int64)
    filled = np.diff(row_start) > 0
    first_voxel[filled] = table["first"][row_start[:-1][filled]]
    ends = np.append(0, np.cumsum(counts))
    totals = ends[row_start[1:]] - ends[row_start[:-1]]
    for entry in find_beyond(first_voxel, totals, num_voxels, place, bad):
        totals[entry] = 0
    counts[np.isin(entries, bad.entries())] = 0
    return first_voxel, totals


def _running_first(index: ProductIndex, entries: np.ndarray) -> np.ndarray:
    """Returns the row of each projection's first voxel, as larcv3 finds it."""
    before = np.append(0, np.cumsum(index.voxel_count))[:-1]
    begins = np.append(before, 0)[index.row_start[:-1]]
    return before + (index.first_voxel - begins)[entries]


def _check_meta(
    meta: dict[str, np.ndarray],
    entries: np.ndarray,
    planes: tuple[int, ...] | None,
    place: Place,
    bad: BadEvents,
) -> tuple[tuple[int, ...], tuple[ImageShape, ...], np.ndarray]:
    """Checks validity, planes and shapes.

    Args:
      meta: members of `image_meta`, [R] or [R, 2] int64.
      entries: [R] int64, the event of each row.
      planes: projection ids that are asked for, or None.
      place: of the table, for errors.
      bad: takes events that are not as they must be.

    Returns:
      The planes, the shape of each, and [R] int64 which plane each row is.

    Raises:
      LarcvFileError: there is no plane, one of no size, or one that no event has.
    """
    if not len(entries):
        place.fail("no projection in any event", "at least one")
    for row in first_by_entry(meta["valid"] == 0, entries).tolist():
        bad.add(int(entries[row]), place, "valid = 0", "valid = 1")
    ids = meta["projection_id"]
    chosen, slots = find_slots(ids, entries, planes, place, bad)
    sizes = meta["number_of_voxels"]
    shapes = find_shapes(sizes, slots, entries, chosen, place, bad)
    _check_all_are_there(chosen, shapes, ids, place)
    known = tuple(shape for shape in shapes if shape is not None)
    for shape in known:
        if min(shape) < 1 or shape[0] * shape[1] > MAX_PIXELS:
            found = f"number_of_voxels = {[shape[1], shape[0]]}"
            place.fail(found, f"1 to {MAX_PIXELS} pixels")
    return chosen, known, slots


def _check_all_are_there(
    chosen: tuple[int, ...],
    shapes: list[ImageShape | None],
    ids: np.ndarray,
    place: Place,
) -> None:
    """Raises LarcvFileError where no event has an image of a plane that is read."""
    there = f"images of planes {', '.join(map(str, np.unique(ids)))}"
    if not chosen:
        place.fail(there, "some of 0 and up (data.planes)")
    for slot, plane in enumerate(chosen):
        if shapes[slot] is None:
            number = chosen[: slot + 1].count(plane)
            images = "image" if number == 1 else f"{number} images"
            place.fail(
                f"no {images} of plane {plane} in any event, but {there}",
                "each plane that is read (data.planes, or those of the charges)",
            )
