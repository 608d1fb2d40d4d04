"""Reads a larcv3 HDF5 file: the sparse voxels of one event and product.

The layout is that of docs/data-format.md. Nothing here knows of dense images, of
several files or of the order of events.
"""

import logging
import os

import h5py
import numpy as np

from ctjax.base import regular_files
from ctjax.base.constants import CHARGE_LIMIT, IMAGE_PRODUCT, LABEL_PRODUCT, NEUTRINO
from ctjax.data import native
from ctjax.data.larcv import chunk_order
from ctjax.data.larcv.chunks import RowReader
from ctjax.data.larcv.errors import LarcvFileError, Place, as_larcv_error
from ctjax.data.larcv.fingerprint import digest, sample
from ctjax.data.larcv.index import ProductIndex, read_index
from ctjax.data.larcv.records import PlaneMeta
from ctjax.data.larcv.tables import OpenMode, find_member, open_table, read_table
from ctjax.data.voxels import Voxels

logger = logging.getLogger("ctjax")


class LarcvFile:
    """Holds a file open; all methods may be called from several threads.

    Attributes:
      path: as given.
      num_bytes: size of the file.
      num_events: N.
      image_shape: rows H and columns W, from the file's own metadata.
      has_label: whether the file has the label product.
      event_ids: [N, 3] int64, run, subrun, event; all -1 where never set.
      max_voxels: most voxels that image and label of one plane have together.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        require_label: bool = False,
        strict: bool = False,
        raw_chunks: bool = True,
        charge_limit: float = CHARGE_LIMIT,
    ):
        """Opens a file and checks its index.

        Args:
          path: of the file.
          require_label: refuse a file without the label product.
          strict: refuse, too, what larcv3 reads but would not have written.
          raw_chunks: False to read voxels through h5py only.
          charge_limit: refuse a larger charge of either sign; never one that is not
            finite is read.

        Raises:
          LarcvFileError: for a file that is absent, unreadable or no larcv3 file.
        """
        self.path = os.fspath(path)
        self._require_label = require_label
        self._charge_limit = min(charge_limit, float(np.finfo(np.float32).max))
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
        self._mode = OpenMode(self._descriptor, raw_chunks, strict)
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
          entry: index of the event in this file.

        Raises:
          LarcvFileError: where the event's voxels are not as they must be.
          IndexError: for an entry outside the file.
        """
        image = self._read(IMAGE_PRODUCT, entry)
        self._check_unchanged(entry)
        return image

    def read_label(self, entry: int) -> Voxels:
        """Reads the classes of an event as `read_image` its charges; values are uint8.

        Raises:
          LarcvFileError: as there, and where the file has no labels.
        """
        if not self.has_label:
            self._place.at(product=LABEL_PRODUCT).fail("no group", "labels")
        label = self._read(LABEL_PRODUCT, entry)
        self._check_unchanged(entry)
        return label

    def plane_metas(self, entry: int) -> list[PlaneMeta]:
        """Returns the geometry of an event's image, by plane."""
        return self._indices[IMAGE_PRODUCT].metas(entry)

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
            "image": list(self.image_shape),
            "labels": self.has_label,
            "event ids": digest(self.event_ids),
            "voxels": digest(*indices),
            "content": digest(content),
        }

    def read_event(self, entry: int) -> tuple[Voxels, Voxels | None]:
        """Reads charges and, where the file has them, classes of an event.

        Args:
          entry: index of the event in this file.

        Returns:
          Charges and classes; the ids are the very same array where they are equal.

        Raises:
          LarcvFileError: as of the two; strictly, too, where a pixel has a class but
            no charge, which tells that chunks of one product are out of place.
          IndexError: for an entry outside the file.
        """
        image = self._read(IMAGE_PRODUCT, entry)
        label = self._read(LABEL_PRODUCT, entry) if self.has_label else None
        self._check_unchanged(entry)
        if label is None:
            return image, None
        if image.planes == label.planes and np.array_equal(image.ids, label.ids):
            return image, label._replace(ids=image.ids)
        place = self._at_voxels(LABEL_PRODUCT, entry)
        if self._mode.strict:
            for charged, classed in zip(image.planes, label.planes, strict=True):
                if not np.isin(label.ids[classed], image.ids[charged]).all():
                    place.fail("ids without a charge", f"those of {IMAGE_PRODUCT}")
        elif self._differs_by_whole_chunks(entry, image, label):
            found = f"ids that differ from those of {IMAGE_PRODUCT} in whole chunks"
            place.fail(found, "chunks in their places")
        return image, label

    def _differs_by_whole_chunks(
        self, entry: int, image: Voxels, label: Voxels
    ) -> bool:
        """Tells whether one of the products seems to have chunks out of place."""
        chunk_rows = {reader.chunk_rows for reader in self._readers.values()}
        firsts = {int(index.first_voxel[entry]) for index in self._indices.values()}
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
        self.event_ids = np.stack([table[n] for n in ("run", "subrun", "event")], -1)
        self.num_events = len(self.event_ids)
        if self.num_events == 0:
            place.at(dataset="event_id").fail("no events", "at least one")
        self._indices: dict[str, ProductIndex] = {}
        self._readers: dict[str, RowReader] = {}
        self._open_product(data, IMAGE_PRODUCT)
        label = find_member(data, _group_name(LABEL_PRODUCT), place)
        self.has_label = label is not None
        if self.has_label or self._require_label:
            self._open_product(data, LABEL_PRODUCT)
        self.image_shape = self._indices[IMAGE_PRODUCT].image_shape
        self.max_voxels = self._find_max_voxels()

    def _open_product(self, data: h5py.Group, product: str) -> None:
        place = self._place.at(product=product)
        name = _group_name(product)
        group = find_member(data, name, place)
        if not isinstance(group, h5py.Group):
            found = "nothing" if group is None else "a dataset"
            place.fail(found, f"a group Data/{name}")
        voxels = open_table(group, "voxels", ("id", "value"), place)
        at_voxels = place.at(dataset="voxels")
        with as_larcv_error(at_voxels, "a readable table"):
            reader = RowReader(
                voxels,
                self._descriptor,
                at_voxels,
                raw_chunks=self._mode.raw_chunks,
            )
        index = read_index(
            group,
            self.num_events,
            reader.num_rows,
            reader.chunk_rows,
            place,
            self._mode,
        )
        expected = self._indices.get(IMAGE_PRODUCT, index).image_shape
        if index.image_shape != expected:
            found = f"images of {index.image_shape[0]} x {index.image_shape[1]}"
            place.at(dataset="image_meta").fail(found, f"{expected[0]} x {expected[1]}")
        self._indices[product], self._readers[product] = index, reader

    def _find_max_voxels(self) -> int:
        image = self._indices[IMAGE_PRODUCT].counts_by_plane()
        if not self.has_label:
            return int(image.max())
        label = self._indices[LABEL_PRODUCT].counts_by_plane()
        # Equal counts mean the same pixels in every file seen; if not, the sparse
        # minibatches grow once more.
        return int(np.where(image == label, image, image + label).max())

    def _read(self, product: str, entry: int) -> Voxels:
        if not 0 <= entry < self.num_events:
            raise IndexError(f"{self.path}: entry {entry} of {self.num_events}")
        first, _, planes = span = self._indices[product].spans(entry)
        reader = self._readers[product]
        rows = reader.read(*span[:2], entry)
        num_pixels = self.image_shape[0] * self.image_shape[1]
        is_image = product == IMAGE_PRODUCT
        limit = self._charge_limit if is_image else None
        split = native.split_records(rows, planes, num_pixels, limit)
        if split is not None:
            return Voxels(*split, planes, True)
        place = self._at_voxels(product, entry)
        stored = rows["id"]
        if len(stored) and not 0 <= stored.min() <= stored.max() < num_pixels:
            found = f"ids from {stored.min()} to {stored.max()}"
            place.fail(found, f"0 to {num_pixels - 1}")
        ids = stored.astype(np.int32)
        ascending = all((ids[plane][1:] > ids[plane][:-1]).all() for plane in planes)
        if not ascending:
            self._judge_order(ids, first, planes, reader.chunk_rows, place)
        if is_image:
            values = self._check_charges(rows["value"], planes, place)
        else:
            values = _check_classes(rows["value"], place)
        return Voxels(ids, values, planes, ascending)

    def _check_charges(self, values, planes, place: Place) -> np.ndarray:
        # A dtype read from a file equals np.float32 but is not that object, which keeps
        # numpy off its fast loops: copy into an array of numpy's own.
        charges = np.empty(len(values), np.float32)
        with np.errstate(over="ignore"):
            charges[:] = values
        wrong = np.flatnonzero(~(np.abs(charges) <= self._charge_limit))
        if wrong.size:
            plane = [p.start <= wrong[0] < p.stop for p in planes].index(True)
            place.fail(
                f"value {charges[wrong[0]]} in plane {plane}",
                f"finite charges up to {self._charge_limit:g} (data.charge_limit)",
            )
        return charges

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
        with as_larcv_error(place, "the file that was opened"):
            if _file_state(os.stat(self.path)) != self._state:
                place.fail("a file changed or replaced since", "the one opened")


def _check_classes(values: np.ndarray, place: Place) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        classes = values.astype(np.uint8)
    wrong = (classes != values) | (classes > NEUTRINO)
    if wrong.any():
        place.fail(f"value {values[wrong][0]}", f"classes 0 to {NEUTRINO}")
    return classes


def _group_name(product: str) -> str:
    return f"sparse2d_{product}_group"


def _file_state(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
