"""Reads minibatches of host arrays ahead of their use, on threads.

Events go to a pool of threads one by one, so that all threads work on the minibatch
that is needed next. Memory is bounded: `prefetch` minibatches are ahead of the
consumer, and arrays that it gives back are used again.
"""

import collections
import concurrent.futures
import dataclasses
import time
from collections.abc import Callable, Iterable

import numpy as np

from ctjax.data.forms import Arrays, DenseImages, Reading, StoredPixels
from ctjax.data.minibatch import Form, HostMinibatch, SiteForm
from ctjax.data.order import PADDING
from ctjax.data.site_minibatches import SiteLists
from ctjax.data.sources import EventSource
from ctjax.processes.launchers import default_io_threads


@dataclasses.dataclass
class _Pending:
    """A minibatch under way."""

    entries: np.ndarray
    tasks: list[concurrent.futures.Future]
    finish: Callable[[list], Arrays]


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
        form: Form | SiteForm,
    ):
        """Takes what `minibatches` takes; reading begins with the first `next`."""
        self.wait_s = self.total_wait_s = 0.0
        self._source = source
        self._entries = iter(entries)
        self._prefetch = prefetch
        self._reading = _start_reading(source, form, prefetch + 1)
        self._pending: collections.deque[_Pending] = collections.deque()
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
        minibatch = self._assemble(pending.entries, pending.finish(results))
        self._read_ahead(self._prefetch)
        return minibatch

    def release(self, minibatch: HostMinibatch) -> None:
        """Takes back the arrays of a minibatch, to be filled again.

        Args:
          minibatch: as it came from this reader; neither it nor anything that shares
            its memory may be used any more. Stored pixels are not used again.
        """
        self._reading.release(minibatch)

    def close(self) -> None:
        """Stops reading and joins all threads; may be called twice."""
        self._closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pending.clear()
        self._reading.close()

    def _read_ahead(self, depth: int) -> None:
        while len(self._pending) < depth:
            entries = next(self._entries, None)
            if entries is None:
                return
            entries = np.asarray(entries, np.int64)
            work = self._reading.start(entries, self._pool.submit)
            self._pending.append(_Pending(entries, *work))

    def _assemble(self, entries: np.ndarray, arrays: Arrays) -> HostMinibatch:
        event_ids = np.full((len(entries), 3), -1, np.int64)
        for place in np.flatnonzero(entries != PADDING):
            event_ids[place] = self._source.event_id(int(entries[place]))
        # All have been read by now.
        bad = list(self._source.bad_events)
        mask = ((entries != PADDING) & ~np.isin(entries, bad)).astype(np.float32)
        heads = self._source.head_labels(entries.tolist())
        return HostMinibatch(entries, event_ids, mask, heads=heads, **arrays)


def minibatches(
    source: EventSource,
    entries: Iterable[np.ndarray],
    *,
    io_threads: int | None = None,
    prefetch: int = 2,
    form: Form | SiteForm = Form.DENSE,
) -> MinibatchReader:
    """Reads minibatches ahead of their use; a context manager and an iterator.

    Args:
      source: of the events; stays open.
      entries: [B] int64 per minibatch, -1 where a place stays empty. A process that
        reads a part of a global minibatch gives its own slice.
      io_threads: reading threads; None for `default_io_threads()`.
      prefetch: minibatches read ahead of the one in use, >= 0.
      form: of the arrays; for sites, `parts` must divide B.

    Returns:
      A reader of minibatches. An error of a thread is raised once, by the `next` of
      its minibatch; the reader is closed then.
    """
    return MinibatchReader(
        source,
        entries,
        io_threads=io_threads or default_io_threads(),
        prefetch=prefetch,
        form=form,
    )


def _start_reading(
    source: EventSource, form: Form | SiteForm, num_spare: int
) -> Reading:
    """Makes what reads a form and keeps the arrays of `num_spare` minibatches."""
    if isinstance(form, SiteForm):
        return SiteLists(source, form, num_spare)
    if form is Form.PIXELS:
        return StoredPixels(source)
    return DenseImages(source, num_spare)
