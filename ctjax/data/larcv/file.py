"""Reads a larcv3 HDF5 file: the sparse voxels of one event and product.

The layout is that of docs/data-format.md. Nothing here knows of dense images, of
several files or of the order of events.
"""

import logging
import os
from typing import Any

import h5py
import numpy as np

from ctjax.base import regular_files
from ctjax.base.constants import LABEL_PRODUCT
from ctjax.data import native
from ctjax.data.larcv import chunk_order
from ctjax.data.larcv.chunks import RowReader
from ctjax.data.larcv.errors import (
    BadEvents,
    ChangedFileError,
    LarcvFileError,
    Place,
    as_larcv_error,
)
from ctjax.data.larcv.fingerprint import digest, sample
from ctjax.data.larcv.index import (
    ProductIndex,
    check_alike,
    find_max_voxels,
    read_index,
)
from ctjax.data.larcv.plane_slots import are_within, check_ids, take_planes
from ctjax.data.larcv.products import group_name, name_all
from ctjax.data.larcv.read_options import (
    ReadOptions,
    read_charges,
    read_classes,
    scaled,
)
from ctjax.data.larcv.records import PlaneMeta
from ctjax.data.larcv.tables import (
    OpenMode,
    find_member,
    open_table,
    read_table,
)
from ctjax.data.larcv.true_vertices import TrueNeutrino, read_kinds_and_vertices
from ctjax.data.voxels import Voxels

logger = logging.getLogger("ctjax")


class LarcvFile:
    """Holds a file open; all methods may be called from several threads.

    Attributes:
      path: as given.
      num_bytes: size of the file.
      num_events: N, the file's events, or the entries that they are read as.
      planes: projection ids of the planes of each entry that an event has.
      plane_shapes: rows and columns of each of the P planes of an entry, from the
        file's own metadata.
      has_label: whether the file has the label product.
      event_ids: [N, 3] int64, run, subrun, event; all -1 where never set.
      max_voxels: most voxels that image and label of one plane have together.
      bad_entries: one line for each that is inconsistent in the tables.
    """

    def __init__(self, path: str | os.PathLike, **options: Any):
        """Opens a file and checks its index.

        Args:
          path: of the file.
          options: those of `ReadOptions`.

        Raises:
          LarcvFileError: for a file that is absent, unreadable or no larcv3 file, or
            where all its events are bad.
        """
        self.path = os.fspath(path)
        self._options = ReadOptions(**options)
        self._place = Place(self.path)
        self._warned_of_duplicates = False
        with as_larcv_error(self._place, "a readable file"):
            # A FIFO that nobody writes would be waited for.
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
            self._descriptor = os.open(self.path, flags)
        kind = regular_files.other_kind(os.fstat(self._descriptor))
        if kind is not None:
            os.close(self._descriptor)
            self._place.fail(kind, "a regular file")
        self._mode = OpenMode(
            self._descriptor, self._options.raw_chunks, self._options.strict
        )
        try:
            status = os.fstat(self._descriptor)
            self._state, self.num_bytes = _file_state(status), status.st_size
            with as_larcv_error(self._place, "an HDF5 file"):
                self._file = h5py.File(self.path, "r", locking="best-effort")
        except LarcvFileError:
            os.close(self._descriptor)
            raise
        try:
            self._open_tables()
            self._check_unchanged(None)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "LarcvFile":
        """Returns the file itself."""
        return self

    def __exit__(self, *exception) -> None:
        """Closes the file."""
        self.close()

    def close(self) -> None:
        """Closes the file; no read may be under way."""
        if self._descriptor >= 0:
            self._file.close()
            os.close(self._descriptor)
            self._descriptor = -1

    def read_image(self, entry: int) -> Voxels:
        """Reads the charge of an event; values are finite float32.

        Args:
          entry: of the event in this file.

        Raises:
          LarcvFileError: where the event's voxels are not as they must be.
          IndexError: for an entry outside the file.
        """
        event, chosen = self._find(entry)
        image = self._read(self._image, event, chosen)
        self._check_unchanged(event)
        return image

    def read_label(self, entry: int) -> Voxels:
        """Reads the classes of an event as `read_image` its charges; values are uint8.

        Raises:
          LarcvFileError: as there, and where the file has no labels.
        """
        product = self._options.label_product
        if not self.has_label:
            self._place.at(product=product).fail("no group", "labels")
        event, chosen = self._find(entry)
        label = self._read(product, event, chosen)
        self._check_unchanged(event)
        return label

    def plane_metas(self, entry: int) -> list[PlaneMeta]:
        """Returns the geometry of an entry's image, by plane."""
        event, chosen = self._find(entry)
        return self._indices[self._options.image_product].metas(event, chosen)

    def neutrino(self, entry: int) -> TrueNeutrino:
        """Returns what is known of an entry's neutrino."""
        return self._neutrinos.of_entry(*self._find(entry))

    def describe(self, num_bytes: int) -> dict[str, object]:
        """Returns what tells this file from another of its name.

        Args:
          num_bytes: of the file to read, spread over it.

        Returns:
          Size, events, shape, whether there are labels, and digests of the event ids,
          of the places of the voxels and of the bytes.
        """
        indices = [
            array
            for index in self._indices.values()
            for array in (index.first_voxel, index.plane, index.voxel_count)
        ]
        with as_larcv_error(self._place, "bytes that can be read"):
            content = sample(self._descriptor, self.num_bytes, num_bytes)
        return {
            "bytes": self.num_bytes,
            "events": self.num_events,
            "planes": [list(planes) for planes in self.planes],
            "images": [list(shape) for shape in self.plane_shapes],
            "labels": self.has_label,
            "event ids": digest(self.event_ids),
            "voxels": digest(*indices),
            "content": digest(content),
        }

    def read_event(self, entry: int) -> tuple[Voxels, Voxels | None]:
        """Reads charges and, where the file has them, classes of an event.

        Args:
          entry: of the event in this file.

        Returns:
          Charges, finite float32, and classes, uint8; the ids are the very same array
          where they are equal. Ids are those of each plane's own rows.

        Raises:
          ChangedFileError: the file is not the one that was opened.
          LarcvFileError: the event's voxels are not as they must be; strictly, too,
            where a pixel has a class but no charge, which tells that chunks of one
            product are out of place.
          IndexError: for an entry outside the file.
        """
        event, chosen = self._find(entry)
        if entry in self.bad_entries:
            raise LarcvFileError(self.bad_entries[entry])
        options = self._options
        image = self._read(options.image_product, event, chosen)
        label = None
        if self.has_label:
            label = self._read(options.label_product, event, chosen)
        self._check_unchanged(event)
        if label is None:
            return image, None
        if image.planes == label.planes and np.array_equal(image.ids, label.ids):
            return image, label._replace(ids=image.ids)
        place = self._at_voxels(options.label_product, event)
        if self._mode.strict:
            for charged, classed in zip(image.planes, label.planes, strict=True):
                if not np.isin(label.ids[classed], image.ids[charged]).all():
                    place.fail("ids without a charge", f"those of {self._image}")
        elif self._differs_by_whole_chunks(event, image, label):
            found = f"ids that differ from those of {self._image} in whole chunks"
            place.fail(found, "chunks in their places")
        return image, label

    @property
    def _image(self) -> str:
        return self._options.image_product

    def _find(self, entry: int) -> tuple[int, slice]:
        """Returns the event of an entry, and which of its images are the entry's."""
        if not 0 <= entry < self.num_events:
            raise IndexError(f"{self.path}: entry {entry} of {self.num_events}")
        event, group = divmod(entry, len(self.planes))
        count = len(self.plane_shapes)
        return event, slice(group * count, (group + 1) * count)

    def _differs_by_whole_chunks(
        self, event: int, image: Voxels, label: Voxels
    ) -> bool:
        """Tells whether one of the products seems to have chunks out of place."""
        chunk_rows = {reader.chunk_rows for reader in self._readers.values()}
        firsts = {int(index.first_voxel[event]) for index in self._indices.values()}
        if image.planes != label.planes or len(chunk_rows) > 1 or len(firsts) > 1:
            return False
        return chunk_order.differ_by_whole_chunks(
            image.ids, label.ids, firsts.pop(), chunk_rows.pop()
        )

    def _open_tables(self) -> None:
        place = self._place
        events, data = (find_member(self._file, n, place) for n in ("Events", "Data"))
        if not isinstance(events, h5py.Group) or not isinstance(data, h5py.Group):
            place.fail("others", "groups Events and Data")
        table = read_table(
            events, "event_id", ("run", "subrun", "event"), place, self._mode
        )
        event_ids = np.stack([table[n] for n in ("run", "subrun", "event")], -1)
        if not len(event_ids):
            place.at(dataset="event_id").fail("no events", "at least one")
        self._indices: dict[str, ProductIndex] = {}
        self._readers: dict[str, RowReader] = {}
        bad = BadEvents(self._options.skip_bad_events)
        self._open_product(data, self._image, len(event_ids), bad)
        label = find_member(data, group_name(self._options.label_product), place)
        self.has_label = label is not None
        is_asked_for = self._options.label_product != LABEL_PRODUCT
        if self.has_label or self._options.require_label or is_asked_for:
            self._open_product(data, self._options.label_product, len(event_ids), bad)
        self._neutrinos = read_kinds_and_vertices(
            *(data, self._indices[self._image], self._options, place, self._mode, bad)
        )
        if len(bad.reasons) == len(event_ids):
            first = bad.reasons[bad.entries()[0]]
            raise LarcvFileError(f"{first}; and no event of the file is better")
        self._name_entries(event_ids, bad)
        self.max_voxels = find_max_voxels(*self._indices.values())

    def _name_entries(self, event_ids: np.ndarray, bad: BadEvents) -> None:
        """Makes the attributes of entries of those of events."""
        index = self._indices[self._image]
        self.planes = self._options.planes or (index.planes,)
        count = len(self.planes)
        shapes = index.plane_shapes
        self.plane_shapes = shapes[: len(shapes) // count]
        if shapes != self.plane_shapes * count:
            self._place.at(product=self._image, dataset="image_meta").fail(
                f"planes of {', '.join(f'{h} x {w}' for h, w in shapes)}",
                "planes of the same sizes in every entry (data.planes)",
            )
        self.num_events = len(event_ids) * count
        self.event_ids = np.repeat(event_ids, count, axis=0)
        self.bad_entries = {
            event * count + group: reason
            for event, reason in bad.reasons.items()
            for group in range(count)
        }

    def _open_product(
        self, data: h5py.Group, product: str, num_events: int, bad: BadEvents
    ) -> None:
        place = self._place.at(product=product)
        name = group_name(product)
        group = find_member(data, name, place)
        if not isinstance(group, h5py.Group):
            found = "a dataset" if group is not None else "nothing"
            is_image = product == self._image
            field = "data.image_product" if is_image else "data.label_product"
            there = name_all(data)
            place.fail(found, f"a group Data/{name}; {field} names one of {there}")
        voxels = open_table(group, "voxels", ("id", "value"), place)
        at_voxels = place.at(dataset="voxels")
        with as_larcv_error(at_voxels, "a readable table"):
            reader = RowReader(
                voxels,
                self._descriptor,
                at_voxels,
                raw_chunks=self._mode.raw_chunks,
            )
        asked = self._options.planes
        planes = None if asked is None else tuple(p for group in asked for p in group)
        if self._indices:
            # Labels are of the same planes as the charges.
            planes = self._indices[self._image].planes
        index = read_index(
            *(group, num_events, reader.num_rows, reader.chunk_rows),
            *(place, self._mode, planes, bad),
        )
        image = self._indices.get(self._image, index)
        check_alike(index, image, place.at(dataset="image_meta"))
        self._indices[product], self._readers[product] = index, reader

    def _read(self, product: str, event: int, chosen: slice) -> Voxels:
        first, count, planes = self._indices[product].spans(event, chosen)
        reader = self._readers[product]
        rows = reader.read(first, count, event)
        is_image = product == self._image
        if sum(plane.stop - plane.start for plane in planes) < count:
            rows, planes = take_planes(rows, planes)
        sizes = [height * width for height, width in self.plane_shapes]
        limit = self._options.stored_limit
        if not is_image:
            limit = self._options.num_classes - 1.0
        split = None
        if is_image or self._options.label_map is None:
            split = native.split_records(rows, planes, max(sizes), limit, is_image)
        if split is not None and are_within(split[0], planes, sizes):
            ids, values = split
            if is_image:
                values = scaled(values, self._options)
            return Voxels(ids, values, planes, True)
        place = self._at_voxels(product, event)
        check_ids(rows["id"], planes, sizes, place)
        ids = rows["id"].astype(np.int32)
        ascending = all((ids[plane][1:] > ids[plane][:-1]).all() for plane in planes)
        if not ascending:
            self._judge_order(ids, first, planes, reader.chunk_rows, place)
        if is_image:
            values = read_charges(rows["value"], planes, self._options, place)
        else:
            values = read_classes(rows["value"], self._options, place)
        return Voxels(ids, values, planes, ascending)

    def _judge_order(self, ids, first, planes, chunk_rows, place: Place) -> None:
        """Tells odd orders, which are read as stored, from chunks out of place."""
        if self._mode.strict:
            place.fail("ids not strictly ascending", "ascending ids in each plane")
        seam = chunk_order.find_broken_seam(ids, planes, first, chunk_rows)
        if seam is not None:
            found = f"ids that do not ascend from row {seam - 1} to the next"
            place.fail(found, "chunks in their places")
        duplicates = sum(
            plane.stop - plane.start - np.unique(ids[plane]).size for plane in planes
        )
        if duplicates and not self._warned_of_duplicates:
            self._warned_of_duplicates = True
            logger.warning("%s: found %d duplicate ids", place, duplicates)

    def _at_voxels(self, product: str, entry: int) -> Place:
        return self._place.at(product=product, dataset="voxels", entry=entry)

    def _check_unchanged(self, entry: int | None) -> None:
        """Raises LarcvFileError if the path now leads to another or a changed file."""
        place = self._place.at(entry=entry)
        try:
            with as_larcv_error(place, "the file that was opened"):
                if _file_state(os.stat(self.path)) != self._state:
                    place.fail("a file changed or replaced since", "the one opened")
        except LarcvFileError as error:
            raise ChangedFileError(str(error)) from error


def _file_state(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
