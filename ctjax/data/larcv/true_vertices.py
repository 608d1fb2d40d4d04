"""Reads what the heads of a network learn from: the neutrino's kind and vertex.

These are the particle and bbox2d products of dataset version 2, read once and whole.
"""

from typing import Any, NamedTuple

import h5py
import numpy as np

from ctjax.base.constants import BOX_PRODUCT, PARTICLE_PRODUCT
from ctjax.data.larcv.errors import BadEvents, Place, as_larcv_error
from ctjax.data.larcv.index import ProductIndex
from ctjax.data.larcv.plane_slots import find_slots
from ctjax.data.larcv.read_options import ReadOptions
from ctjax.data.larcv.row_ranges import find_beyond
from ctjax.data.larcv.tables import MAX_ROWS, OpenMode, find_member, read_table


class TrueNeutrino(NamedTuple):
    """Holds the neutrino of one event; None for what is not known.

    Attributes:
      kind: [2] int64, PDG code and current.
      positions: [P, 2] float32, row and column in cm of the vertex in each plane; not a
        number where there is none.
    """

    kind: np.ndarray | None = None
    positions: np.ndarray | None = None


class TrueNeutrinos(NamedTuple):
    """Holds the neutrinos of N events; None for what is not asked for or not there.

    Attributes:
      kinds: [N, 2] int64, PDG code and current of each event's first particle.
      positions: [N, S, 2] float32, row and column in cm of the vertex in each of S
        images of an event; not a number where there is no box.
      of_no_kind: events that have no particle, where that is no fault.
      of_no_place: events that have no boxes of a plane, likewise.
    """

    kinds: np.ndarray | None = None
    positions: np.ndarray | None = None
    of_no_kind: frozenset[int] = frozenset()
    of_no_place: frozenset[int] = frozenset()

    def of_entry(self, event: int, chosen: slice) -> TrueNeutrino:
        """Returns that of an event, in those of its images that are an entry's."""
        kind = position = None
        if self.kinds is not None and event not in self.of_no_kind:
            kind = self.kinds[event]
        if self.positions is not None and event not in self.of_no_place:
            position = self.positions[event, chosen]
        return TrueNeutrino(kind, position)


def read_kinds_and_vertices(
    data: h5py.Group,
    image: ProductIndex,
    options: ReadOptions,
    place: Place,
    mode: OpenMode,
    bad: BadEvents,
) -> TrueNeutrinos:
    """Reads kinds and vertices of the neutrinos of a file, as its options ask for them.

    Args:
      data: group of the products.
      image: index of the charges.
      options: of the file.
      place: of the file, for errors.
      mode: how it was opened.
      bad: takes events that have no such neutrino as they must.

    Raises:
      LarcvFileError: a product that is needed is absent, or cannot be read.
    """
    kinds = positions = None
    # Where no labels are asked for, an event may lack them as a file may.
    of_no_kind: set[int] | None = None if options.require_label else set()
    of_no_place: set[int] | None = None if options.require_label else set()
    if options.event_classes:
        name = f"particle_{PARTICLE_PRODUCT}_group"
        at = place.at(product=PARTICLE_PRODUCT)
        group = _find(data, name, at, options, "the neutrino of each event")
        if group is not None:
            number = len(image.first_voxel)
            kinds = _read_kinds(group, number, at, mode, bad, of_no_kind)
    if options.vertices:
        name, at = f"bbox2d_{BOX_PRODUCT}_group", place.at(product=BOX_PRODUCT)
        group = _find(data, name, at, options, "the vertex of each plane")
        if group is not None:
            positions = _read_positions(group, image, at, mode, bad, of_no_place)
    return TrueNeutrinos(
        kinds, positions, frozenset(of_no_kind or ()), frozenset(of_no_place or ())
    )


def _find(
    data: h5py.Group, name: str, place: Place, options: ReadOptions, content: str
) -> h5py.Group | None:
    """Finds the group of a product; None where it is absent and may be."""
    group = find_member(data, name, place)
    if group is None and not options.require_label:
        return None
    if not isinstance(group, h5py.Group):
        found = "nothing" if group is None else "a dataset"
        place.fail(
            found, f"a group Data/{name} with {content}, for the network's heads"
        )
    return group


def _read_kinds(
    group: h5py.Group,
    num_events: int,
    place: Place,
    mode: OpenMode,
    bad: BadEvents,
    lacking: set[int] | None,
) -> np.ndarray:
    """Reads PDG code and current of the first particle of each event.

    `lacking` takes events without one; where it is None, `bad` does.
    """
    extents = _read_extents(group, num_events, place, mode)
    table = _read_members(group, "particles", {"pdg": (), "current_type": ()}, place)
    first, counts = extents["first"], extents["N"]
    at = place.at(dataset="extents")
    for entry in np.flatnonzero(counts == 0).tolist():
        if lacking is None:
            bad.add(entry, at, "no particle", "the neutrino, or one of pdg 0")
        else:
            lacking.add(entry)
    find_beyond(first, counts, len(table), at, bad)
    first = np.where(np.isin(np.arange(num_events), bad.entries()), 0, first)
    if not len(table):
        return np.zeros((num_events, 2), np.int64)
    rows = table[np.minimum(first, len(table) - 1)]
    return np.stack([rows["pdg"], rows["current_type"]], -1).astype(np.int64)


def _read_positions(
    group: h5py.Group,
    image: ProductIndex,
    place: Place,
    mode: OpenMode,
    bad: BadEvents,
    lacking: set[int] | None,
) -> np.ndarray:
    """Reads where the first box of each plane has its middle.

    Boxes whose images have another geometry than those of the charges are moved to
    where they lie on these. For `lacking` see `_read_kinds`.
    """
    num_events = len(image.first_voxel)
    extents = _read_extents(group, num_events, place, mode)
    spans = read_table(group, "bbox_extents", ("first", "N"), place, mode)
    members, geometry = ("projection_id",), ("image_sizes", "origin")
    meta = read_table(group, "image_meta", members, place, mode, geometry)
    boxes = _read_members(group, "bboxes", {"centroid": (2,)}, place)
    at_meta, at_boxes = place.at(dataset="image_meta"), place.at(dataset="bboxes")
    if len(meta["projection_id"]) != len(spans["N"]):
        at_meta.fail(f"{len(meta['projection_id'])} rows", f"{len(spans['N'])}")
    first, counts = extents["first"], extents["N"]
    at = place.at(dataset="extents")
    for entry in find_beyond(first, counts, len(spans["N"]), at, bad):
        counts[entry] = 0
    entries = np.repeat(np.arange(num_events), counts)
    ends = np.cumsum(counts)
    rows = np.arange(len(entries)) + np.repeat(first - (ends - counts), counts)
    planes = meta["projection_id"][rows]
    _, slots = find_slots(planes, entries, image.planes, at_meta, bad)
    _check_planes(slots, entries, image, at_meta, bad, lacking)
    number, start = spans["N"][rows], spans["first"][rows]
    at = place.at(dataset="bbox_extents")
    beyond = (start > len(boxes) - number) & (number > 0)
    for row in np.flatnonzero(beyond).tolist():
        found = f"first = {start[row]} and N = {number[row]}"
        bad.add(int(entries[row]), at, found, f"a range of {len(boxes)} boxes")
    is_box = (slots >= 0) & (number > 0) & ~beyond
    rows, entries, slots = rows[is_box], entries[is_box], slots[is_box]
    middle = boxes["centroid"][start[is_box]].astype(np.float64)
    for row in np.flatnonzero(~np.isfinite(middle).all(1)).tolist():
        found = f"centroid = {middle[row].tolist()}"
        bad.add(int(entries[row]), at_boxes, found, "finite numbers")
    if set(geometry) <= set(meta):
        theirs = np.stack([meta["image_sizes"][rows], meta["origin"][rows]], 1)
        middle = _moved(middle, theirs, _geometry_of(image, entries, slots))
    positions = np.full((num_events, len(image.planes), 2), np.nan, np.float32)
    # Files have wires first; images have drift ticks as rows.
    positions[entries, slots] = middle[:, ::-1]
    return positions


def _check_planes(
    slots: np.ndarray,
    entries: np.ndarray,
    image: ProductIndex,
    place: Place,
    bad: BadEvents,
    unknown: set[int] | None,
) -> None:
    """Finds events whose boxes are not of all planes that their charges are of."""
    shape = len(image.first_voxel), len(image.planes) + 1
    has_boxes, has_image = np.zeros(shape, bool), np.zeros(shape, bool)
    has_boxes[entries, slots] = True
    of_rows = np.repeat(np.arange(shape[0]), np.diff(image.row_start))
    has_image[of_rows, image.plane] = True
    lacking = (has_image & ~has_boxes)[:, :-1]
    for entry in np.flatnonzero(lacking.any(1)).tolist():
        plane = image.planes[int(np.argmax(lacking[entry]))]
        if unknown is None:
            bad.add(entry, place, f"no boxes of plane {plane}", "those of each plane")
        else:
            unknown.add(entry)


def _geometry_of(
    image: ProductIndex, entries: np.ndarray, slots: np.ndarray
) -> np.ndarray:
    """Returns sizes and origin of the charges' images, [R, 2, 2], as of boxes.

    Not numbers where an event has no such image.
    """
    shape = len(image.first_voxel), len(image.planes) + 1, 2, 2
    found = np.full(shape, np.nan)
    if image.geometry is None:
        sizes = [(width, height) for height, width in image.plane_shapes]
        found[:, :-1, 0], found[:, :-1, 1] = sizes, 0
    else:
        of_rows = np.repeat(np.arange(shape[0]), np.diff(image.row_start))
        found[of_rows, image.plane] = image.geometry
    return found[entries, slots]


def _moved(middle: np.ndarray, theirs: np.ndarray, ours: np.ndarray) -> np.ndarray:
    """Moves positions [R, 2] from images of one geometry [R, 2, 2] to another's."""
    scale = np.abs(ours).max((1, 2), keepdims=True)
    is_other = (np.abs(theirs - ours) > 1e-6 * scale).any((1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        part = (middle - theirs[:, 1]) / theirs[:, 0]
        moved = ours[:, 1] + part * ours[:, 0]
    return np.where(is_other[:, None], moved, middle)


def _read_extents(
    group: h5py.Group, num_events: int, place: Place, mode: OpenMode
) -> dict[str, np.ndarray]:
    """Reads the rows that each event has of a product."""
    extents = read_table(group, "extents", ("first", "N"), place, mode)
    if len(extents["N"]) != num_events:
        place.at(dataset="extents").fail(f"{len(extents['N'])} rows", f"{num_events}")
    return extents


def _read_members(
    group: h5py.Group, name: str, members: dict[str, tuple], place: Place
) -> np.ndarray:
    """Reads members of a table of larger records.

    Args:
      group: that holds the table.
      name: of the table.
      members: shape of each; one number is an integer, several are floating point.
      place: of the group, for errors.
    """
    place = place.at(dataset=name)
    with as_larcv_error(place, "a readable table"):
        table: Any = find_member(group, name, place)
        is_table = isinstance(table, h5py.Dataset) and table.ndim == 1
        names = (table.dtype.names if is_table else None) or ()
        if not is_table:
            found = "nothing" if table is None else "something else"
            place.fail(found, f"a table with {', '.join(members)}")
        for member, shape in members.items():
            if member not in names:
                place.fail(f"members {', '.join(names)}", f"a member {member}")
            item = table.dtype[member]
            if item.shape != shape or item.base.kind not in ("f" if shape else "iu"):
                expected = f"{shape[0]} floating point numbers" if shape else "integers"
                place.fail(f"{member} of type {item}", expected)
        if table.shape[0] > MAX_ROWS:
            place.fail(f"{table.shape[0]} rows", f"at most {MAX_ROWS}")
        return table.fields(list(members))[:]
