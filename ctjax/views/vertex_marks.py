"""Draws where the vertices of an event are, true ones and predicted ones."""

from typing import Any

import numpy as np

from ctjax.base import optional_packages
from ctjax.views.event import EventView

TRUE_VERTEX, PREDICTED_VERTEX = "true vertex", "predicted vertex"

MARKS = {TRUE_VERTEX: "o", PREDICTED_VERTEX: "x"}
"""Matplotlib's shapes: a ring and a cross."""

INK, HALO = "#000000", "#FFFFFF"
"""Black on a wider line of white is seen on all colours of pixels."""

SIZES = {TRUE_VERTEX: 13, PREDICTED_VERTEX: 8}
"""In points; the ring leaves room for the cross in it."""

LINE_WIDTH, HALO_WIDTH = 1.8, 4.4


def positions(view: EventView, plane: int) -> dict[str, tuple[float, float]]:
    """Returns wire and tick of a plane's vertices by name, those that there are."""
    if view.vertices is None:
        return {}
    found = zip(MARKS, (view.vertices.true, view.vertices.predicted), strict=True)
    at = {name: view.pixel_size * places[plane] for name, places in found}
    return {
        name: (float(column), float(row))
        for name, (row, column) in at.items()
        if not np.isnan(row + column)
    }


def draw(panel: Any, view: EventView, plane: int) -> None:
    """Marks the vertices in a picture of a plane, whose edges stay where they are."""
    panel.autoscale(False)
    for name, (wire, tick) in positions(view, plane).items():
        for colour, width in ((HALO, HALO_WIDTH), (INK, LINE_WIDTH)):
            panel.plot([wire], [tick], **_style(name, colour, width))


def legend(view: EventView) -> list[tuple[str, str]]:
    """Returns name and mark of the vertices that are drawn."""
    planes = range(len(view.planes))
    there = {name for plane in planes for name in positions(view, plane)}
    return [(name, mark) for name, mark in MARKS.items() if name in there]


def handle(name: str) -> Any:
    """Returns what matplotlib's legend shows of a vertex."""
    lines = optional_packages.import_optional("matplotlib.lines", "display")
    return lines.Line2D([], [], label=name, **_style(name, INK, LINE_WIDTH))


def _style(name: str, colour: str, width: float) -> dict[str, Any]:
    return {
        "marker": MARKS[name],
        "markersize": SIZES[name],
        "markeredgewidth": width,
        "markeredgecolor": colour,
        "markerfacecolor": "none",
        "linestyle": "none",
    }
