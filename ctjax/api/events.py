"""Opens larcv3 files as a sequence of events."""

import functools
import operator
import os
import weakref
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, overload

import numpy as np

from ctjax.base import home
from ctjax.base.constants import CHARGE_LIMIT, NUM_PLANES
from ctjax.base.errors import UserError
from ctjax.data import images, sources
from ctjax.data.larcv.truth import neutrino_name, read_neutrinos
from ctjax.data.sources import EventSource
from ctjax.data.sparse import sparse_planes
from ctjax.data.voxels import Voxels

CURRENTS = {0: "charged", 1: "neutral"}


class EventId(NamedTuple):
    """Holds run, subrun and event, each -1 where the file does not say."""

    run: int
    subrun: int
    event: int


class Neutrino(NamedTuple):
    """Holds the true neutrino of an event.

    Attributes:
      pdg: its code, 12, 14 or 16, negative for an antineutrino.
      energy_gev: its energy.
      current: of its interaction, "charged" or "neutral"; None where unknown.
      name: all of this in words.
    """

    pdg: int
    energy_gev: float
    current: str | None
    name: str


class StoredPixels(NamedTuple):
    """Holds the stored pixels of one plane, wire after wire, each array [V].

    Attributes:
      wires: int32, column of the image.
      ticks: int32, row of the image.
      charge: float32, 0 where a class alone is stored.
      label: uint8, class; None where the file has no classes.
    """

    wires: np.ndarray
    ticks: np.ndarray
    charge: np.ndarray
    label: np.ndarray | None


class Event:
    """Holds one event, which no longer needs its file.

    Attributes:
      entry: place in the opened files, from 0.
      id: run, subrun and event.
      neutrino: the true one; None where the file does not have it.
      downsample: how often the stored image was halved.
      image_shape: rows H (drift ticks) and columns W (wires).
      voxels: charges and classes as they are stored; the latter None without classes.
    """

    def __init__(
        self,
        entry: int,
        event_id: EventId,
        neutrino: Neutrino | None,
        downsample: int,
        image_shape: tuple[int, int],
        voxels: tuple[Voxels, Voxels | None],
    ):
        """Takes what `Events` has read."""
        self.entry, self.id, self.neutrino = entry, event_id, neutrino
        self.downsample, self.image_shape = downsample, image_shape
        self.voxels = voxels

    @property
    def charge(self) -> np.ndarray:
        """Charges, [P, H, W] float32, 0 where nothing is stored; to read only."""
        return self._images[0]

    @property
    def label(self) -> np.ndarray | None:
        """Classes, [P, H, W] uint8: 0 background, 1 cosmic, 2 neutrino; or None."""
        return self._images[1] if self.voxels[1] is not None else None

    @functools.cached_property
    def sparse(self) -> tuple[StoredPixels, ...]:
        """Stored pixels of the P planes."""
        planes = []
        for plane in sparse_planes(*self.voxels):
            wires, ticks = np.divmod(plane.ids, np.int32(self.image_shape[0]))
            label = plane.classes if self.voxels[1] is not None else None
            planes.append(StoredPixels(wires, ticks, plane.values, label))
        return tuple(planes)

    @functools.cached_property
    def _images(self) -> tuple[np.ndarray, np.ndarray]:
        """Charges and classes as images."""
        shape = NUM_PLANES, *self.image_shape
        charge, label = np.zeros(shape, np.float32), np.zeros(shape, np.uint8)
        images.fill(charge, label, *self.voxels)
        # The same arrays each time: what is written to them would be seen by some
        # functions and not by others.
        charge.flags.writeable = label.flags.writeable = False
        return charge, label

    def __repr__(self) -> str:
        """Names the event."""
        words = [f"Event {self.entry}: {tuple(self.id)}"]
        if self.neutrino is not None:
            words.append(self.neutrino.name)
        height, width = self.image_shape
        return f"<{', '.join(words)}, {NUM_PLANES} x {height} x {width}>"


class _OpenFiles:
    """Keeps files open until they are closed, or until nobody needs them."""

    def __init__(self, source: EventSource):
        """Takes the open files."""
        self.source = source
        self.paths = [path for path, _, _ in source.files()]
        self._close = weakref.finalize(self, source.close)

    @functools.cached_property
    def neutrinos(self) -> np.ndarray:
        """Reads the true neutrinos of all events, once."""
        return read_neutrinos(self.paths)

    def check_open(self) -> None:
        """Raises UserError where the files have been closed."""
        if not self._close.alive:
            raise UserError(
                f"{', '.join(self.paths)}: closed, expected events that are open; "
                "ctjax.open opens them again"
            )

    def close(self) -> None:
        """Closes the files, once."""
        self._close()


class Events(Sequence[Event]):
    """The events of one or several larcv3 files, as a sequence.

    `events[3]` reads an event, `events[2:5]` and `events[[1, 7]]` choose some without
    reading them. A context manager; without it, files are closed with the last of these
    sequences.

    Attributes:
      downsample: how often images are halved.
      entries: [N] int64, places in the opened files.
    """

    def __init__(self, files: _OpenFiles, downsample: int, entries: np.ndarray):
        """Takes open files and which of their events these are."""
        self._files = files
        self.downsample = downsample
        self.entries = entries

    @property
    def source(self) -> EventSource:
        """What the pipeline reads from; raises UserError after `close`."""
        self._files.check_open()
        return self._files.source

    @property
    def paths(self) -> list[str]:
        """Names of the files."""
        return list(self._files.paths)

    @property
    def image_shape(self) -> tuple[int, int]:
        """Rows H (drift ticks) and columns W (wires) of every image."""
        return self._files.source.image_shape

    @property
    def has_label(self) -> bool:
        """Whether the files have true classes."""
        return self._files.source.has_label

    def __len__(self) -> int:
        """Counts the events."""
        return len(self.entries)

    @overload
    def __getitem__(self, index: int) -> Event: ...

    @overload
    def __getitem__(self, index: slice | Iterable[int]) -> "Events": ...

    def __getitem__(self, index: Any) -> "Event | Events":
        """Reads the event at a place, or chooses those of a slice or list of places.

        Raises:
          IndexError: there is no such event.
          LarcvFileError: the event cannot be read.
          UserError: the files are closed.
        """
        if isinstance(index, slice):
            return Events(self._files, self.downsample, self.entries[index])
        if isinstance(index, Iterable) and not isinstance(index, str):
            chosen = self._places(index)
            return Events(self._files, self.downsample, self.entries[chosen])
        return self.read_entry(int(self.entries[self._place(index)]))

    def _places(self, indices: Iterable[Any]) -> list[int]:
        """Checks a list of places, or of one bool an event."""
        chosen = np.asarray(list(indices))
        if chosen.dtype == bool:
            if chosen.shape != (len(self),):
                raise IndexError(
                    f"found {chosen.size} bools, expected one for each of {len(self)} "
                    "events"
                )
            return np.flatnonzero(chosen).tolist()
        return [self._place(place) for place in chosen]

    def _place(self, index: Any) -> int:
        """Checks a place; negative ones count from the end."""
        try:
            place = operator.index(index)
        except TypeError:
            raise TypeError(
                f"events[{index!r}]: expected an integer, a slice or a list of integers"
            ) from None
        if not -len(self) <= place < len(self):
            raise IndexError(f"events[{place}]: expected one of {len(self)} events")
        return place % len(self)

    def read_entry(self, entry: int) -> Event:
        """Reads the event at a place in the opened files."""
        source = self.source
        run, subrun, number = source.event_id(entry).tolist()
        return Event(
            entry,
            EventId(run, subrun, number),
            _named(self._files.neutrinos[entry]),
            self.downsample,
            source.image_shape,
            source.read_pooled(entry),
        )

    def __enter__(self) -> "Events":
        """Returns the events themselves."""
        return self

    def __exit__(self, *exception) -> None:
        """Closes the files."""
        self.close()

    def close(self) -> None:
        """Closes the files, for all sequences of them; events read stay as they are."""
        self._files.close()

    def __repr__(self) -> str:
        """Counts the events and names their files."""
        height, width = self.image_shape
        files = self.paths[0] if len(self.paths) == 1 else f"{len(self.paths)} files"
        return f"<{len(self)} events of {NUM_PLANES} x {height} x {width} in {files}>"


def _named(neutrino: np.void) -> Neutrino | None:
    """Returns a neutrino of `read_neutrinos`, None where there is none."""
    if not neutrino["pdg"]:
        return None
    current = CURRENTS.get(int(neutrino["current"]))
    energy_gev = float(neutrino["energy_gev"])
    return Neutrino(int(neutrino["pdg"]), energy_gev, current, neutrino_name(neutrino))


def open(
    file: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    downsample: int = 0,
    charge_limit: float = CHARGE_LIMIT,
) -> Events:
    """Opens larcv3 files.

    Args:
      file: path or glob pattern, or a list of them, which become one data set.
      downsample: how often images are halved, as `data.downsample` of a training.
      charge_limit: a larger charge of either sign is taken for damage and refused.

    Returns:
      The events; nothing but the index has been read.

    Raises:
      LarcvFileError: a file is missing or is no larcv3 file, or files do not match.
      UserError: the images cannot be halved so often.

    Example:
      >>> events = ctjax.open("cosmic_tagging_*.h5", downsample=1)
      >>> events[3].charge.shape
      (3, 640, 1024)
    """
    if isinstance(downsample, bool) or not isinstance(downsample, int):
        raise UserError(f"downsample: expected a whole number, got {downsample!r}")
    names = [file] if isinstance(file, str | os.PathLike) else list(file)
    patterns = [home.expand(os.fspath(name)) for name in names]
    try:
        source = sources.open_source(
            file=patterns, downsample=downsample, charge_limit=charge_limit
        )
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"downsample={downsample}: {error}") from error
    return Events(_OpenFiles(source), downsample, np.arange(source.num_events))
