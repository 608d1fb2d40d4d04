"""Joins larcv3 files into one data set, and says what every data set gives."""

import glob
import os
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from ctjax.base import descriptors
from ctjax.base.detector import ImageShape
from ctjax.data.larcv.file import LarcvFile, LarcvFileError
from ctjax.data.larcv.records import PlaneMeta
from ctjax.data.larcv.true_vertices import TrueNeutrino
from ctjax.data.voxels import Voxels

Planes = tuple[tuple[int, ...], ...]
"""Projection ids of the planes of each entry that an event has."""

GLOB_CHARACTERS = "*?["

SAMPLED_BYTES = 2**24
"""Read of a data set to compare it with that of another process."""


class Source(Protocol):
    """Gives sparse events by entry; `read_voxels` may be called from several threads.

    Attributes:
      num_events: N.
      plane_shapes: rows and columns of each plane before pooling.
      planes: projection ids of the planes of each entry that an event has.
      has_label: whether events have classes.
      max_voxels: most stored voxels of one plane, 0 where unknown.
      bad_entries: one line for each entry that is known to be unreadable.
    """

    num_events: int
    plane_shapes: tuple[ImageShape, ...]
    planes: Planes
    has_label: bool
    max_voxels: int
    bad_entries: dict[int, str]

    def read_voxels(self, entry: int) -> tuple[Voxels, Voxels | None]:
        """Reads charges and classes of an event, by the ids of each plane's own."""
        ...

    def event_id(self, entry: int) -> np.ndarray:
        """Returns run, subrun and event, [3] int64."""
        ...

    def plane_metas(self, entry: int) -> Sequence[PlaneMeta]:
        """Returns the geometry of an event's image, by plane."""
        ...

    def neutrino(self, entry: int) -> TrueNeutrino:
        """Returns what is known of an event's neutrino."""
        ...

    def file_of(self, entry: int) -> str:
        """Returns the path of the file that holds an event."""
        ...

    def files(self) -> list[tuple[str, int, int]]:
        """Returns path, bytes and events of every file."""
        ...

    def describe(self) -> dict[str, Any]:
        """Returns what tells these events from those of another process."""
        ...

    def close(self) -> None:
        """Closes what is open."""
        ...


class LarcvFiles:
    """Joins several larcv3 files into one data set, in the order given."""

    def __init__(self, paths: Sequence[str], **options: Any):
        """Opens all files, with the options of LarcvFile, and compares them.

        Raises:
          LarcvFileError: where one cannot be read, or differs from the first.
        """
        self._files: list[LarcvFile] = []
        shortage = descriptors.find_shortage(2 * len(paths))
        if shortage is not None:
            raise LarcvFileError(f"{len(paths)} data files: {shortage}")
        try:
            for path in paths:
                self._files.append(LarcvFile(path, **options))
            self._compare()
        except BaseException:
            self.close()
            raise
        self._stops = np.cumsum([file.num_events for file in self._files])
        self.num_events = int(self._stops[-1])
        self.plane_shapes = self._files[0].plane_shapes
        self.planes = self._files[0].planes
        self.has_label = self._files[0].has_label
        self.max_voxels = max(file.max_voxels for file in self._files)
        starts = self._stops - [file.num_events for file in self._files]
        self.bad_entries = {
            int(start) + entry: reason
            for start, file in zip(starts, self._files, strict=True)
            for entry, reason in file.bad_entries.items()
        }

    def read_voxels(self, entry: int) -> tuple[Voxels, Voxels | None]:
        """Reads charges and classes of an event; raises LarcvFileError."""
        file, local = self._find(entry)
        return file.read_event(local)

    def event_id(self, entry: int) -> np.ndarray:
        """Returns run, subrun and event, [3] int64."""
        file, local = self._find(entry)
        return file.event_ids[local]

    def plane_metas(self, entry: int) -> Sequence[PlaneMeta]:
        """Returns the geometry of an event's image, by plane."""
        file, local = self._find(entry)
        return file.plane_metas(local)

    def neutrino(self, entry: int) -> TrueNeutrino:
        """Returns what is known of an event's neutrino."""
        file, local = self._find(entry)
        return file.neutrino(local)

    def file_of(self, entry: int) -> str:
        """Returns the path of the file that holds an event."""
        return self._find(entry)[0].path

    def files(self) -> list[tuple[str, int, int]]:
        """Returns path, bytes and events of every file."""
        return [(file.path, file.num_bytes, file.num_events) for file in self._files]

    def describe(self) -> dict[str, Any]:
        """Returns what tells these files from those of another process."""
        share = SAMPLED_BYTES // len(self._files)
        return {
            f"{file.path}: {name}": value
            for file in self._files
            for name, value in file.describe(share).items()
        } | {"order of the files": [file.path for file in self._files]}

    def close(self) -> None:
        """Closes all files."""
        for file in self._files:
            file.close()

    def _find(self, entry: int) -> tuple[LarcvFile, int]:
        if not 0 <= entry < self.num_events:
            raise IndexError(f"entry {entry} of {self.num_events}")
        index = int(np.searchsorted(self._stops, entry, side="right"))
        first = self._stops[index] - self._files[index].num_events
        return self._files[index], entry - int(first)

    def _compare(self) -> None:
        first = self._files[0]
        for file in self._files[1:]:
            if len(file.plane_shapes) != len(first.plane_shapes):
                raise LarcvFileError(
                    f"{file.path}: found {len(file.plane_shapes)} planes, expected "
                    f"{len(first.plane_shapes)} as in {first.path}"
                )
            for shape, expected in zip(
                file.plane_shapes, first.plane_shapes, strict=True
            ):
                if shape != expected:
                    raise LarcvFileError(
                        f"{file.path}: found images of {_by(shape)}, expected "
                        f"{_by(expected)} as in {first.path}"
                    )
            if file.has_label != first.has_label:
                found, expected = "no labels", "labels"
                if file.has_label:
                    found, expected = "labels", "none"
                raise LarcvFileError(
                    f"{file.path}: found {found}, expected {expected} as in "
                    f"{first.path}"
                )


def find_files(patterns: Sequence[str | os.PathLike]) -> list[str]:
    """Finds the paths that match the patterns; those of one pattern are sorted.

    Args:
      patterns: paths, or glob patterns where no file has that very name.

    Raises:
      LarcvFileError: where a pattern matches nothing or a file is named twice.
    """
    paths: list[str] = []
    for pattern in [str(os.fspath(pattern)) for pattern in patterns]:
        found = [pattern]
        is_pattern = any(c in pattern for c in GLOB_CHARACTERS)
        if is_pattern and not os.path.exists(pattern):
            pattern = _escape_existing(pattern)
            found = sorted(glob.glob(pattern, recursive=True))
        if not found:
            raise LarcvFileError(f"{pattern}: found no file, expected larcv3 files")
        paths += found
    if not paths:
        raise LarcvFileError("found no file named, expected larcv3 files")
    seen: set[str] = set()
    for path in paths:
        real = os.path.realpath(path)
        if real in seen:
            raise LarcvFileError(f"{path}: found twice, expected each file once")
        seen.add(real)
    return paths


def _escape_existing(pattern: str) -> str:
    """Lets the leading folders of a pattern stand for themselves where they exist.

    So that a folder named `run[1]` is found, and not looked for as `run1`.
    """
    parts = pattern.split(os.sep)
    for length in range(len(parts) - 1, 0, -1):
        folder = os.sep.join(parts[:length])
        if os.path.isdir(folder):
            return os.sep.join([glob.escape(folder), *parts[length:]])
    return pattern


def _by(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]}"
