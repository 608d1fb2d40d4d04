"""Reads larcv3 files as one data set, or synthetic events in their place."""

import dataclasses
import glob
import os
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from ctjax.base import descriptors
from ctjax.base.constants import CHARGE_LIMIT, FULL_IMAGE_SHAPE
from ctjax.data import images
from ctjax.data.larcv.file import LarcvFile, LarcvFileError
from ctjax.data.larcv.records import PlaneMeta
from ctjax.data.pooling import pool, pooled_shape
from ctjax.data.site_lists import SiteList, list_sites
from ctjax.data.sparse import SparsePlane, sparse_planes
from ctjax.data.synthetic import SyntheticEvents
from ctjax.data.voxels import Voxels

SYNTHETIC_EVENTS = 1024
"""Synthetic events repeat after so many."""

GLOB_CHARACTERS = "*?["

SAMPLED_BYTES = 2**24
"""Read of a data set to compare it with that of another process."""


class Source(Protocol):
    """Gives sparse events by entry; `read_voxels` may be called from several threads.

    Attributes:
      num_events: N.
      stored_shape: rows H and columns W before pooling.
      has_label: whether events have classes.
      max_voxels: most stored voxels of one plane, 0 where unknown.
    """

    num_events: int
    stored_shape: tuple[int, int]
    has_label: bool
    max_voxels: int

    def read_voxels(self, entry: int) -> tuple[Voxels, Voxels | None]:
        """Reads charges and classes of an event."""
        ...

    def event_id(self, entry: int) -> np.ndarray:
        """Returns run, subrun and event, [3] int64."""
        ...

    def plane_metas(self, entry: int) -> Sequence[PlaneMeta]:
        """Returns the geometry of an event's image, by plane."""
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
        self.stored_shape = self._files[0].image_shape
        self.has_label = self._files[0].has_label
        self.max_voxels = max(file.max_voxels for file in self._files)

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
            if file.image_shape != first.image_shape:
                raise LarcvFileError(
                    f"{file.path}: found images of {_by(file.image_shape)}, expected "
                    f"{_by(first.image_shape)} as in {first.path}"
                )
            if file.has_label != first.has_label:
                found, expected = "no labels", "labels"
                if file.has_label:
                    found, expected = "labels", "none"
                raise LarcvFileError(
                    f"{file.path}: found {found}, expected {expected} as in "
                    f"{first.path}"
                )


class EventSource:
    """Pools the events of a source and gives them in every form, for the pipeline.

    Attributes:
      num_events: N.
      image_shape: rows and columns after pooling.
      has_label: whether events have classes.
      max_pixels: most pixels of a plane in the sparse form, 0 where unknown.
    """

    def __init__(self, source: Source, downsample: int):
        """Binds a source to a pooling by 2^downsample.

        Raises:
          ValueError: where the image cannot be pooled so.
        """
        self._source = source
        self._downsample = downsample
        self.image_shape = pooled_shape(source.stored_shape, downsample)
        self.num_events = source.num_events
        self.has_label = source.has_label
        size = self.image_shape[0] * self.image_shape[1]
        self.max_pixels = min(source.max_voxels, size)

    def __enter__(self) -> "EventSource":
        """Returns the source itself."""
        return self

    def __exit__(self, *exception) -> None:
        """Closes the source."""
        self.close()

    def event_id(self, entry: int) -> np.ndarray:
        """Returns run, subrun and event, [3] int64; all -1 where never set."""
        return self._source.event_id(entry)

    def plane_metas(self, entry: int) -> list[PlaneMeta]:
        """Returns the geometry of an event's image, by plane.

        Pooling changes the number of its pixels, and neither their extent nor origin.
        """
        height, width = self.image_shape
        return [
            dataclasses.replace(meta, number_of_voxels=(width, height))
            for meta in self._source.plane_metas(entry)
        ]

    def file_of(self, entry: int) -> str:
        """Returns the path of an event's file; synthetic.SYNTHETIC_NAME where none."""
        return self._source.file_of(entry)

    def files(self) -> list[tuple[str, int, int]]:
        """Returns path, bytes and events of every file."""
        return self._source.files()

    def describe(self) -> dict[str, Any]:
        """Returns what tells these events from those of another process.

        Of files: names, sizes, numbers of events, shapes, whether there are labels,
        and digests of event ids, of the places of voxels and of a part of the bytes.
        """
        return self._source.describe()

    def read_pooled(self, entry: int) -> tuple[Voxels, Voxels | None]:
        """Reads charges and classes of one event; may be called from several threads.

        Returns:
          Ids ascending, each once in a plane; classes None without labels.

        Raises:
          LarcvFileError: where the event cannot be read.
        """
        event = self._source.read_voxels(entry)
        return pool(*event, self._source.stored_shape, self._downsample)

    def read(
        self, entry: int, image_out: np.ndarray, label_out: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Fills the dense form of one event; may be called from several threads.

        Args:
          entry: of the event.
          image_out: [P, h, w] float32 zeros, C-contiguous.
          label_out: [P, h, w] uint8 zeros, C-contiguous; left as it is without labels.

        Returns:
          What `images.clear` needs to undo it.

        Raises:
          LarcvFileError: where the event cannot be read.
        """
        return images.fill(image_out, label_out, *self.read_pooled(entry))

    def read_sparse(self, entry: int) -> list[SparsePlane]:
        """Reads the sparse form of one event; may be called from several threads.

        Raises:
          LarcvFileError: where the event cannot be read.
        """
        return sparse_planes(*self.read_pooled(entry))

    def read_sites(self, entry: int, depth: int) -> SiteList:
        """Reads the sites of one event; may be called from several threads.

        Raises:
          LarcvFileError: where the event cannot be read.
        """
        return list_sites(*self.read_pooled(entry), self.image_shape, depth)

    def close(self) -> None:
        """Closes the source; no read may be under way."""
        self._source.close()


def open_source(
    *,
    file: str | os.PathLike | Sequence[str | os.PathLike] = (),
    downsample: int = 0,
    synthetic: bool = False,
    seed: int = 0,
    image_shape: tuple[int, int] = FULL_IMAGE_SHAPE,
    num_events: int = SYNTHETIC_EVENTS,
    require_label: bool = False,
    strict: bool = False,
    raw_chunks: bool = True,
    charge_limit: float = CHARGE_LIMIT,
) -> EventSource:
    """Opens a data set.

    Args:
      file: path or glob pattern, or several; read as one data set.
      downsample: pooling by 2^d on each side.
      synthetic: makes synthetic events; `file` is not looked at.
      seed: of synthetic events.
      image_shape: rows and columns of synthetic events, before pooling.
      num_events: number of different synthetic events.
      require_label: see LarcvFile; to be set for training.
      strict: see LarcvFile.
      raw_chunks: see LarcvFile.
      charge_limit: see LarcvFile.

    Returns:
      The source; to be closed.

    Raises:
      LarcvFileError: where files are absent, unreadable or do not match.
      ValueError: where the image cannot be pooled so.
    """
    if synthetic:
        return EventSource(SyntheticEvents(image_shape, seed, num_events), downsample)
    paths = find_files([file] if isinstance(file, str | os.PathLike) else file)
    source = LarcvFiles(
        paths,
        require_label=require_label,
        strict=strict,
        raw_chunks=raw_chunks,
        charge_limit=charge_limit,
    )
    try:
        return EventSource(source, downsample)
    except ValueError:
        source.close()
        raise


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
