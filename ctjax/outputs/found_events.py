"""Puts what the heads of a network have found in an event into words and records."""

from collections.abc import Mapping, Sequence

import numpy as np

from ctjax.base.event_classes import (
    EVENT_CLASS_CODES,
    EVENT_CLASSES,
    UNKNOWN_CLASS,
)
from ctjax.config.heads import ActiveHeads
from ctjax.data.larcv.records import (
    BBOX,
    NO_PARENT,
    PlaneMeta,
    unset_particles,
)
from ctjax.views import event_table

BOX_PIXELS = 3
"""Pixels on a side of the box around a vertex, as many as of a true one's."""

PREDICTED, SKIPPED = b"predicted", b"skipped"
"""The `process` of the particle of an event."""


def columns(heads: ActiveHeads, num_planes: int) -> tuple[str, ...]:
    """Returns the columns of the table of what heads have found."""
    of_class = event_table.CLASS_COLUMNS if heads.classification else ()
    of_vertex = event_table.vertex_columns(num_planes) if heads.vertex else ()
    return (*of_class, *of_vertex)


def table_row(
    found: Mapping[str, np.ndarray], place: int, counts: bool
) -> list[str | float]:
    """Returns the values of `columns` for an event.

    Args:
      found: those of `head_steps.ALL_RESULTS` that there are.
      place: of the event in them.
      counts: whether the event was read; if not, nothing is known of it.

    Returns:
      Names of classes, empty where unknown; numbers, nan where unknown.
    """
    row: list[str | float] = []
    if "event_score" in found:
        scores = np.where(counts, found["event_score"][place], np.nan)
        true = int(found["event_label"][place]) if counts else UNKNOWN_CLASS
        row.append("" if true == UNKNOWN_CLASS else EVENT_CLASSES[true])
        row.append(EVENT_CLASSES[int(scores.argmax())] if counts else "")
        row += scores.tolist()
    if "vertex" in found:
        for predicted, true in zip(
            found["vertex"][place], found["vertex_label"][place], strict=True
        ):
            known = np.where(counts, [*true, *predicted], np.nan).astype(np.float64)
            distance = np.hypot(*(known[2:4] - known[0:2]))
            row += [*known.tolist(), float(distance)]
    return row


def products_of(
    found: Mapping[str, np.ndarray],
    place: int,
    metas: Sequence[PlaneMeta] | None,
    num_planes: int,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Makes what predictions say of an event beside its pixels.

    Args:
      found: those of `head_steps.ALL_RESULTS` that there are.
      place: of the event in them.
      metas: of the event's P images; None of an event that was skipped.
      num_planes: P.

    Returns:
      See `particle_of` and `boxes_of`; of a head that is not there, as of an event that
      was skipped.
    """
    scores = None
    if metas is not None and "event_score" in found:
        scores = found["event_score"][place]
    if metas is None or "vertex" not in found:
        boxes = [np.zeros(0, BBOX)] * num_planes
    else:
        boxes = boxes_of(found["vertex"][place], metas)
    return particle_of(scores), boxes


def particle_of(scores: np.ndarray | None) -> np.ndarray:
    """Makes the particle that says the predicted class of an event.

    Args:
      scores: [4] of the classes; None of an event that was skipped.

    Returns:
      [1] record of type `PARTICLE`: pdg, current type and process say something, the
      rest is as of an event without a neutrino.
    """
    # Without a row larcv3 would hand out the one of the event before.
    rows = unset_particles(1)
    rows["parent_trackid"] = NO_PARENT
    rows["process"] = SKIPPED if scores is None else PREDICTED
    if scores is not None:
        rows["pdg"], rows["current_type"] = EVENT_CLASS_CODES[int(scores.argmax())]
    return rows


def boxes_of(vertex: np.ndarray, metas: Sequence[PlaneMeta]) -> list[np.ndarray]:
    """Makes a box around the predicted vertex in each plane.

    Args:
      vertex: [P, 3], row, column, score.
      metas: of the event's P images.

    Returns:
      For each plane [1] records of type `BBOX`, in the unit of the metas.
    """
    tables = []
    for (row, column, _), meta in zip(vertex, metas, strict=True):
        table = np.zeros(1, BBOX)
        size = np.divide(meta.image_sizes, meta.number_of_voxels)
        table["centroid"] = column, row
        table["half_length"] = BOX_PIXELS / 2 * size
        # The identity; larcv3 itself writes [1, 0, 1, 0].
        table["rotation"] = 1.0, 0.0, 0.0, 1.0
        tables.append(table)
    return tables
