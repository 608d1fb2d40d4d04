"""Picks events to look at, and packs their pixels for the page."""

import base64
import gzip
import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from ctjax.base.errors import UserError
from ctjax.data.larcv.file import LarcvFileError
from ctjax.data.larcv.truth import neutrino_name
from ctjax.views import legends, vertex_marks
from ctjax.views.event import (
    EventView,
    EventViewError,
    PlanePixels,
    check_same_event,
    read_predicted_view,
    read_stored_view,
)
from ctjax.views.picture import box_of_class
from ctjax.views.report.records import Record

logger = logging.getLogger("ctjax")

RANKING_METRIC = "Average/mIoU"

CHARGE_STEPS = 255
"""Charges are packed as bytes on a logarithmic scale: steps of 2 % suit colours."""


def pick(record: Record, each: int) -> list[tuple[int, str]]:
    """Picks the best, median and worst events of an inference.

    Args:
      record: what the run has left.
      each: number of events of each kind.

    Returns:
      Positions in the table of events, each with its kind; the best first.
    """
    if record.inference is None:
        return []
    scores = record.inference[RANKING_METRIC]
    skipped = {float(row["entry"]) for row in record.skipped.get("inference", [])}
    is_skipped = np.isin(record.inference["entry"], list(skipped))
    order = np.argsort(-scores, kind="stable")
    order = order[~is_skipped[order]].tolist()
    if np.isnan(scores).all():
        return [(place, "no truth") for place in order[: 3 * each]]
    if len(order) <= 3 * each:
        names = {0: "best", len(order) - 1: "worst", (len(order) - 1) // 2: "median"}
        return [(place, names.get(at, "")) for at, place in enumerate(order)]
    middle = (len(order) - each) // 2
    return [
        *((place, "best") for place in order[:each]),
        *((place, "median") for place in order[middle : middle + each]),
        *((place, "worst") for place in order[-each:]),
    ]


def pack_events(records: Sequence[Record], each: int) -> list[dict[str, Any]]:
    """Packs the events picked from the first inference, in the version of every run.

    Args:
      records: what the runs have left.
      each: see `pick`.

    Returns:
      One dictionary per event for page.js, see `_pack`; none if nothing can be read.
    """
    inferred = [record for record in records if record.inference is not None]
    for other in inferred[1:]:
        if not _is_shown_with(other, inferred[0]):
            logger.warning("%s: events of another detector, not shown", other.name)
    inferred = [record for record in inferred if _is_shown_with(record, inferred[0])]
    packed, missing = [], []
    for first in inferred[:1]:
        assert first.inference is not None
        for at_first, kind in pick(first, each):
            entry = int(first.inference["entry"][at_first])
            for record in inferred:
                assert record.inference is not None
                for place in np.flatnonzero(record.inference["entry"] == entry)[:1]:
                    try:
                        packed.append(_pack_event(record, int(place), kind))
                    except (UserError, OSError) as error:
                        missing.append((entry, error))
    if missing:
        entries = ", ".join(str(entry) for entry in sorted({e for e, _ in missing}))
        # The first one's reason is mostly that of all.
        logger.warning("Not in the report: entries %s: %s", entries, missing[0][1])
    return packed


def have_vertices(packed: Sequence[dict[str, Any]]) -> bool:
    """Says whether any of packed events has a vertex to draw."""
    return any(plane["vertices"] for event in packed for plane in event["planes"])


def _is_shown_with(record: Record, first: Record) -> bool:
    """Says whether events of both have the same planes and classes."""
    one, other = record.detector, first.detector
    return (one.num_planes, one.classes) == (other.num_planes, other.classes)


def _pack_event(record: Record, place: int, kind: str) -> dict[str, Any]:
    """Packs an event of a run, with its metrics and with its kind in the title."""
    table = record.inference
    assert table is not None
    entry, score = int(table["entry"][place]), table[RANKING_METRIC][place]
    words = [f"entry {entry}", neutrino_name(record.neutrinos[place])]
    if record.found is not None:
        words.append(record.found.class_words(place))
    if not np.isnan(score):
        words.append(f"mIoU {score:.3f}")
    title = ", ".join(filter(None, words))
    view = _read_view(record, place, entry, f"{kind}: {title}" if kind else title)
    metrics = {
        name: None if np.isnan(column[place]) else float(column[place])
        for name, column in table.items()
        if "/" in name
    }
    return {**_pack(view), "run": record.name, "metrics": metrics}


def _read_view(record: Record, place: int, entry: int, title: str) -> EventView:
    downsample = record.option("inference", "data", "downsample") or 0
    predictions = os.path.join(record.folder, "predictions.h5")
    vertices = None if record.found is None else record.found.vertices_of(place)
    # The file of an older inference does not belong to these events.
    written = record.option("inference", "mode", "write_predictions") is not False
    if written and os.path.exists(predictions):
        check_same_event(
            predictions,
            place,
            record.event_id(place),
            _files_there(record),
            entry,
            downsample,
            record.data,
        )
        return read_predicted_view(predictions, place, 2**downsample, title, vertices)
    if record.option("inference", "data", "synthetic") in (True, None):
        raise EventViewError(
            "synthetic events are shown with mode.write_predictions only"
        )
    return read_stored_view(
        record.files(), entry, downsample, title, record.data, vertices
    )


def _files_there(record: Record) -> list[str]:
    """Finds the files of the inference; returns none where they are gone."""
    if record.option("inference", "data", "synthetic") in (True, None):
        return []
    try:
        paths = record.files()
    except LarcvFileError:
        return []
    return paths if all(map(os.path.exists, paths)) else []


def _pack(view: EventView) -> dict[str, Any]:
    """Turns an event into JSON: pixels become compressed bytes, the rest stays."""
    charges = np.concatenate([pixels.charge for pixels in view.planes])
    charges = charges[charges > 0]
    low, high = 1.0, 10.0
    if charges.size:
        low, high = (float(charge) for charge in np.quantile(charges, (0.001, 0.999)))
        high = max(high, 1.01 * low)
    planes = []
    for plane, (pixels, shape) in enumerate(
        zip(view.planes, view.plane_shapes, strict=True)
    ):
        box = box_of_class(pixels, shape, view.detector.num_classes - 1)
        truth = legends.drawn(pixels.truth, view.detector)
        planes.append(
            {
                "rows": shape[0],
                "columns": shape[1],
                "count": len(pixels.rows),
                "box": box and [edge * view.pixel_size for edge in box],
                "vertices": vertex_marks.positions(view, plane),
                "vertex_words": view.vertices.words(plane) if view.vertices else "",
                "bytes": _pack_pixels(
                    pixels._replace(truth=truth), shape[0], low, high
                ),
            }
        )
    return {
        "title": view.title,
        "pixel_size": view.pixel_size,
        "has_truth": view.has_truth,
        "has_prediction": view.has_prediction,
        "low": low,
        "high": high,
        "planes": planes,
    }


def _pack_pixels(pixels: PlanePixels, num_rows: int, low: float, high: float) -> str:
    """Packs differences of ids (uint32), charges, true and predicted classes (bytes).

    The bytes are compressed by gzip and written as base64.
    """
    ids = pixels.columns.astype(np.int64) * num_rows + pixels.rows
    order = np.argsort(ids)
    steps = np.diff(ids[order], prepend=0).astype("<u4")
    share = np.log(np.clip(pixels.charge[order], low, high) / low) / np.log(high / low)
    charge = np.rint(CHARGE_STEPS * share).astype(np.uint8)
    classes = [
        array[order].astype(np.uint8) for array in (pixels.truth, pixels.prediction)
    ]
    content = b"".join(array.tobytes() for array in (steps, charge, *classes))
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()
