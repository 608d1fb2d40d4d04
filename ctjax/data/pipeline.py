"""Reads minibatches of host arrays ahead of their use, on threads.

Events go to a pool of threads one by one, so that all threads work on the minibatch
that is needed next. Memory is bounded: `prefetch` minibatches are ahead of the
consumer, and dense arrays that it gives back are used again.
"""

import collections
import concurrent.futures
import dataclasses
import itertools
import time
import weakref
from collections.abc import Iterable

import numpy as np

from ctjax.base.constants import NUM_PLANES
from ctjax.data import images
from ctjax.data.minibatch import HostMinibatch
from ctjax.data.order import PADDING
from ctjax.data.sources import EventSource
from ctjax.data.sparse import SparsePlane, capacity_for
from ctjax.processes.launchers import default_io_threads


@dataclasses.dataclass
class _Buffer:
    """Dense arrays of one minibatch and, per place, the pixels set in them."""

    image: np.ndarray
    label: np.ndarray
    set_pixels: list[tuple[np.ndarray, np.ndarray] | None]


@dataclasses.dataclass
class _Pending:
    """A minibatch under way."""

    entries: np.ndarray
    buffer: _Buffer | None
    tasks: list[concurrent.futures.Future]


class MinibatchReader:
    """Iterates over minibatches in the order of the entries, whatever the threads.

    Attributes:
      wait_s: seconds that the last `next` waited for reading.
      total_wait_s: the same, summed over all.
    """

    def __init__(
        self,
        source: EventSource,
        entries: Iterable[np.ndarray],
        *,
        io_threads: int,
        prefetch: int,
        sparse: bool,
    ):
        """Takes what `minibatches` takes; reading begins with the first `next`."""
        self.wait_s = self.total_wait_s = 0.0
        self._source = source
        self._entries = iter(entries)
        self._prefetch = prefetch
        self._sparse = sparse
        self._capacity = capacity_for(source.max_pixels)
        self._pending: collections.deque[_Pending] = collections.deque()
        self._free: list[_Buffer] = []
        self._lent: dict[int, _Buffer] = {}
        self._closed = False
        self._pool = concurrent.futures.ThreadPoolExecutor(
            io_threads, thread_name_prefix="ctjax-io"
        )

    def __enter__(self) -> "MinibatchReader":
        """Returns the reader itself."""
        return self

    def __exit__(self, *exception) -> None:
        """Stops all threads."""
        self.close()

    def __iter__(self) -> "MinibatchReader":
        """Returns the reader itself."""
        return self

    def __next__(self) -> HostMinibatch:
        """Returns the next minibatch; see `minibatches`."""
        if self._closed:
            raise StopIteration
        self._read_ahead(max(1, self._prefetch))
        if not self._pending:
            self.close()
            raise StopIteration
        pending = self._pending.popleft()
        start = time.perf_counter()
        try:
            results = [task.result() for task in pending.tasks]
        except BaseException:
            self.close()
            raise
        self.wait_s = time.perf_counter() - start
        self.total_wait_s += self.wait_s
        minibatch = self._assemble(pending, results)
        self._read_ahead(self._prefetch)
        return minibatch

    def release(self, minibatch: HostMinibatch) -> None:
        """Takes back the dense arrays of a minibatch, to be filled again.

        Args:
          minibatch: as it came from this reader; neither it nor anything that shares
            its memory may be used any more. Sparse ones have nothing to give back.
        """
        buffer = self._lent.pop(id(minibatch.image), None)
        if buffer is not None and len(self._free) <= self._prefetch:
            self._free.append(buffer)

    def close(self) -> None:
        """Stops reading and joins all threads; may be called twice."""
        self._closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pending.clear()
        self._free.clear()

    def _read_ahead(self, depth: int) -> None:
        while len(self._pending) < depth:
            entries = next(self._entries, None)
            if entries is None:
                return
            self._pending.append(self._start(np.asarray(entries, np.int64)))

    def _start(self, entries: np.ndarray) -> _Pending:
        if self._sparse:
            tasks = [
                self._pool.submit(self._source.read_sparse, entry)
                for entry in entries.tolist()
                if entry != PADDING
            ]
            return _Pending(entries, None, tasks)
        buffer = self._take_buffer(len(entries))
        tasks = [
            self._pool.submit(self._fill, buffer, place, entry)
            for place, entry in enumerate(entries.tolist())
        ]
        return _Pending(entries, buffer, tasks)

    def _take_buffer(self, size: int) -> _Buffer:
        # The one given back last: parts of it are still in the processor's cache.
        for index in reversed(range(len(self._free))):
            if len(self._free[index].image) == size:
                return self._free.pop(index)
        shape = (size, NUM_PLANES, *self._source.image_shape)
        return _Buffer(
            np.zeros(shape, np.float32), np.zeros(shape, np.uint8), [None] * size
        )

    def _fill(self, buffer: _Buffer, place: int, entry: int) -> None:
        """Replaces the event at one place of a buffer; runs on a thread."""
        image, label = buffer.image[place], buffer.label[place]
        before = buffer.set_pixels[place]
        if before is not None:
            images.clear(image, label, before)
            buffer.set_pixels[place] = None
        if entry != PADDING:
            buffer.set_pixels[place] = self._source.read(entry, image, label)

    def _assemble(self, pending: _Pending, results: list) -> HostMinibatch:
        entries = pending.entries
        event_ids = np.full((len(entries), 3), -1, np.int64)
        for place in np.flatnonzero(entries != PADDING):
            event_ids[place] = self._source.event_id(int(entries[place]))
        mask = (entries != PADDING).astype(np.float32)
        minibatch = HostMinibatch(entries, event_ids, mask)
        if pending.buffer is None:
            ids, values, labels = self._pad(entries, results)
            return minibatch._replace(ids=ids, values=values, labels=labels)
        image = self._lend(pending.buffer)
        return minibatch._replace(image=image, label=pending.buffer.label)

    def _lend(self, buffer: _Buffer) -> np.ndarray:
        """A view of the image that stands for the buffer until it is given back.

        The buffer is forgotten together with a view that never comes back.
        """
        view = buffer.image[...]
        self._lent[id(view)] = buffer
        weakref.finalize(view, self._lent.pop, id(view), None).atexit = False
        return view

    def _pad(
        self, entries: np.ndarray, events: list[list[SparsePlane]]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns ids, values and labels of sparse events, of one capacity."""
        longest = max((len(p.ids) for p in itertools.chain(*events)), default=0)
        self._capacity = max(self._capacity, capacity_for(longest))
        shape = (len(entries), NUM_PLANES, self._capacity)
        num_pixels = self._source.image_shape[0] * self._source.image_shape[1]
        # Ids beyond the image are dropped by the device, and stay in order.
        beyond = np.arange(num_pixels, num_pixels + self._capacity, dtype=np.int32)
        ids = np.broadcast_to(beyond, shape).copy()
        values = np.zeros(shape, np.float32)
        labels = np.zeros(shape, np.uint8)
        for place, event in zip(
            np.flatnonzero(entries != PADDING), events, strict=True
        ):
            for plane, pixels in enumerate(event):
                count = len(pixels.ids)
                ids[place, plane, :count] = pixels.ids
                values[place, plane, :count] = pixels.values
                labels[place, plane, :count] = pixels.classes
        return ids, values, labels


def minibatches(
    source: EventSource,
    entries: Iterable[np.ndarray],
    *,
    io_threads: int | None = None,
    prefetch: int = 2,
    sparse: bool = False,
) -> MinibatchReader:
    """Reads minibatches ahead of their use; a context manager and an iterator.

    Args:
      source: of the events; stays open.
      entries: [B] int64 per minibatch, -1 where a place stays empty. A process that
        reads a part of a global minibatch gives its own slice.
      io_threads: reading threads; None for `default_io_threads()`.
      prefetch: minibatches read ahead of the one in use, >= 0.
      sparse: give the sparse form instead of dense images.

    Returns:
      A reader of minibatches. An error of a thread is raised once, by the `next` of
      its minibatch; the reader is closed then.
    """
    return MinibatchReader(
        source,
        entries,
        io_threads=io_threads or default_io_threads(),
        prefetch=prefetch,
        sparse=sparse,
    )
