"""Defines the records of larcv3 files, and writes tables of them."""

import dataclasses
from collections.abc import Sequence

import h5py
import numpy as np

from ctjax.data.larcv import filters


def _record(size: int, **members: tuple[str, int]) -> np.dtype:
    """Makes a padded record type, as larcv3's C++ structs lie in memory on x86-64."""
    formats, offsets = zip(*members.values(), strict=True)
    return np.dtype(
        {"names": list(members), "formats": formats, "offsets": offsets,
         "itemsize": size}
    )  # fmt: skip


EVENT_ID = _record(24, run=("<i8", 0), subrun=("<i8", 8), event=("<i8", 16))
EXTENTS = _record(16, first=("<u8", 0), N=("<u4", 8))
ID_EXTENTS = _record(16, first=("<u8", 0), N=("<u4", 8), ID=("<u4", 12))
VOXEL = _record(16, id=("<u8", 0), value=("<f4", 8))
IMAGE_META = _record(
    72, valid=("u1", 0), projection_id=("<u8", 8), image_sizes=("(2,)<f8", 16),
    number_of_voxels=("(2,)<u8", 32), origin=("(2,)<f8", 48),
)  # fmt: skip
BBOX = _record(
    64, centroid=("(2,)<f8", 0), half_length=("(2,)<f8", 16), rotation=("(4,)<f8", 32)
)
VERTEX = np.dtype([("x", "<f8"), ("y", "<f8"), ("z", "<f8"), ("t", "<f8")])
PARTICLE = np.dtype(
    {
        "names": [
            "id", "mcst_index", "mct_index", "shape", "current_type",
            "interaction_type", "trackid", "pdg", "px", "py", "pz", "vtx", "end_pt",
            "first_step", "last_step", "dist_travel", "energy_init", "energy_deposit",
            "process", "parent_trackid", "parent_pdg", "parent_vtx",
            "ancestor_trackid", "ancestor_pdg", "ancestor_vtx",
        ],
        "formats": [
            "<u2", "<u2", "<u2", "<i4", "<i2", "<i2", "<u4", "<i4", "<f8", "<f8",
            "<f8", VERTEX, VERTEX, VERTEX, VERTEX, "<f8", "<f8", "<f8", "S64", "<u4",
            "<i4", VERTEX, "<u4", "<i4", VERTEX,
        ],
        "offsets": [
            0, 2, 4, 8, 12, 14, 16, 20, 24, 32, 40, 48, 80, 112, 144, 176, 184, 192,
            200, 264, 268, 272, 304, 308, 312,
        ],
        "itemsize": 344,
    }
)  # fmt: skip

UNSET_INDEX = 65535
"""larcv3's 16-bit value for an index that is not known."""

TRACK_SHAPE = 2
"""Value of `shape` in every row of the light file (larcv3: unknown shape)."""

NO_TYPE = -1
"""Current and interaction type of what has none."""

NO_PARENT = 2**32 - 1
"""larcv3's 32-bit value for a track that is not known."""


def unset_particles(number: int) -> np.ndarray:
    """Makes rows of type `PARTICLE` that are numbered and say nothing else."""
    rows = np.zeros(number, PARTICLE)
    rows["id"] = rows["trackid"] = np.arange(number)
    rows["mcst_index"] = rows["mct_index"] = UNSET_INDEX
    rows["shape"] = TRACK_SHAPE
    rows["current_type"] = rows["interaction_type"] = NO_TYPE
    rows["dist_travel"] = -1.0
    return rows


@dataclasses.dataclass(frozen=True)
class PlaneMeta:
    """Holds what larcv3 calls the image meta of one plane, the same for all events.

    Attributes:
      number_of_voxels: (W, H); ids are `column * H + row`.
      image_sizes: (W, H) extent in the image's unit.
      origin: (W, H) lower edge in the same unit.
    """

    number_of_voxels: tuple[int, int]
    image_sizes: tuple[float, float]
    origin: tuple[float, float] = (0.0, 0.0)


def rows_first(
    metas: Sequence[PlaneMeta],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the geometry of images as arrays have it, drift ticks before wires.

    Args:
      metas: of P planes, wires first, as files have them.

    Returns:
      Number of pixels, extent and origin, each [P, 2] float64; the latter two in the
      unit of the metas.
    """
    names = ("number_of_voxels", "image_sizes", "origin")
    pixels, sizes, origin = (
        np.array([getattr(meta, name)[::-1] for meta in metas], np.float64)
        for name in names
    )
    return pixels, sizes, origin


@dataclasses.dataclass(frozen=True)
class Storage:
    """Says how datasets lie on disk.

    Attributes:
      voxel_chunk: voxels per chunk.
      row_chunk: rows per chunk of all other tables.
      gzip_level: 0 (no compression) to 9; larcv3 reads no filter but gzip and shuffle.
      shuffle: whether bytes are reordered before compression.
    """

    voxel_chunk: int = 16384
    row_chunk: int = 1024
    gzip_level: int = 1
    shuffle: bool = True

    def __post_init__(self):
        """Rejects values HDF5 would refuse later with a worse message."""
        if self.voxel_chunk < 1 or self.row_chunk < 1:
            raise ValueError(
                f"chunks must hold at least 1 row, got {self.voxel_chunk} voxels and "
                f"{self.row_chunk} rows"
            )
        if not 0 <= self.gzip_level <= 9:
            raise ValueError(f"gzip_level must be 0 to 9, got {self.gzip_level}")


class Table:
    """Writes one growing dataset, a whole chunk at a time, past HDF5's own filters.

    They would take twice the time: zlib instead of libdeflate.
    """

    def __init__(self, group: h5py.Group, name: str, dtype: np.dtype, storage: Storage):
        """Makes the empty dataset."""
        self._chunk = storage.voxel_chunk if dtype is VOXEL else storage.row_chunk
        self._gzip_level = storage.gzip_level
        self._is_shuffled = storage.shuffle and storage.gzip_level > 0
        self.dataset = group.create_dataset(
            name,
            shape=(0,),
            maxshape=(None,),
            dtype=dtype,
            chunks=(self._chunk,),
            compression="gzip" if storage.gzip_level else None,
            compression_opts=storage.gzip_level or None,
            shuffle=self._is_shuffled,
            track_times=False,
        )
        self.dtype = dtype
        self.length = 0
        self._rows = self._empty_rows()

    def append(self, number: int, **members) -> None:
        """Adds `number` rows, members given by name, the others zero."""
        columns = {name: np.asarray(values) for name, values in members.items()}
        for name, column in columns.items():
            if column.ndim and len(column) != number:
                raise ValueError(f"{name}: expected {number} values, got {len(column)}")
        begin = 0
        while begin < number:
            filled = self.length % self._chunk
            end = min(number, begin + self._chunk - filled)
            rows = self._rows[filled : filled + end - begin]
            for name, column in columns.items():
                rows[name] = column[begin:end] if column.ndim else column
            self.length += end - begin
            begin = end
            if self.length % self._chunk == 0:
                self._write_chunk()

    def append_rows(self, rows: np.ndarray) -> None:
        """Adds rows whose members are named like the table's."""
        self.append(rows.size, **{name: rows[name] for name in self.dtype.names or ()})

    def finish(self) -> None:
        """Writes the last chunk, which the rows do not fill."""
        if self.length % self._chunk:
            self._write_chunk()

    def _empty_rows(self) -> np.ndarray:
        # Zeros: other copies of records leave the padding as memory was, and the file
        # would differ from run to run.
        return np.zeros(self._chunk, self.dtype)

    def _write_chunk(self) -> None:
        """Writes the chunk of the last row added."""
        data = self._rows.view(np.uint8)
        if self._is_shuffled:
            data = filters.shuffle(data, self.dtype.itemsize)
        if self._gzip_level:
            data = filters.deflated(data, self._gzip_level)
        self.dataset.id.set_extent((self.length,))
        first = (self.length - 1) // self._chunk * self._chunk
        self.dataset.id.write_direct_chunk((first,), data)
        self._rows = self._empty_rows()
