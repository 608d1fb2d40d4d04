"""Pools the events of larcv3 files, or synthetic ones in their place."""

import dataclasses
import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from ctjax.base.constants import FULL_IMAGE_SHAPE
from ctjax.base.detector import COSMIC_TAGGER, Detector, ImageShape
from ctjax.base.head_labels import HeadLabels
from ctjax.config.choices import OnBadEvent
from ctjax.config.detectors import read_detector, read_label_map, read_planes
from ctjax.config.fields import Data
from ctjax.config.heads import NEUTRINO_CLASS, NO_HEADS, ActiveHeads
from ctjax.data import head_labels, images
from ctjax.data.event_files import LarcvFiles, Source, find_files
from ctjax.data.larcv.errors import (
    BadEventError,
    ChangedFileError,
    LarcvFileError,
)
from ctjax.data.larcv.records import PlaneMeta
from ctjax.data.larcv.true_vertices import TrueNeutrino
from ctjax.data.pooling import padded_shape, pool, pooled_shape
from ctjax.data.site_lists import SiteList, list_sites
from ctjax.data.sparse import SparsePlane, sparse_planes
from ctjax.data.synthetic import SyntheticEvents
from ctjax.data.voxels import Voxels, no_voxels, with_rows

logger = logging.getLogger("ctjax")

SYNTHETIC_EVENTS = 1024
"""Synthetic events repeat after so many."""


class EventSource:
    """Pools the events of a source and gives them in every form, for the pipeline.

    Attributes:
      num_events: N.
      image_shape: rows and columns after pooling, of all planes: those that are smaller
        have no charge beyond their own rows and columns.
      detector: what the images are.
      planes: projection ids of the planes of each entry that an event has.
      has_label: whether events have classes.
      max_pixels: most pixels of a plane in the sparse form, 0 where unknown.
      bad_events: by entry, in one line each, why an event has been skipped.
    """

    def __init__(
        self,
        source: Source,
        downsample: int,
        *,
        detector: Detector = COSMIC_TAGGER,
        pad_to: tuple[int, int] = (1, 1),
        skip_bad_events: bool = False,
        heads: ActiveHeads = NO_HEADS,
    ):
        """Binds a source to a pooling by 2^downsample.

        Args:
          source: of the events.
          downsample: d.
          detector: of which the classes are taken.
          pad_to: what divides the rows and columns after pooling, and the fewest of
            them; see `ctjax.models.pixel_network.ImageRule`.
          skip_bad_events: whether an event that cannot be read is given without any
            voxels, and named in `bad_events`.
          heads: of a network, for which events get labels.

        Raises:
          ValueError: where the image cannot be pooled so.
        """
        self._source = source
        self._downsample = downsample
        self._stored_shape = padded_shape(source.plane_shapes, downsample, *pad_to)
        self.image_shape = pooled_shape(self._stored_shape, downsample)
        shapes = tuple(_pooled_up(shape, downsample) for shape in source.plane_shapes)
        is_padded = any(shape != self.image_shape for shape in shapes)
        self.detector = dataclasses.replace(
            detector,
            num_planes=len(shapes),
            plane_shapes=shapes if is_padded else None,
        )
        self.planes = source.planes
        self.num_events = source.num_events
        self.has_label = source.has_label
        size = self.image_shape[0] * self.image_shape[1]
        self.max_pixels = min(source.max_voxels, size)
        self._skips = skip_bad_events
        self.bad_events: dict[int, str] = dict(source.bad_entries)
        self._heads = heads
        number = source.num_events if heads else 0
        self._neutrino_pixels = np.full(number, head_labels.UNREAD, np.int32)

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

        Pooling changes the number of its pixels, and neither their extent nor origin;
        but where it makes whole pixels of the last ones, these are as large as others.
        """
        return [
            _pooled_meta(meta, self._downsample)
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
          BadEventError: where the event cannot be read.
          LarcvFileError: where events are skipped, and all have been found bad.
        """
        try:
            image, label = self._source.read_voxels(entry)
        except LarcvFileError as error:
            if isinstance(error, ChangedFileError):
                raise
            if not self._skips:
                raise BadEventError(str(error)) from error
            if entry not in self.bad_events or entry in self._source.bad_entries:
                logger.warning("Skipped: %s", error)
            self.bad_events[entry] = str(error)
            if len(self.bad_events) == self.num_events:
                raise LarcvFileError(f"{error}; and no event is better") from error
            nothing = no_voxels(self.detector.num_planes)
            image, label = nothing, nothing._replace(values=np.zeros(0, np.uint8))
        shapes, rows = self._source.plane_shapes, self._stored_shape[0]
        same = label is not None and label.ids is image.ids
        image = with_rows(image, shapes, rows)
        if label is not None:
            label = with_rows(label, shapes, rows)
            # The very same array says that it is known to be equal.
            label = label._replace(ids=image.ids) if same else label
        image, label = pool(image, label, self._stored_shape, self._downsample)
        if self._heads and label is not None:
            number = self.detector.classes.index(NEUTRINO_CLASS)
            self._neutrino_pixels[entry] = (label.values == number).sum()
        return image, label

    def head_labels(self, entries: Sequence[int]) -> HeadLabels | None:
        """Returns the labels of a network's heads; None for one without.

        Args:
          entries: of events that have been read before, for what their pixels tell; -1
            for a place without an event.
        """
        if not self._heads:
            return None
        return head_labels.stack([self._label_heads(entry) for entry in entries])

    def _label_heads(self, entry: int) -> HeadLabels:
        """Returns the labels of the heads for one event."""
        neutrino, number = TrueNeutrino(), head_labels.UNREAD
        if entry >= 0:
            neutrino = self._source.neutrino(entry)
            number = int(self._neutrino_pixels[entry])
        event = vertex = None
        if self._heads.classification is not None:
            event = head_labels.label_event(neutrino.kind, number)
        if self._heads.vertex is not None:
            positions = neutrino.positions
            # An event that does not show its neutrino shows no vertex.
            is_hidden = head_labels.UNREAD < number < head_labels.FEWEST_PIXELS
            if positions is not None and is_hidden:
                positions = np.full((self.detector.num_planes, 2), np.nan, np.float32)
            vertex = head_labels.label_vertex(
                positions, self.plane_metas(max(entry, 0)), self._heads.halvings
            )
        return HeadLabels(event, vertex)

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
        event = self.read_pooled(entry)
        return list_sites(*event, self.image_shape, depth, self.detector)

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
    data: Data | None = None,
    pad_to: tuple[int, int] = (1, 1),
    heads: ActiveHeads = NO_HEADS,
    **options: Any,
) -> EventSource:
    """Opens a data set.

    Args:
      file: path or glob pattern, or several; read as one data set.
      downsample: pooling by 2^d on each side.
      synthetic: makes synthetic events; `file` is not looked at.
      seed: of synthetic events.
      image_shape: rows and columns of synthetic events, before pooling.
      num_events: number of different synthetic events.
      data: says which products, planes and classes events have, what is done to their
        charges, and to events that are bad; None for the defaults.
      pad_to: see `EventSource`.
      heads: see `EventSource`.
      options: further ones of `larcv.read_options.ReadOptions`.

    Returns:
      The source; to be closed.

    Raises:
      LarcvFileError: where files are absent, unreadable or do not match.
      ConfigError: a field of `data` is not as its help says.
      ValueError: where the image cannot be pooled so.
    """
    data = data or Data()
    detector = read_detector(data)
    skips = data.on_bad_event is OnBadEvent.SKIP
    choices: Any = {
        "detector": detector,
        "pad_to": pad_to,
        "skip_bad_events": skips,
        "heads": heads,
    }
    if synthetic:
        events = SyntheticEvents(
            image_shape, seed, num_events, detector.num_planes, detector.num_classes
        )
        return EventSource(events, downsample, **choices)
    paths = find_files([file] if isinstance(file, str | os.PathLike) else file)
    source = LarcvFiles(paths, **_read_options(data, detector, heads) | options)
    try:
        return EventSource(source, downsample, **choices)
    except ValueError:
        source.close()
        raise


def _read_options(data: Data, detector: Detector, heads: ActiveHeads) -> dict[str, Any]:
    """Returns those of `larcv.read_options.ReadOptions` that a configuration says."""
    groups = read_planes(data)
    return {
        "event_classes": heads.classification is not None,
        "vertices": heads.vertex is not None,
        "image_product": data.image_product,
        "label_product": data.label_product,
        "planes": None if groups is None else tuple(groups),
        "num_classes": detector.num_classes,
        "label_map": read_label_map(data),
        "charge_scale": data.charge_scale,
        "charge_limit": data.charge_limit,
        "skip_bad_events": data.on_bad_event is OnBadEvent.SKIP,
    }


def _pooled_up(shape: ImageShape, downsample: int) -> ImageShape:
    """Returns rows and columns after pooling, the last ones of fewer pixels, too."""
    return -(-shape[0] // 2**downsample), -(-shape[1] // 2**downsample)


def _pooled_meta(meta: PlaneMeta, downsample: int) -> PlaneMeta:
    """Returns the geometry of a plane after pooling."""
    width, height = meta.number_of_voxels
    rows, columns = _pooled_up((height, width), downsample)
    factor = 2**downsample
    if (rows * factor, columns * factor) == (height, width):
        return dataclasses.replace(meta, number_of_voxels=(columns, rows))
    sizes = (
        meta.image_sizes[0] * (columns * factor / width),
        meta.image_sizes[1] * (rows * factor / height),
    )
    return PlaneMeta((columns, rows), sizes, meta.origin)
