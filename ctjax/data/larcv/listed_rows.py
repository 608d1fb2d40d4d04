"""Reads which images a product has and where their voxels lie, whatever is wrong.

What is wrong is noted, and in which events; `index` would refuse the file.
"""

import contextlib
import dataclasses
from collections.abc import Iterator

import h5py
import numpy as np

from ctjax.config.detectors import MAX_PLANES
from ctjax.data.larcv.errors import LarcvFileError, Place, as_larcv_error
from ctjax.data.larcv.index import MAX_PIXELS
from ctjax.data.larcv.plane_slots import find_usual_size
from ctjax.data.larcv.tables import OpenMode, read_table


@contextlib.contextmanager
def noting(problems: list[str], place: Place) -> Iterator[None]:
    """Notes what is wrong with a part of a file, without the file's name."""
    try:
        with as_larcv_error(place, "a readable file"):
            yield
    except LarcvFileError as error:
        problems.append(str(error).removeprefix(place.path).lstrip(",: "))


@dataclasses.dataclass
class Rows:
    """Holds one row for each image of the events that have rows, in their order.

    Attributes:
      entry: [R] int64, event.
      plane: [R] int64, projection id.
      count: [R] int64, voxels.
      start: [R] int64, first voxel.
      size: [R, 2] int64, wires and ticks; None where the file does not say.
      geometry: [R, 2, 2] float64, as in `Plane`; None where the file has none.
      is_bad: [N] bool, of the events: something is wrong.
      is_lost: [N] bool: there is no telling which voxels are theirs.
      problems: a line for each kind of what is wrong with events.
      repeats: images of one plane that most events have.
    """

    entry: np.ndarray
    plane: np.ndarray
    count: np.ndarray
    start: np.ndarray
    size: np.ndarray | None
    geometry: np.ndarray | None
    is_bad: np.ndarray
    is_lost: np.ndarray
    problems: list[str]
    repeats: int = 1

    def refuse(self, entries: np.ndarray, what: str) -> None:
        """Notes what is wrong with some events; nothing for none."""
        entries = np.unique(entries)
        self.is_bad[entries] = True
        if entries.size:
            more = f" and {entries.size - 1:,} more" if entries.size > 1 else ""
            self.problems.append(f"entry {entries[0]}{more}: {what}")


def read_rows(
    group: h5py.Group, place: Place, mode: OpenMode, problems: list[str]
) -> Rows | None:
    """Reads the index of a product; None where `extents` or `voxel_extents` fails."""
    extents = table = meta = None
    with noting(problems, place):
        extents = read_table(group, "extents", ("first", "N"), place, mode)
    with noting(problems, place):
        table = read_table(group, "voxel_extents", ("first", "N", "ID"), place, mode)
    with noting(problems, place):
        members = "valid", "projection_id", "number_of_voxels"
        geometry = "image_sizes", "origin"
        meta = read_table(group, "image_meta", members, place, mode, geometry)
    if extents is None or table is None:
        return None
    length = len(table["N"])
    if meta is not None and len(meta["valid"]) != length:
        problems.append(
            f"dataset image_meta: found {len(meta['valid'])} rows, expected {length}"
        )
        meta = None
    first, number = extents["first"], extents["N"]
    is_lost = (number > 0) & ((number > length) | (first > length - number))
    number = np.where(is_lost, 0, number)
    is_shared = np.cumsum(number) > length
    if is_shared.any():
        problems.append("dataset extents: found rows that several events have")
        number = np.where(is_shared, 0, number)
    before = np.cumsum(number) - number
    row = np.arange(number.sum()) + np.repeat(first - before, number)
    entry = np.repeat(np.arange(len(number)), number)
    count = table["N"][row]
    is_huge = count > MAX_PIXELS
    count = np.where(is_huge, 0, count)
    is_lost[entry[is_huge]] = True
    # As larcv3 reads it: from the first voxel of the event's first image on.
    running = np.append(0, np.cumsum(count))[:-1]
    start = running - np.append(running, 0)[before][entry]
    start += np.append(table["first"][row], 0)[before][entry]
    is_bad = np.zeros(len(number), bool)
    rows = Rows(entry, table["ID"][row], count, start, None, None, is_bad, is_lost, [])
    rows.refuse(np.flatnonzero(extents["N"] > number), "rows beyond voxel_extents")
    rows.refuse(entry[is_huge], f"more than {MAX_PIXELS} voxels in voxel_extents")
    if meta is not None:
        rows.refuse(entry[meta["valid"][row] == 0], "valid = 0 in image_meta")
        rows.plane, rows.size = (meta[name][row] for name in members[1:])
        if "image_sizes" in meta and "origin" in meta:
            rows.geometry = np.stack([meta[name][row] for name in geometry], axis=1)
    return rows


def check_rows(rows: Rows, num_voxels: int | None) -> None:
    """Notes what is wrong with the planes, sizes and voxels of events.

    Args:
      rows: of the product.
      num_voxels: of the table `voxels`; None where it cannot be read.
    """
    unknown = (rows.plane < 0) | (rows.plane >= MAX_PLANES)
    if unknown.any():
        found = rows.plane[unknown][0]
        expected = f"expected 0 to {MAX_PLANES - 1}"
        rows.refuse(rows.entry[unknown], f"projection_id = {found}, {expected}")
    key = rows.entry * MAX_PLANES + np.clip(rows.plane, 0, MAX_PLANES - 1)
    _, inverse, seen = np.unique(key, return_inverse=True, return_counts=True)
    # Several where most events have them are those of several TPCs.
    rows.repeats = int(np.bincount(seen, minlength=2).argmax()) or 1
    number = "several" if rows.repeats == 1 else f"not {rows.repeats}"
    wrong = (seen[inverse] != rows.repeats) & ~unknown
    if wrong.any():
        planes = ", ".join(map(str, np.unique(rows.plane[wrong])))
        rows.refuse(rows.entry[wrong], f"{number} images of one plane ({planes})")
    if num_voxels is not None:
        stop = rows.start + rows.count
        beyond = (rows.count > 0) & ((rows.start < 0) | (stop > num_voxels))
        beyond &= ~rows.is_lost[rows.entry]
        rows.is_lost[rows.entry[beyond]] = True
        rows.refuse(rows.entry[beyond], f"rows beyond the {num_voxels} of voxels")
    if rows.size is None:
        return
    wires, ticks = rows.size.T
    # Divided, because a product of damaged sizes would overflow.
    wrong = (wires < 1) | (ticks < 1) | (wires > MAX_PIXELS // np.maximum(ticks, 1))
    rows.refuse(rows.entry[wrong], f"number_of_voxels not of 1 to {MAX_PIXELS} pixels")
    for plane in np.unique(rows.plane[~unknown]):
        here = np.flatnonzero(rows.plane == plane)
        other = here[(rows.size[here] != find_usual_size(rows.size[here])).any(axis=1)]
        if other.size:
            wires, ticks = rows.size[other[0]]
            found = f"plane {plane} of another size, {wires} x {ticks}"
            rows.refuse(rows.entry[other], found)
