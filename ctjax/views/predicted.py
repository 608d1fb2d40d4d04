"""Reads what an inference has predicted for an event, as it is written."""

import csv
import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import h5py
import numpy as np

from ctjax.base import hdf5_members, regular_files
from ctjax.base.constants import CLASS_PRODUCT
from ctjax.base.detector import ImageShape
from ctjax.base.errors import UserError
from ctjax.config.detectors import DETECTOR_FIELDS

MAX_DOWNSAMPLE = 10
"""No prediction belongs to a file whose image would have to be halved more often."""


class EventViewError(UserError):
    """An event cannot be shown; the message names the file or the argument."""


def read_recorded(predictions: str) -> dict[str, Any]:
    """Reads how the events of predictions were read from their files.

    Returns:
      Fields of the data section, of `DETECTOR_FIELDS`; of an older version none.

    Raises:
      EventViewError: it cannot be read.
    """
    try:
        regular_files.check(predictions)
        with h5py.File(predictions, "r") as file:
            there = {
                name: file.attrs[name] for name in DETECTOR_FIELDS if name in file.attrs
            }
        values: dict[str, Any] = {name: str(value) for name, value in there.items()}
        if "charge_scale" in values:
            values["charge_scale"] = float(values["charge_scale"])
        return values
    except (OSError, ValueError) as error:
        raise _no_predictions(predictions, error) from error


class PredictedPlane(NamedTuple):
    """Holds predicted classes of a plane: ids `column * rows + row` ascend."""

    ids: np.ndarray
    classes: np.ndarray
    shape: ImageShape


def look_up(
    predicted: PredictedPlane, rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """Looks up the classes of pixels, background where there is none."""
    ids, classes, (height, _) = predicted
    wanted = columns * np.int32(height) + rows
    found = np.zeros(len(wanted), np.uint8)
    if len(ids):
        at = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
        same = ids[at] == wanted
        found[same] = classes[at[same]]
    return found


def find_entry(predictions: str, entry: int) -> tuple[int, dict[str, float]]:
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
    values = {name: float(row[name]) for name in row if "/" in name}
    # Not numbers without truth.
    known = {name: value for name, value in values.items() if not math.isnan(value)}
    return places[0], known


def read_planes(path: str, place: int) -> list[PredictedPlane]:
    """Reads the predicted classes of every plane."""
    try:
        regular_files.check(path)
        with h5py.File(path, "r") as file:
            tables = _find_tables(file)
            extents = tables["extents"]
            if place >= len(extents):
                raise EventViewError(
                    f"--predictions: {path} has {len(extents)} events, expected more "
                    f"than {place}"
                )
            first, count = (int(extents[place][name]) for name in ("first", "N"))
            spans = tables["voxel_extents"][first : first + count]
            metas = tables["image_meta"][first : first + count]
            planes = []
            for span, meta in zip(spans, metas, strict=True):
                start = int(span["first"])
                voxels = tables["voxels"][start : start + int(span["N"])]
                width, height = (int(number) for number in meta["number_of_voxels"])
                ids, classes = voxels["id"].astype(np.int64), voxels["value"]
                shape = height, width
                planes.append(PredictedPlane(ids, classes.astype(np.uint8), shape))
    except (OSError, KeyError, ValueError) as error:
        raise _no_predictions(path, error) from error
    return planes


def _find_tables(file: h5py.File) -> dict[str, Any]:
    """Finds the tables of the predicted classes, by name."""
    group: Any = file
    for name in ("Data", f"sparse2d_{CLASS_PRODUCT}_group"):
        group = hdf5_members.find(group, name)
        if group is None:
            raise KeyError(f"no group {name}")
    names = "extents", "voxel_extents", "image_meta", "voxels"
    tables = {name: hdf5_members.find(group, name) for name in names}
    lacking = [name for name in names if tables[name] is None]
    if lacking:
        raise KeyError(f"no table {', '.join(lacking)}")
    return tables


def _no_predictions(path: str, error: Exception) -> EventViewError:
    return EventViewError(
        f"--predictions: {path}: expected a predictions.h5 of ctjax: {error}"
    )


def find_downsample(
    shapes: Sequence[ImageShape],
    predicted: Sequence[PredictedPlane],
    predictions: str,
    file: str,
) -> int:
    """Finds how often the file's images were halved for the predictions."""
    found = [plane.shape for plane in predicted]
    for downsample in range(MAX_DOWNSAMPLE):
        size = 2**downsample
        # Planes that are padded may end within a pooled pixel.
        if found == [
            (-(-rows // size), -(-columns // size)) for rows, columns in shapes
        ]:
            return downsample
    raise EventViewError(
        f"--predictions: {predictions} has images of {_by(found)}, expected halvings "
        f"of the {_by(shapes)} of {file}"
    )


def _by(shapes: Sequence[ImageShape]) -> str:
    """Formats the sizes of planes, in one where they are alike."""
    words = [f"{rows} x {columns}" for rows, columns in shapes]
    return words[0] if len(set(words)) == 1 and words else ", ".join(words)
