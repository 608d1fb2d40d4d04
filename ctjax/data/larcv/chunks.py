"""Reads rows of a one-dimensional HDF5 dataset, past HDF5's global lock where possible.

Every HDF5 call runs under one lock. Where a dataset is chunked and its filters are
none, gzip, shuffle or both, the library is asked only where a chunk lies; its bytes
are then fetched and inflated here, with the interpreter lock released, so that
threads share the work. Everything else goes through h5py. Both ways give the same
rows.
"""

import os
import threading
import zlib

import h5py
import numpy as np

from ctjax.data.larcv.errors import Place, as_larcv_error
from ctjax.data.larcv.filters import _filter_codes, _unshuffle, inflate

MAX_INFLATION = 1040
"""Deflate cannot expand further (1032 in theory); a larger claim is damage."""

MAX_CHUNK_BYTES = 2**30
"""No writer makes larger chunks; memory for a damaged size is not asked for."""

CHECKSUM_BYTES = 4
"""What HDF5's fletcher32 adds to a chunk."""

MIN_STORED_BYTES = CHECKSUM_BYTES + 1

MAX_GAP = 2**16
"""Bytes between two chunks that are cheaper to read than to leave out."""

MAX_INDEXED_CHUNKS = 50_000
"""Addresses of so many chunks are listed when a file is opened (0.1 s).

The library lists all or looks up one by walking through all, so that chunks of larger
tables are fetched through it: it finds the bytes fast, only not the address.
"""

_decoded = threading.local()
"""Keeps a `buffer` for every thread, whatever it reads from."""


class RowReader:
    """Reads ranges of rows of one dataset; safe to share between threads."""

    def __init__(
        self, dataset: h5py.Dataset, descriptor: int, place: Place, *, raw_chunks: bool
    ):
        """Looks at layout and filters, reads no rows.

        Args:
          dataset: one-dimensional, of a type checked before.
          descriptor: of the same file, open for reading.
          place: of the dataset, for errors.
          raw_chunks: False to use h5py's own path whatever the layout.

        Raises:
          LarcvFileError: where the layout cannot hold the rows.
        """
        self._dataset = dataset
        self._descriptor = descriptor
        self._place = place
        self.num_rows: int = dataset.shape[0]
        self.dtype: np.dtype = dataset.dtype
        self._shuffled = self._deflated = self.is_raw = False
        self._file_size = os.fstat(descriptor).st_size
        self.chunk_rows = 0 if dataset.chunks is None else dataset.chunks[0]
        self._chunk_bytes = self.chunk_rows * self.dtype.itemsize
        if not self.chunk_rows:
            self._check_contiguous()
            return
        if self._chunk_bytes > MAX_CHUNK_BYTES:
            place.fail(f"chunks of {self._chunk_bytes} bytes", "smaller ones")
        self._filters = filters = _filter_codes(dataset)
        deflate, shuffle = h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE
        self._deflated = deflate in filters
        self._shuffled = shuffle in filters
        # Without filters the library takes the size for granted, whatever is stored.
        num_chunks = -(-self.num_rows // self.chunk_rows)
        self._has_other_sizes = (
            not filters
            and dataset.id.get_storage_size() != num_chunks * self._chunk_bytes
        )
        plain = filters in ([], [deflate], [shuffle], [shuffle, deflate])
        self.is_raw = raw_chunks and plain
        self._index: tuple[np.ndarray, np.ndarray] | None = None
        # The library gives addresses from the end of a user block, if there is one.
        if self.is_raw and dataset.file.userblock_size == 0:
            self._index = self._list_chunks()

    def read(self, first: int, count: int, entry: int | None = None) -> np.ndarray:
        """Returns rows first .. first + count - 1.

        Args:
          first: row.
          count: number of rows, >= 0.
          entry: of the event, for errors; None for a whole table.

        Returns:
          [count] of the dataset's own compound type; what it shows changes when the
          same thread reads again, also from another dataset.

        Raises:
          LarcvFileError: where the rows are not all there or cannot be decoded.
        """
        place = self._place.at(entry=entry)
        if count == 0:
            return np.empty(0, self.dtype)
        if not self.chunk_rows:
            with as_larcv_error(place, "readable rows"):
                return self._dataset[first : first + count]
        first_chunk = first // self.chunk_rows
        chunks = range(first_chunk, (first + count - 1) // self.chunk_rows + 1)
        with as_larcv_error(place, "chunks that can be read"):
            stored = self._fetch(chunks, place)
            if stored is None:
                return self._dataset[first : first + count]
            rows = self._decode(stored, place)
        skip = first - first_chunk * self.chunk_rows
        return rows[skip : skip + count]

    def _check_contiguous(self) -> None:
        size = self.num_rows * self.dtype.itemsize
        offset = self._dataset.id.get_offset()
        if size == 0:
            return
        if offset is None and self._dataset.id.get_storage_size() < size:
            self._place.fail("no stored rows", f"{self.num_rows} rows")
        if offset is not None and offset + size > self._file_size:
            end = f"rows that end at byte {offset + size}"
            self._place.fail(end, f"at most {self._file_size}, the file's size")

    def _list_chunks(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Offset and size in the file of each chunk; None for very many chunks.

        An offset of -1 stands for a chunk that is absent, or past some filter.
        """
        num_chunks = -(-self.num_rows // self.chunk_rows)
        if not 0 < num_chunks <= MAX_INDEXED_CHUNKS:
            return None
        offsets = np.full(num_chunks, -1, np.int64)
        sizes = np.zeros(num_chunks, np.int64)

        def note(info: h5py.h5d.StoreInfo) -> None:
            chunk = info.chunk_offset[0] // self.chunk_rows
            if chunk < num_chunks and not info.filter_mask:
                offsets[chunk], sizes[chunk] = info.byte_offset, info.size

        with as_larcv_error(self._place, "an index of chunks"):
            self._dataset.id.chunk_iter(note)
        beyond = np.flatnonzero(offsets + sizes > self._file_size)
        if beyond.size:
            found = f"a chunk at byte {offsets[beyond[0]]} of {sizes[beyond[0]]} bytes"
            self._place.fail(found, f"a place in a file of {self._file_size}")
        return offsets, sizes

    def _fetch(self, chunks: range, place: Place) -> list | None:
        """The stored bytes of each chunk; None where the library has to decode them."""
        if self._index is not None:
            offsets, sizes = (part[chunks.start : chunks.stop] for part in self._index)
            if offsets.min() >= 0:
                return self._fetch_at(offsets, sizes, place)
        stored, masks = [], []
        for chunk in chunks:
            # Asked one by one because the library makes up rows of absent chunks.
            row = chunk * self.chunk_rows
            try:
                if self._has_other_sizes:
                    info = self._dataset.id.get_chunk_info_by_coord((row,))
                    if info.byte_offset is not None:
                        self._check_size(info.size, place)
                mask, data = self._dataset.id.read_direct_chunk((row,))
            except Exception:
                with as_larcv_error(place, f"a chunk at row {row}"):
                    raise
            if mask >> len(self._filters):
                place.fail(f"a chunk without filters {mask:b}", "filters that exist")
            # HDF5's fletcher32 takes the four bytes of its sum for granted.
            if len(data) < MIN_STORED_BYTES:
                place.fail(f"a chunk of {len(data)} bytes", "a whole one")
            stored.append(data)
            masks.append(mask)
        if self.is_raw and not any(masks):
            return stored
        for mask, data in zip(masks, stored, strict=True):
            self._check_size(self._decoded_size(mask, data), place)
        return None

    def _check_size(self, size: int | None, place: Place) -> None:
        if size not in (None, self._chunk_bytes):
            place.fail(f"a chunk of {size} bytes", f"{self._chunk_bytes}")

    def _decoded_size(self, mask: int, data: bytes) -> int | None:
        """Bytes of a chunk without its filters; None for filters unknown here.

        The library itself does not look: it fills short chunks with whatever its
        memory holds.
        """
        for bit, code in reversed(list(enumerate(self._filters))):
            if mask >> bit & 1:
                continue
            if code == h5py.h5z.FILTER_FLETCHER32:
                data = data[:-CHECKSUM_BYTES]
            elif code == h5py.h5z.FILTER_DEFLATE:
                limit = self._chunk_bytes + CHECKSUM_BYTES + 1
                data = zlib.decompressobj().decompress(data, limit)
            elif code != h5py.h5z.FILTER_SHUFFLE:
                return None
        return len(data)

    def _fetch_at(
        self, offsets: np.ndarray, sizes: np.ndarray, place: Place
    ) -> list[memoryview]:
        """Reads chunks past the library, neighbours in the file together."""
        order = np.argsort(offsets, kind="stable")
        starts = offsets[order]
        stops = np.maximum.accumulate(starts + sizes[order])
        far = np.flatnonzero(starts[1:] - stops[:-1] > MAX_GAP) + 1
        stored: list = [None] * len(offsets)
        for group in np.split(np.arange(len(offsets)), far):
            start, stop = int(starts[group[0]]), int(stops[group[-1]])
            data = self._pread(stop - start, start, place)
            chunks = order[group]
            begins = offsets[chunks] - start
            for chunk, begin, end in zip(
                chunks.tolist(),
                begins.tolist(),
                (begins + sizes[chunks]).tolist(),
                strict=True,
            ):
                stored[chunk] = data[begin:end]
        return stored

    def _pread(self, size: int, offset: int, place: Place) -> memoryview:
        data = os.pread(self._descriptor, size, offset)
        if len(data) != size:
            found = f"{len(data)} bytes at offset {offset}"
            place.fail(found, f"{size} (was the file truncated?)")
        return memoryview(data)

    def _decode(self, stored: list, place: Place) -> np.ndarray:
        """Undoes the filters of each chunk, into a buffer that the thread keeps.

        Memory of this size goes back to the system when it is freed, and new memory
        costs a page fault for every 4 KiB.
        """
        size = self._chunk_bytes
        smallest = size / MAX_INFLATION if self._deflated else size
        for data in stored:
            if len(data) < smallest:
                place.fail(f"a chunk of {len(data)} bytes", f"more, to make {size}")
        buffer = getattr(_decoded, "buffer", b"")
        if len(buffer) < len(stored) * size:
            buffer = _decoded.buffer = bytearray(len(stored) * size)
        target = memoryview(buffer)
        stop = 0
        for data in stored:
            if self._deflated:
                data = inflate(data, size)
            self._check_size(len(data), place)
            if self._shuffled:
                data = _unshuffle(data, self.dtype.itemsize)
            start, stop = stop, stop + size
            target[start:stop] = data
        return np.frombuffer(target[:stop], self.dtype)
