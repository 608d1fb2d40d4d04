"""Opens larcv3 files as a sequence of events."""

import dataclasses
import functools
import operator
import os
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, overload

import numpy as np

from ctjax.api.event import Event, EventId, format_size, named_neutrino
from ctjax.base import home
from ctjax.base.constants import CHARGE_LIMIT, IMAGE_PRODUCT, LABEL_PRODUCT
from ctjax.base.detector import COSMIC_TAGGER, Detector, ImageShape
from ctjax.base.errors import UserError
from ctjax.config import resolve
from ctjax.config.detectors import name_planes
from ctjax.config.fields import Data
from ctjax.data import sources
from ctjax.data.larcv.truth import read_neutrinos
from ctjax.data.sources import EventSource


class _OpenFiles:
    """Keeps files open until they are closed, or until nobody needs them."""

    def __init__(self, source: EventSource, data: Data):
        """Takes the open files, and how they are read."""
        self.source, self.data = source, data
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
      data: how they are read: `downsample`, `charge_scale` and so on.
      entries: [N] int64, places in the opened files.
    """

    def __init__(self, files: _OpenFiles, entries: np.ndarray):
        """Takes open files and which of their events these are."""
        self._files = files
        self.data = files.data
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
    def downsample(self) -> int:
        """How often images are halved."""
        return self.data.downsample

    @property
    def detector(self) -> Detector:
        """Planes and classes."""
        return self._files.source.detector

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in the order of their numbers."""
        return self.detector.classes

    @property
    def image_shape(self) -> ImageShape:
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
            return Events(self._files, self.entries[index])
        if isinstance(index, Iterable) and not isinstance(index, str):
            chosen = self._places(index)
            return Events(self._files, self.entries[chosen])
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
            named_neutrino(self._files.neutrinos[entry // len(source.planes)]),
            self.data,
            source.detector,
            source.image_shape,
            source.read_pooled(entry),
            source.plane_metas(entry),
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
        files = self.paths[0] if len(self.paths) == 1 else f"{len(self.paths)} files"
        size = format_size(self.detector, self.image_shape)
        return f"<{len(self)} events of {size} in {files}>"


def open(
    file: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    downsample: int = 0,
    image_product: str = IMAGE_PRODUCT,
    label_product: str = LABEL_PRODUCT,
    planes: str | Sequence[int] | Sequence[Sequence[int]] | None = None,
    classes: str | Sequence[str] = COSMIC_TAGGER.classes,
    label_map: str | Mapping[int | str, str] | None = None,
    charge_scale: float = 1.0,
    charge_limit: float = CHARGE_LIMIT,
) -> Events:
    """Opens larcv3 files.

    All but the first argument are as the fields of these names of a training, see
    docs/configuration.md, which takes a list as their text, too.

    Args:
      file: path or glob pattern, or a list of them, which become one data set.
      downsample: how often images are halved.
      image_product: producer of the charges.
      label_product: producer of the true classes; a file may be without them.
      planes: projection ids to read, in this order, as [0, 1, 2]; of lists of them, as
        [[0, 1, 2], [3, 4, 5]], each is an event of its own. None for all of the file.
      classes: names of the classes, background first; as "muon:#0072B2" with a colour.
      label_map: class, or "ignore", by stored label, as {13: "muon", "other":
        "ignore"}; None where labels are the numbers of classes.
      charge_scale: factor of the charges.
      charge_limit: a larger charge of either sign is taken for damage and refused.

    Returns:
      The events; nothing but the index has been read.

    Raises:
      LarcvFileError: a file is missing or is no larcv3 file, files do not match, or
        they have no such product or planes.
      ConfigError: planes, classes or labels are not as said.
      UserError: the images cannot be halved so often.

    Examples:
      >>> events = ctjax.open("cosmic_tagging_*.h5", downsample=1)
      >>> events[3].charge.shape
      (3, 640, 1024)
    """
    if isinstance(downsample, bool) or not isinstance(downsample, int):
        raise UserError(f"downsample: expected a whole number, got {downsample!r}")
    names = [file] if isinstance(file, str | os.PathLike) else list(file)
    patterns = [home.expand(os.fspath(name)) for name in names]
    told = {
        "image_product": image_product,
        "label_product": label_product,
        "planes": _planes_text(planes),
        "classes": classes if isinstance(classes, str) else ",".join(classes),
        "label_map": _label_map_text(label_map),
        "charge_scale": charge_scale,
    }
    files = _open_files(patterns, _make_data(told, downsample, charge_limit))
    return Events(files, np.arange(files.source.num_events))


def _make_data(told: dict[str, Any], downsample: int, charge_limit: float) -> Data:
    """Makes a data section; these two may be what a configuration does not take."""
    data = resolve.build(Data, told, "data.")
    return dataclasses.replace(data, downsample=downsample, charge_limit=charge_limit)


def _open_files(patterns: list[str], data: Data) -> _OpenFiles:
    """Opens files as a data section says, which then says how many planes there are."""
    downsample = data.downsample
    try:
        source = sources.open_source(file=patterns, downsample=downsample, data=data)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"downsample={downsample}: {error}") from error
    if data.planes is None and source.detector.num_planes != COSMIC_TAGGER.num_planes:
        data = dataclasses.replace(data, planes=name_planes(source.planes))
    return _OpenFiles(source, data)


def _planes_text(planes: Any) -> str | None:
    """Returns planes as `data.planes` has them."""
    if planes is None or isinstance(planes, str):
        return planes
    is_flat = all(isinstance(plane, int | np.integer) for plane in planes)
    return name_planes([planes] if is_flat else planes)


def _label_map_text(label_map: str | Mapping[int | str, str] | None) -> str | None:
    """Returns a map as `data.label_map` has it."""
    if label_map is None or isinstance(label_map, str):
        return label_map
    return ",".join(f"{label}:{name}" for label, name in label_map.items())
