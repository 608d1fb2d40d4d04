"""Reads an event as people look at it: the pixels that hold something, with classes."""

import csv
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import h5py
import numpy as np

from ctjax.base import regular_files
from ctjax.base.constants import (
    CLASS_PRODUCT,
    COSMIC,
    METRIC_NAMES,
    NEUTRINO,
)
from ctjax.base.errors import UserError
from ctjax.data import sources
from ctjax.data.larcv.truth import neutrino_name, read_neutrinos

MAX_DOWNSAMPLE = 10
"""No prediction belongs to a file whose image would have to be halved more often."""


class PlanePixels(NamedTuple):
    """Holds the pixels of one plane, each array [V].

    Attributes:
      rows: int32, from the first drift tick.
      columns: int32, from the first wire.
      charge: float32.
      truth: uint8, class.
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
      image_shape: rows H and columns W.
      pixel_size: number of ticks, and of wires, in one pixel: 2^downsample.
      has_truth: whether the truth is known; if not, `truth` is 0 everywhere.
      has_prediction: likewise for `prediction`.
      title: one line about the event.
      metrics: value by name of `METRIC_NAMES`; may be empty.
    """

    planes: tuple[PlanePixels, ...]
    image_shape: tuple[int, int]
    pixel_size: int
    has_truth: bool
    has_prediction: bool
    title: str
    metrics: Mapping[str, float]


class EventViewError(UserError):
    """An event cannot be shown; the message names the file or the argument."""


def read_view(file: str, predictions: str, entry: int) -> EventView:
    """Reads an event of a larcv3 file and what was predicted for it.

    Args:
      file: path, glob pattern or comma-separated list, as of `data.file`.
      predictions: predictions.h5 of an inference over the same file, or empty.
      entry: number of the event in the file.

    Returns:
      The event, at the resolution of the predictions if there are any, else of the
      file.

    Raises:
      LarcvFileError, EventViewError: something cannot be read, or the predictions are
        of other events.
    """
    paths = sources.find_files([name.strip() for name in file.split(",")])
    with _open(paths) as source:
        if not 0 <= entry < source.num_events:
            raise EventViewError(
                f"--entry: expected 0 to {source.num_events - 1}, the events of "
                f"{file}, got {entry}"
            )
        shape, has_truth = source.image_shape, source.has_label
        event_id = source.event_id(entry)
    predicted, values, downsample = None, {}, 0
    if predictions:
        place, values = _find_entry(predictions, entry)
        predicted, predicted_shape = _read_prediction(predictions, place)
        downsample = _downsample(shape, predicted_shape, predictions, file)
        check_same_event(predictions, place, event_id, paths, entry, downsample)
    planes, shape = _read_planes(paths, entry, downsample, predicted)
    name = neutrino_name(read_neutrinos(paths)[entry])
    title = ", ".join(filter(None, [event_name(entry, event_id), name]))
    return EventView(
        planes, shape, 2**downsample, has_truth, bool(predictions), title, values
    )


def read_predicted_view(
    predictions: str, place: int, pixel_size: int, title: str
) -> EventView:
    """Reads an event from predictions alone, which hold charge and truth, too.

    Args:
      predictions: predictions.h5 of an inference.
      place: position of the event in it.
      pixel_size: see `EventView`.
      title: one line about the event.

    Returns:
      The event, without metrics.

    Raises:
      LarcvFileError, EventViewError: something cannot be read.
    """
    predicted, _ = _read_prediction(predictions, place)
    planes, shape = _read_planes([predictions], place, 0, predicted)
    with _open([predictions]) as source:
        has_truth = source.has_label
    return EventView(planes, shape, pixel_size, has_truth, True, title, {})


def read_stored_view(
    paths: Sequence[str], entry: int, downsample: int, title: str
) -> EventView:
    """Reads charge and truth of an event.

    Args:
      paths: larcv3 files.
      entry: number of the event in them.
      downsample: how often the image is halved.
      title: one line about the event.

    Returns:
      The event, without metrics.

    Raises:
      LarcvFileError: something cannot be read.
    """
    planes, shape = _read_planes(paths, entry, downsample, None)
    with _open(paths) as source:
        has_truth = source.has_label
    return EventView(planes, shape, 2**downsample, has_truth, False, title, {})


def check_same_event(
    predictions: str,
    place: int,
    event_id: Sequence[float] | np.ndarray,
    paths: Sequence[str],
    entry: int,
    downsample: int,
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

    Raises:
      EventViewError: it is another event.
      LarcvFileError: something cannot be read.
    """
    with _open([predictions]) as source:
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
    with _open(paths, downsample) as source:
        expected = _charges(source, entry)
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
    """Reads ids and charges of the pixels of each plane that have charge."""
    planes = source.read_sparse(entry)
    held = [pixels.values != 0 for pixels in planes]
    return [(p.ids[at], p.values[at]) for p, at in zip(planes, held, strict=True)]


def _open(paths: Sequence[str], downsample: int = 0) -> sources.EventSource:
    """Opens files to look at them, whatever the charges that a run would refuse."""
    return sources.open_source(file=paths, downsample=downsample, charge_limit=math.inf)


def _read_planes(
    paths: Sequence[str],
    entry: int,
    downsample: int,
    predicted: Sequence[tuple[np.ndarray, np.ndarray]] | None,
) -> tuple[tuple[PlanePixels, ...], tuple[int, int]]:
    """Returns the pixels of the planes, and the rows and columns of the image."""
    with _open(paths, downsample) as source:
        shape = source.image_shape
        stored = source.read_sparse(entry)
    planes = []
    for plane, pixels in enumerate(stored):
        columns, rows = np.divmod(pixels.ids, np.int32(shape[0]))
        found = np.zeros(len(pixels.ids), np.uint8)
        if predicted is not None:
            found = _look_up(*predicted[plane], pixels.ids)
        planes.append(PlanePixels(rows, columns, pixels.values, pixels.classes, found))
    return tuple(planes), shape


def pixel_kinds(pixels: PlanePixels) -> np.ndarray:
    """Sorts the predictions of a plane into right ones and kinds of error.

    Returns:
      [V] uint8, index into `ERROR_NAMES`.
    """
    truth, prediction = pixels.truth, pixels.prediction
    kinds = np.where(truth == prediction, np.minimum(truth, COSMIC), 2).astype(np.uint8)
    kinds[(truth == NEUTRINO) & (prediction != NEUTRINO)] = 3
    kinds[(truth != NEUTRINO) & (prediction == NEUTRINO)] = 4
    return kinds


ERROR_NAMES = (
    "background, right",
    "cosmic or neutrino, right",
    "cosmic and background confused",
    "neutrino missed",
    "neutrino made up",
)
"""What the values of `pixel_kinds` mean."""


def event_name(entry: int, event_id: np.ndarray) -> str:
    """Names an event by its entry and, where they are known, run, subrun and event."""
    run, subrun, event = (int(number) for number in event_id)
    known = event >= 0
    return f"entry {entry}" + (f", event {run}/{subrun}/{event}" if known else "")


def _look_up(ids: np.ndarray, classes: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Looks up the classes of ids, background where there is none; `ids` ascend."""
    found = np.zeros(len(wanted), np.uint8)
    if len(ids):
        at = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
        same = ids[at] == wanted
        found[same] = classes[at[same]]
    return found


def _find_entry(predictions: str, entry: int) -> tuple[int, dict[str, float]]:
    """Finds the position of an entry in the predictions, and its metrics.

    The table of metrics beside the predictions lists their events in the same order.
    Without it the predictions are taken to begin with the first event.
    """
    table = os.path.join(os.path.dirname(predictions), "inference_metrics.csv")
    if not os.path.isfile(table):
        return entry, {}
    with open(table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    places = [place for place, row in enumerate(rows) if row["entry"] == str(entry)]
    if not places:
        raise EventViewError(f"--predictions: entry {entry} is not in {table}")
    row = rows[places[0]]
    return places[0], {name: float(row[name]) for name in METRIC_NAMES}


def _read_prediction(path: str, place: int):
    """Reads (ids, classes) of every plane, ids ascending, and the image's shape."""
    try:
        regular_files.check(path)
        with h5py.File(path, "r") as file:
            group: Any = file[f"Data/sparse2d_{CLASS_PRODUCT}_group"]
            extents = group["extents"]
            if place >= len(extents):
                raise EventViewError(
                    f"--predictions: {path} has {len(extents)} events, expected more "
                    f"than {place}"
                )
            first, count = (int(extents[place][name]) for name in ("first", "N"))
            spans = group["voxel_extents"][first : first + count]
            meta = group["image_meta"][first]
            planes = []
            for span in spans:
                start = int(span["first"])
                voxels = group["voxels"][start : start + int(span["N"])]
                ids = voxels["id"].astype(np.int64)
                planes.append((ids, voxels["value"].astype(np.uint8)))
    except (OSError, KeyError) as error:
        raise EventViewError(
            f"--predictions: {path}: expected a predictions.h5 of ctjax: {error}"
        ) from error
    width, height = (int(number) for number in meta["number_of_voxels"])
    return planes, (height, width)


def _downsample(
    shape: tuple[int, int], predicted: tuple[int, int], predictions: str, file: str
) -> int:
    """Finds how often the file's image was halved for the predictions."""
    for downsample in range(MAX_DOWNSAMPLE):
        if shape == (predicted[0] << downsample, predicted[1] << downsample):
            return downsample
    raise EventViewError(
        f"--predictions: {predictions} has images of {predicted[0]} x {predicted[1]}, "
        f"expected halvings of the {shape[0]} x {shape[1]} of {file}"
    )
