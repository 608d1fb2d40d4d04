"""Reads minibatches as dense images, or as the pixels that are stored.

A form says what is read on threads, and makes arrays of it. site_minibatches.py has
the third.
"""

import itertools
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from ctjax.data import images
from ctjax.data.minibatch import HostMinibatch
from ctjax.data.order import PADDING
from ctjax.data.sources import EventSource
from ctjax.data.sparse import SparsePlane, capacity_for

Submit = Callable[..., Future]
"""Runs a function of some arguments on a thread; those given first begin first."""

Arrays = dict[str, Any]
"""Fields of a HostMinibatch."""

Buffer = TypeVar("Buffer")


class Reading(Protocol):
    """Makes the arrays of minibatches in one form."""

    def start(
        self, entries: np.ndarray, submit: Submit
    ) -> tuple[list[Future], Callable[[list], Arrays]]:
        """Starts reading; returns tasks, and what makes arrays of their results."""
        ...

    def release(self, minibatch: HostMinibatch) -> None:
        """Takes back the arrays of a minibatch, to be filled again."""
        ...

    def close(self) -> None:
        """Forgets all arrays; no task is under way."""
        ...


class Lending(Generic[Buffer]):
    """Keeps arrays that come back, and knows which are away; for all threads."""

    def __init__(self, most: int):
        """Keeps up to `most` buffers that nobody uses."""
        self._most = most
        self._free: list[Buffer] = []
        self._lent: dict[int, Buffer] = {}
        self._lock = threading.Lock()

    def take(self, fits: Callable[[Buffer], bool]) -> Buffer | None:
        """Takes the buffer that came back last, which may be in the cache still."""
        with self._lock:
            for index in reversed(range(len(self._free))):
                if fits(self._free[index]):
                    return self._free.pop(index)
        return None

    def lend(self, array: np.ndarray, buffer: Buffer) -> np.ndarray:
        """Returns a view that stands for the buffer until it is given back.

        The buffer is forgotten together with a view that never comes back.
        """
        view = array[...]
        self._lent[id(view)] = buffer
        weakref.finalize(view, self._lent.pop, id(view), None).atexit = False
        return view

    def give_back(self, view: np.ndarray | None) -> None:
        """Takes the buffer of a view back, once."""
        buffer = self._lent.pop(id(view), None)
        with self._lock:
            if buffer is not None:
                self._free.append(buffer)
                # Of several sizes, those that are asked for stay.
                del self._free[: -self._most]

    def clear(self) -> None:
        """Forgets the buffers that nobody uses."""
        self._free.clear()


class DenseBuffer:
    """Holds the arrays of one minibatch and, per place, the pixels set in them."""

    def __init__(self, size: int, num_planes: int, image_shape: tuple[int, int]):
        """Makes zeros for `size` events."""
        shape = (size, num_planes, *image_shape)
        self.image = np.zeros(shape, np.float32)
        self.label = np.zeros(shape, np.uint8)
        self.set_pixels: list[tuple[np.ndarray, np.ndarray] | None] = [None] * size


class DenseImages:
    """Reads dense images, each place of a minibatch on a thread."""

    def __init__(self, source: EventSource, num_spare: int):
        """Takes the events and how many minibatches' arrays to keep."""
        self._source = source
        self._lending: Lending[DenseBuffer] = Lending(num_spare)

    def start(self, entries, submit):
        """Starts to fill arrays that nobody uses."""
        size = len(entries)
        buffer = self._lending.take(lambda buffer: len(buffer.image) == size)
        if buffer is None:
            num_planes = self._source.detector.num_planes
            buffer = DenseBuffer(size, num_planes, self._source.image_shape)
        tasks = [
            submit(self._fill, buffer, place, entry)
            for place, entry in enumerate(entries.tolist())
        ]
        return tasks, lambda _: self._lend(buffer)

    def release(self, minibatch: HostMinibatch) -> None:
        """Takes the arrays back."""
        self._lending.give_back(minibatch.image)

    def close(self) -> None:
        """Forgets all arrays."""
        self._lending.clear()

    def _lend(self, buffer: DenseBuffer) -> Arrays:
        image = self._lending.lend(buffer.image, buffer)
        return {"image": image, "label": buffer.label}

    def _fill(self, buffer: DenseBuffer, place: int, entry: int) -> None:
        """Replaces the event at one place of a buffer; runs on a thread."""
        image, label = buffer.image[place], buffer.label[place]
        before = buffer.set_pixels[place]
        if before is not None:
            images.clear(image, label, before)
            buffer.set_pixels[place] = None
        if entry != PADDING:
            buffer.set_pixels[place] = self._source.read(entry, image, label)


class StoredPixels:
    """Reads the stored pixels, each event on a thread."""

    def __init__(self, source: EventSource):
        """Takes the events."""
        self._source = source
        self._capacity = capacity_for(source.max_pixels)

    def start(self, entries, submit):
        """Starts to read the events."""
        tasks = [
            submit(self._source.read_sparse, entry)
            for entry in entries.tolist()
            if entry != PADDING
        ]
        return tasks, lambda events: self._pad(entries, events)

    def release(self, minibatch: HostMinibatch) -> None:
        """Does nothing: there is nothing to give back."""

    def close(self) -> None:
        """Does nothing."""

    def _pad(self, entries: np.ndarray, events: list[list[SparsePlane]]) -> Arrays:
        """Returns ids, values and labels of events, of one capacity."""
        longest = max((len(p.ids) for p in itertools.chain(*events)), default=0)
        self._capacity = max(self._capacity, capacity_for(longest))
        shape = (len(entries), self._source.detector.num_planes, self._capacity)
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
        return {"ids": ids, "values": values, "labels": labels}
