"""Writes larcv3 files: sparse2d, particle and bbox2d products, event by event.

Written from a description of the format; the larcv3 library reads the result. What is
in a product is not decided here: images, labels and predictions all come this way.
"""

import contextlib
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import h5py
import numpy as np

from ctjax.data.larcv.disk_file import DiskFile
from ctjax.data.larcv.records import (
    BBOX,
    EVENT_ID,
    EXTENTS,
    ID_EXTENTS,
    IMAGE_META,
    PARTICLE,
    VOXEL,
    PlaneMeta,
    Storage,
    Table,
)

SparsePlanes = Sequence[tuple[np.ndarray, np.ndarray]]
"""(ids, values) of each plane."""


class LarcvWriter:
    """Streams events into one larcv3 file; a context manager.

    The file grows under a temporary name in the folder of `path` and takes its name
    when the block ends without an error; otherwise it is removed.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        metas: Sequence[PlaneMeta],
        sparse2d: Sequence[str] = (),
        particles: Sequence[str] = (),
        bboxes: Sequence[str] = (),
        storage: Storage | None = None,
        attributes: Mapping[str, Any] | None = None,
    ):
        """Names the products; nothing is created before the block is entered.

        Args:
          path: file to make.
          metas: P image metas, by projection id, of any sizes; `append` may give
            others.
          sparse2d: producers of sparse2d products.
          particles: producers of particle products.
          bboxes: producers of bbox2d products.
          storage: chunks and compression.
          attributes: of the file as a whole, which larcv3 passes over.

        Raises:
          ValueError: no meta, or a producer twice.
        """
        if not metas:
            raise ValueError("expected an image meta of each plane, got none")
        for names in (sparse2d, particles, bboxes):
            if len(set(names)) < len(names):
                raise ValueError(f"a producer is named twice: {', '.join(names)}")
        self.path = pathlib.Path(path)
        self._metas = _meta_rows(metas)
        self._attributes = dict(attributes or {})
        self._pixels = [int(np.prod(meta.number_of_voxels)) for meta in metas]
        self._producers = {
            "sparse2d": tuple(sparse2d),
            "particle": tuple(particles),
            "bbox2d": tuple(bboxes),
        }
        self._storage = storage or Storage()
        self._tables: dict[str, Table] = {}
        self._file: h5py.File | None = None
        self._disk: DiskFile | None = None
        self.number_of_events = 0

    def __enter__(self) -> "LarcvWriter":
        """Opens the temporary file.

        Raises:
          FileExistsError: the output exists already.
          UserError: another process writes it.
          OSError: the folder is missing or not writable.
        """
        if os.path.lexists(self.path):
            raise FileExistsError(f"output exists already: {self.path}")
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"no such folder: {self.path.parent}")
        # The default lower bound of library versions: larcv3's HDF5 may be old.
        self._disk = DiskFile(self.path)
        try:
            self._file = h5py.File(self._disk, "w")
            self._file.attrs.update(self._attributes)
            self._create_tables(self._file)
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(self, kind, error, trace) -> None:
        """Completes the file, or removes it after an error."""
        disk = self._disk
        if kind is not None or disk is None:
            self._discard()
            return
        try:
            for table in self._tables.values():
                table.finish()
            self._close()
            os.fsync(disk.fileno())
            if os.path.lexists(self.path):
                raise FileExistsError(f"output exists already: {self.path}")
            os.replace(disk.path, self.path)
            disk.close()
        except BaseException:
            self._discard()
            raise

    def append(
        self,
        event_id: tuple[int, int, int],
        sparse2d: Mapping[str, SparsePlanes],
        particles: Mapping[str, np.ndarray] | None = None,
        bboxes: Mapping[str, Sequence[np.ndarray]] | None = None,
        metas: Sequence[PlaneMeta] | None = None,
    ) -> None:
        """Adds one event; every product of the file must be given.

        Args:
          event_id: run, subrun, event.
          sparse2d: by producer, for each plane ids [V] uint64 (ascending, unique,
            `column * H + row` with its own H) and values [V], stored as float32: all
            class numbers up to 65535 are kept.
          particles: by producer, [N] records of type `PARTICLE`.
          bboxes: by producer, for each plane [N] records of type `BBOX`.
          metas: P image metas of this event, where they are not those of the file; of
            as many pixels.

        Raises:
          ValueError: producers, planes or ids are not as said; nothing was added.
        """
        rows = self._metas if metas is None else _meta_rows(metas)
        if not np.array_equal(
            rows["number_of_voxels"], self._metas["number_of_voxels"]
        ):
            raise ValueError(f"images of other pixels than the file's: {metas}")
        particles, bboxes = particles or {}, bboxes or {}
        given = {"sparse2d": sparse2d, "particle": particles, "bbox2d": bboxes}
        for kind, products in given.items():
            if set(products) != set(self._producers[kind]):
                raise ValueError(
                    f"{kind} producers {sorted(products)} do not match the file's "
                    f"{sorted(self._producers[kind])}"
                )
        for producer, planes in sparse2d.items():
            self._check_planes(producer, planes)
        for producer, planes in bboxes.items():
            self._check_number(producer, planes)
        run, subrun, event = event_id
        self._tables["event_id"].append(1, run=run, subrun=subrun, event=event)
        for producer, planes in sparse2d.items():
            self._append_sparse(f"sparse2d_{producer}_group", planes, rows)
        for producer, table in particles.items():
            self._append_particles(f"particle_{producer}_group", table)
        for producer, planes in bboxes.items():
            self._append_boxes(f"bbox2d_{producer}_group", planes, rows)
        self.number_of_events += 1
        self._raise_disk_error()

    def _create_tables(self, file: h5py.File) -> None:
        """Makes all groups and empty datasets."""
        layouts = {
            "sparse2d": {
                "extents": EXTENTS, "voxel_extents": ID_EXTENTS,
                "image_meta": IMAGE_META, "voxels": VOXEL,
            },
            "particle": {"extents": EXTENTS, "particles": PARTICLE},
            "bbox2d": {
                "extents": EXTENTS, "image_meta": IMAGE_META,
                "bbox_extents": ID_EXTENTS, "bboxes": BBOX,
            },
        }  # fmt: skip
        self._tables["event_id"] = Table(
            file.create_group("Events"), "event_id", EVENT_ID, self._storage
        )
        data = file.create_group("Data")
        for kind, producers in self._producers.items():
            for producer in producers:
                name = f"{kind}_{producer}_group"
                group = data.create_group(name)
                for table, dtype in layouts[kind].items():
                    self._tables[f"{name}/{table}"] = Table(
                        group, table, dtype, self._storage
                    )

    def _check_planes(self, producer: str, planes: SparsePlanes) -> None:
        """Rejects what a reader could not place."""
        self._check_number(producer, planes)
        for plane, ((ids, values), pixels) in enumerate(
            zip(planes, self._pixels, strict=True)
        ):
            where = f"{producer}, plane {plane}"
            if ids.shape != values.shape or ids.ndim != 1:
                raise ValueError(
                    f"{where}: ids {ids.shape} and values {values.shape} must be one "
                    "list each, of one length"
                )
            if ids.size and (ids.dtype.kind not in "ui" or ids[-1] >= pixels):
                raise ValueError(f"{where}: ids must be integers below {pixels}")
            if ids.size and (ids[0] < 0 or (ids[1:] <= ids[:-1]).any()):
                raise ValueError(f"{where}: ids must be ascending and unique")
            with np.errstate(over="ignore"):
                stored = values.astype(np.float32, copy=False)
            if not np.isfinite(stored).all():
                raise ValueError(f"{where}: values must be finite as float32")

    def _check_number(self, producer: str, planes: Sequence) -> None:
        """Rejects another number of planes than the file's."""
        if len(planes) != len(self._metas):
            raise ValueError(
                f"{producer}: expected {len(self._metas)} planes, got {len(planes)}"
            )

    def _append_sparse(
        self, group: str, planes: SparsePlanes, metas: np.ndarray
    ) -> None:
        """Adds the rows of one sparse2d product; all planes, empty ones too."""
        voxels = self._tables[f"{group}/voxels"]
        sizes = [ids.size for ids, _ in planes]
        self._append_projections(group, "voxel_extents", voxels.length, sizes, metas)
        for ids, values in planes:
            voxels.append(ids.size, id=ids, value=values)

    def _append_particles(self, group: str, rows: np.ndarray) -> None:
        """Adds the rows of one particle product."""
        table = self._tables[f"{group}/particles"]
        self._tables[f"{group}/extents"].append(1, first=table.length, N=rows.size)
        table.append_rows(rows)

    def _append_boxes(
        self, group: str, planes: Sequence[np.ndarray], metas: np.ndarray
    ) -> None:
        """Adds the rows of one bbox2d product."""
        table = self._tables[f"{group}/bboxes"]
        sizes = [rows.size for rows in planes]
        self._append_projections(group, "bbox_extents", table.length, sizes, metas)
        for rows in planes:
            table.append_rows(rows)

    def _append_projections(
        self, group: str, name: str, first: int, sizes: list[int], metas: np.ndarray
    ) -> None:
        """Adds the extents and metas of one event's planes."""
        extents = self._tables[f"{group}/{name}"]
        number = len(sizes)
        self._tables[f"{group}/extents"].append(1, first=extents.length, N=number)
        starts = first + np.cumsum([0, *sizes[:-1]])
        extents.append(number, first=starts, N=sizes, ID=np.arange(number))
        self._tables[f"{group}/image_meta"].append_rows(metas)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        self._raise_disk_error()

    def _raise_disk_error(self) -> None:
        if self._disk is not None:
            self._disk.check(self.path)

    def _discard(self) -> None:
        """Removes the temporary file, whatever state it is in."""
        with contextlib.suppress(OSError):
            self._close()
        if self._disk is not None and not self._disk.closed:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._disk.path)
            self._disk.close()


def _meta_rows(metas: Sequence[PlaneMeta]) -> np.ndarray:
    """Returns the rows of `image_meta`, one per plane."""
    rows = np.zeros(len(metas), IMAGE_META)
    rows["valid"] = 1
    rows["projection_id"] = np.arange(len(metas))
    for name in ("number_of_voxels", "image_sizes", "origin"):
        rows[name] = [getattr(meta, name) for meta in metas]
    return rows
