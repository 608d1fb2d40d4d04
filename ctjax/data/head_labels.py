"""Makes the labels of a network's heads of an event's neutrino.

The rules are those of CosmicTagger v2.1 but for its faults: pixels of the neutrino are
counted by their class alone, not by places that are the same number, and a vertex
outside of the image is none instead of a cell at its other side.

Source:
  CosmicTagger v2.1, src/utils/core/larcvio/data_transforms.py.
"""

from collections.abc import Sequence

import numpy as np

from ctjax.base.event_classes import UNKNOWN_CLASS
from ctjax.base.head_labels import NO_CELL, UNKNOWN_CELL, HeadLabels, VertexLabel
from ctjax.data.larcv.records import PlaneMeta, rows_first

NUE, NUMU, NEUTRAL_CURRENT, NONE = range(4)

MUON_NEUTRINO = 14  # PDG code
NEUTRAL = 1  # larcv's current_type

FEWEST_PIXELS = 10
"""Of the neutrino after pooling, in all planes; an event of fewer shows none."""

UNREAD = -1
"""In place of the number of these: not counted, or of an event without classes."""

ROUNDING = 1e-5
"""Cells by which float32 may put a vertex before the image's edge that it is on."""


def classify(pdg: int, current_type: int, neutrino_pixels: int) -> int:
    """Returns the class of an event.

    Args:
      pdg: code of its neutrino; the sign counts: an antineutrino is of class 0.
      current_type: 0 charged, 1 neutral.
      neutrino_pixels: see `FEWEST_PIXELS`.
    """
    if neutrino_pixels < FEWEST_PIXELS:
        return NONE
    if current_type == NEUTRAL:
        return NEUTRAL_CURRENT
    return NUMU if pdg == MUON_NEUTRINO else NUE


def label_vertex(
    positions: np.ndarray | None, metas: Sequence[PlaneMeta], halvings: int
) -> VertexLabel:
    """Labels the vertex of one event in each plane.

    Args:
      positions: [P, 2] float32, row and column in cm; not a number for none; None
        where nothing is known.
      metas: geometry of the planes' own pixels after pooling.
      halvings: how often a cell doubles the side of a pixel.

    Returns:
      The label without the axis B.
    """
    pixels, sizes, origin = rows_first(metas)
    cell_size = sizes / pixels * 2**halvings
    nowhere = NO_CELL
    if positions is None:
        positions, nowhere = np.full(pixels.shape, np.nan), UNKNOWN_CELL
    place = (positions - origin) / cell_size
    with np.errstate(invalid="ignore"):
        is_inside = (place >= -ROUNDING) & (place < pixels / 2**halvings)
    is_inside = is_inside.all(1)[:, None]
    place = np.where(is_inside, np.maximum(place, 0.0), 0.0)
    cell = np.floor(place).astype(np.int32)
    return VertexLabel(
        position=np.where(is_inside, positions, np.nan).astype(np.float32),
        cell=np.where(is_inside, cell, nowhere).astype(np.int32),
        offset=(place - cell).astype(np.float32),
        origin=origin.astype(np.float32),
        cell_size=cell_size.astype(np.float32),
    )


def label_event(kind: np.ndarray | None, neutrino_pixels: int) -> int:
    """Labels the class of one event.

    Args:
      kind: [2] PDG code and current; None where unknown.
      neutrino_pixels: see `FEWEST_PIXELS`, or `UNREAD`.

    Returns:
      The class, `UNKNOWN_CLASS` where one of the two is not known.
    """
    if kind is None or neutrino_pixels == UNREAD:
        return UNKNOWN_CLASS
    return classify(int(kind[0]), int(kind[1]), neutrino_pixels)


def stack(labels: Sequence[HeadLabels]) -> HeadLabels:
    """Joins the labels of events, [...] each, to [B, ...]."""
    events = [label.event for label in labels]
    vertices = [label.vertex for label in labels if label.vertex is not None]
    return HeadLabels(
        None if None in events else np.array(events, np.int32),
        VertexLabel(*map(np.stack, zip(*vertices, strict=True))) if vertices else None,
    )
