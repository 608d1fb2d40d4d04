"""Reads an event as people look at it: the pixels that hold something, with classes."""

import contextlib
import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ctjax.base.detector import COSMIC_TAGGER, IGNORED, Detector, ImageShape
from ctjax.config.choices import OnBadEvent
from ctjax.config.detectors import IGNORE, read_detector
from ctjax.config.fields import Data
from ctjax.data import sources
from ctjax.data.larcv.file import LarcvFileError
from ctjax.data.larcv.truth import neutrino_name, read_neutrinos
from ctjax.views.event_table import Vertices, read_found_events
from ctjax.views.predicted import (
    EventViewError,
    PredictedPlane,
    find_downsample,
    find_entry,
    look_up,
    read_planes,
    read_recorded,
)


class PlanePixels(NamedTuple):
    """Holds the pixels of one plane, each array [V].

    Attributes:
      rows: int32, from the first drift tick.
      columns: int32, from the first wire.
      charge: float32.
      truth: uint8, class or `IGNORED`.
      prediction: uint8, class.
    """

    rows: np.ndarray
    columns: np.ndarray
    charge: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray


class EventView(NamedTuple):
    """Holds an event to look at.

    Attributes:
      planes: P of them.
      image_shape: rows H and columns W of the images, those of the largest plane or
        more.
      pixel_size: number of ticks, and of wires, in one pixel: 2^downsample.
      has_truth: whether the truth is known; if not, `truth` is 0 everywhere.
      has_prediction: likewise for `prediction`.
      title: one line about the event.
      metrics: value by name of `Detector.metric_names`; may be empty.
      detector: whose planes and classes these are.
      vertices: true and predicted, in rows and columns of the images, where pixel
        number 0 reaches from 0 to 1; None where the network does not find them.
    """

    planes: tuple[PlanePixels, ...]
    image_shape: ImageShape
    pixel_size: int
    has_truth: bool
    has_prediction: bool
    title: str
    metrics: Mapping[str, float]
    detector: Detector = COSMIC_TAGGER
    vertices: Vertices | None = None

    @property
    def plane_shapes(self) -> tuple[ImageShape, ...]:
        """Returns rows and columns of each plane, which is all that is drawn."""
        return self.detector.shapes_of_planes(self.image_shape)


def read_view(
    file: str, predictions: str, entry: int, fields: Mapping[str, Any] | None = None
) -> EventView:
    """Reads an event of a larcv3 file and what was predicted for it.

    Args:
      file: path, glob pattern or comma-separated list, as of `data.file`.
      predictions: predictions.h5 of an inference over the same file, or empty.
      entry: number of the event in the file.
      fields: of the data section, those of `DETECTOR_FIELDS` that are said; the rest
        is as the predictions have it, or else the default.

    Returns:
      The event, at the resolution of the predictions if there are any, else of the
      file.

    Raises:
      LarcvFileError, EventViewError, ConfigError: something cannot be read, or the
        predictions are of other events.
    """
    paths = sources.find_files([name.strip() for name in file.split(",")])
    recorded = read_recorded(predictions) if predictions else {}
    data = Data(**{**recorded, **(fields or {})})
    with _open(paths, data) as source:
        if not 0 <= entry < source.num_events:
            raise EventViewError(
                f"--entry: expected 0 to {source.num_events - 1}, the events of "
                f"{file}, got {entry}"
            )
        shapes = source.detector.shapes_of_planes(source.image_shape)
        event_id, entries_per_event = source.event_id(entry), len(source.planes)
    predicted, values, downsample, vertices, found_class = None, {}, 0, None, ""
    if predictions:
        place, values = find_entry(predictions, entry)
        predicted = read_planes(predictions, place)
        downsample = find_downsample(shapes, predicted, predictions, file)
        check_same_event(predictions, place, event_id, paths, entry, downsample, data)
        found = read_found_events(os.path.dirname(predictions))
        if found is not None and entry in found.entries[place : place + 1]:
            vertices, found_class = found.vertices_of(place), found.class_words(place)
    neutrino = read_neutrinos(paths)[entry // entries_per_event]
    title = [event_name(entry, event_id), neutrino_name(neutrino), found_class]
    with _open(paths, data, downsample) as source:
        name, size = ", ".join(filter(None, title)), 2**downsample
        return _view(source, entry, size, name, predicted, values, vertices)


def read_predicted_view(
    predictions: str,
    place: int,
    pixel_size: int,
    title: str,
    vertices: Vertices | None = None,
) -> EventView:
    """Reads an event from predictions alone, which hold charge and truth, too.

    Args:
      predictions: predictions.h5 of an inference.
      place: position of the event in it.
      pixel_size: see `EventView`.
      title: one line about the event.
      vertices: of the event, in cm; None for none.

    Returns:
      The event, without metrics.

    Raises:
      LarcvFileError, EventViewError: something cannot be read.
    """
    predicted = read_planes(predictions, place)
    with _open_predictions(predictions) as source:
        return _view(source, place, pixel_size, title, predicted, vertices=vertices)


def read_stored_view(
    paths: Sequence[str],
    entry: int,
    downsample: int,
    title: str,
    data: Data | None = None,
    vertices: Vertices | None = None,
) -> EventView:
    """Reads charge and truth of an event.

    Args:
      paths: larcv3 files.
      entry: number of the event in them.
      downsample: how often the image is halved.
      title: one line about the event.
      data: says what the events of the files are; None for the defaults.
      vertices: of the event, in cm; None for none.

    Returns:
      The event, without metrics.

    Raises:
      LarcvFileError: something cannot be read.
    """
    with _open(paths, data, downsample) as source:
        return _view(source, entry, 2**downsample, title, vertices=vertices)


def check_same_event(
    predictions: str,
    place: int,
    event_id: Sequence[float] | np.ndarray,
    paths: Sequence[str],
    entry: int,
    downsample: int,
    data: Data | None = None,
) -> None:
    """Compares an event of predictions with what it is taken for.

    Args:
      predictions: predictions.h5 of an inference, which holds the charges it saw.
      place: position of the event in it.
      event_id: [3] run, subrun and event expected.
      paths: files that should hold the same event; where there are none, the ids alone
        are compared.
      entry: number of the event in them.
      downsample: how often the image was halved for the predictions.
      data: says what the events of the files are; None for the defaults.

    Raises:
      EventViewError: it is another event.
      LarcvFileError: something cannot be read.
    """
    with _open_predictions(predictions) as source:
        if place >= source.num_events:
            raise EventViewError(
                f"{predictions}: found {source.num_events} events, expected more than "
                f"{place}: predictions of another inference"
            )
        found = source.event_id(place)
        charges = _charges(source, place)
    # Tables are read as floating point numbers, which the largest ids do not fit.
    if not np.array_equal(found.astype(np.float64), np.asarray(event_id, np.float64)):
        raise EventViewError(
            f"{predictions}: found event {tuple(found.tolist())} at place {place}, "
            f"expected {tuple(int(n) for n in event_id)} (run, subrun, event), which "
            f"is entry {entry}: predictions of another inference"
        )
    if not paths:
        return
    with _open(paths, data, downsample) as source:
        expected = _charges(source, entry)
    if len(charges) != len(expected):
        raise EventViewError(
            f"{predictions}: found {len(charges)} planes, expected the {len(expected)} "
            f"of {', '.join(paths)}"
        )
    for plane, ((ids, values), (others, other_values)) in enumerate(
        zip(charges, expected, strict=True)
    ):
        same = np.array_equal(ids, others) and np.array_equal(values, other_values)
        if not same:
            raise EventViewError(
                f"{predictions}: found other charges in plane {plane} at place {place} "
                f"than in entry {entry} of {', '.join(paths)}: expected predictions of "
                "these events"
            )


def _charges(
    source: sources.EventSource, entry: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Reads the pixels of each plane that have charge: ids in the plane, charges."""
    shapes = source.detector.shapes_of_planes(source.image_shape)
    found = []
    for pixels, (height, _) in zip(source.read_sparse(entry), shapes, strict=True):
        at = pixels.values != 0
        columns, rows = np.divmod(pixels.ids[at], np.int32(source.image_shape[0]))
        found.append((columns * np.int32(height) + rows, pixels.values[at]))
    return found


def _open(
    paths: Sequence[str], data: Data | None, downsample: int = 0
) -> sources.EventSource:
    """Opens files to look at an event, whatever others or its charges are like."""
    data = data or Data()
    options: dict[str, Any] = {"file": paths, "downsample": downsample}
    options["charge_limit"] = math.inf
    try:
        return sources.open_source(**options, data=data)
    except LarcvFileError as error:
        skips = dataclasses.replace(data, on_bad_event=OnBadEvent.SKIP)
        with contextlib.suppress(LarcvFileError):
            return sources.open_source(**options, data=skips)
        raise error


def _open_predictions(path: str) -> sources.EventSource:
    """Opens predictions, whose planes, classes and charges are those of the run."""
    recorded = read_recorded(path)
    data = Data(**recorded)
    detector = read_detector(data)
    as_written = None
    if detector.has_ignored:
        numbers = [f"{number}:{number}" for number in range(detector.num_classes)]
        as_written = ",".join([*numbers, f"{IGNORED}:{IGNORE}"])
    names = ("image_product", "label_product", "classes")
    kept = {name: getattr(data, name) for name in names}
    return _open([path], Data(**kept, label_map=as_written))


def _view(
    source: sources.EventSource,
    entry: int,
    pixel_size: int,
    title: str,
    predicted: Sequence[PredictedPlane] | None = None,
    values: Mapping[str, float] | None = None,
    vertices: Vertices | None = None,
) -> EventView:
    """Reads an event of an open file, with what was predicted for it."""
    if entry in source.bad_events:
        raise EventViewError(source.bad_events[entry])
    height = np.int32(source.image_shape[0])
    planes = []
    for plane, pixels in enumerate(source.read_sparse(entry)):
        columns, rows = np.divmod(pixels.ids, height)
        found = np.zeros(len(pixels.ids), np.uint8)
        if predicted is not None:
            found = look_up(predicted[plane], rows, columns)
        planes.append(PlanePixels(rows, columns, pixels.values, pixels.classes, found))
    return EventView(
        tuple(planes),
        source.image_shape,
        pixel_size,
        source.has_label,
        predicted is not None,
        title,
        values or {},
        source.detector,
        None if vertices is None else vertices.in_pixels(source.plane_metas(entry)),
    )


def event_name(entry: int, event_id: np.ndarray) -> str:
    """Names an event by its entry and, where they are known, run, subrun and event."""
    run, subrun, event = (int(number) for number in event_id)
    known = event >= 0
    return f"entry {entry}" + (f", event {run}/{subrun}/{event}" if known else "")
