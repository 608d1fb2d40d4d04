"""Names the columns of the table of what heads have found, and reads what is in it."""

import csv
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ctjax.base.errors import UserError
from ctjax.base.event_classes import (
    EVENT_CLASS_WORDS,
    EVENT_CLASSES,
    UNKNOWN_CLASS,
)
from ctjax.data.larcv.records import PlaneMeta, rows_first

EVENT_TABLE = "inference_events.csv"
"""Name of the file in the output folder."""

CLASS_COLUMNS = (
    "true_class",
    "predicted_class",
    *(f"score_{name}" for name in EVENT_CLASSES),
)
"""Of a network that tells the class of an event."""

_OF_PLANE = (
    *("true_row_cm", "true_column_cm"),
    *("row_cm", "column_cm", "score", "distance_cm"),
)


class EventTableError(UserError):
    """A table of events cannot be read; the message names it."""


class Vertices(NamedTuple):
    """Holds vertices of the P planes of an event, or of N events: [N, P, ...] then.

    Attributes:
      true: [P, 2] float64, row and column; not a number where there is none.
      predicted: [P, 2] float64, likewise.
      scores: [P] float64, of the predicted ones, from 0 to 1.
      distances_cm: [P] float64, of the predicted ones from the true ones.
    """

    true: np.ndarray
    predicted: np.ndarray
    scores: np.ndarray
    distances_cm: np.ndarray

    def in_pixels(self, metas: Sequence[PlaneMeta]) -> "Vertices":
        """Returns those of an event in rows and columns of its images, of P metas."""
        number, size, origin = rows_first(metas)
        true, predicted = (
            (cm - origin) / size * number for cm in (self.true, self.predicted)
        )
        return self._replace(true=true, predicted=predicted)

    def words(self, plane: int) -> str:
        """Says how good the predicted vertex of a plane is; empty without one."""
        score, distance = self.scores[plane], self.distances_cm[plane]
        if np.isnan(score):
            return ""
        off = "" if np.isnan(distance) else f" {distance:.1f} cm off,"
        return f"vertex{off} score {score:.2f}"


class FoundEvents(NamedTuple):
    """Holds what heads have found in N events.

    Attributes:
      entries: [N] int64.
      classes: [N, 2] int64, true and predicted class, `UNKNOWN_CLASS` where unknown;
        None where no head tells it.
      vertices: of the events, [N, P, ...] in cm; None where no head finds them.
    """

    entries: np.ndarray
    classes: np.ndarray | None
    vertices: Vertices | None

    def vertices_of(self, place: int) -> Vertices | None:
        """Returns the vertices of one event."""
        if self.vertices is None:
            return None
        return Vertices(*(values[place] for values in self.vertices))

    def class_words(self, place: int) -> str:
        """Says which class was predicted for an event; empty where unknown."""
        if self.classes is None or self.classes[place, 1] == UNKNOWN_CLASS:
            return ""
        return f"predicted: {EVENT_CLASS_WORDS[self.classes[place, 1]]}"


def vertex_columns(num_planes: int) -> tuple[str, ...]:
    """Returns the columns of a network that finds the vertex in each plane."""
    return tuple(f"plane{p}/{name}" for p in range(num_planes) for name in _OF_PLANE)


def read_found_events(folder: str) -> FoundEvents | None:
    """Reads the table of an inference.

    Args:
      folder: of the inference's output.

    Returns:
      What it holds; None where there is none, or no event.

    Raises:
      EventTableError: it is not such a table.
    """
    path = os.path.join(folder, EVENT_TABLE)
    if not os.path.isfile(path):
        return None
    try:
        with open(path, newline="", encoding="utf-8", errors="replace") as file:
            reader = csv.DictReader(file)
            names = tuple(reader.fieldnames or ())
            rows = [row for row in reader if None not in row.values()]
        if not rows:
            return None
        entries = np.array([int(row["entry"]) for row in rows])
        planes = sum(name.endswith("/distance_cm") for name in names)
        classes = vertices = None
        if set(CLASS_COLUMNS) <= set(names):
            classes = np.array([_read_classes(row) for row in rows])
        if planes:
            columns = vertex_columns(planes)
            numbers = [[float(row[name]) for name in columns] for row in rows]
            values = np.array(numbers).reshape(len(rows), planes, len(_OF_PLANE))
            true, predicted = values[..., 0:2], values[..., 2:4]
            vertices = Vertices(true, predicted, values[..., 4], values[..., 5])
    except (csv.Error, KeyError, ValueError) as error:
        raise EventTableError(f"{path}: expected a table of events: {error}") from error
    return FoundEvents(entries, classes, vertices)


def _read_classes(row: Mapping[str, str]) -> tuple[int, int]:
    """Returns the numbers of a row's true and predicted class."""
    true, predicted = (
        EVENT_CLASSES.index(row[name]) if row[name] else UNKNOWN_CLASS
        for name in CLASS_COLUMNS[:2]
    )
    return true, predicted
