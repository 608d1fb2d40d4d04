"""Computes and draws what heads have found in events: classes and vertices."""

from typing import Any

import numpy as np

from ctjax.base.event_classes import EVENT_CLASS_WORDS, UNKNOWN_CLASS
from ctjax.views.report import figures
from ctjax.views.report.records import Record

SHARE = 0.68
"""Of the events that are no further away than the resolution that is named so."""

SMALLEST_CM = 0.1
"""What is nearer is drawn with it: the axis is logarithmic."""

NUM_BINS = 24
"""Of the histograms."""


def tables_of(record: Record) -> dict[str, Any] | None:
    """Makes the tables of a run for page.html; None where no head found anything."""
    if record.found is None:
        return None
    return {
        "classes": EVENT_CLASS_WORDS,
        "confusion": confusion(record),
        "resolutions": resolutions(record),
    }


def confusion(record: Record) -> dict[str, Any] | None:
    """Counts events by true and predicted class.

    Returns:
      `right` and `events`, numbers; `rows` of the true classes: words, events and
      (count, share of the true class) for each predicted class. None without truth.
    """
    if record.found is None or record.found.classes is None:
        return None
    known = record.found.classes[(record.found.classes != UNKNOWN_CLASS).all(1)]
    if not len(known):
        return None
    number = len(EVENT_CLASS_WORDS)
    counts = np.zeros((number, number), int)
    np.add.at(counts, tuple(known.T), 1)
    rows = [
        (words, int(row.sum()), [(int(n), n / max(1, row.sum())) for n in row])
        for words, row in zip(EVENT_CLASS_WORDS, counts, strict=True)
    ]
    return {"right": int(np.trace(counts)), "events": len(known), "rows": rows}


def resolutions(record: Record) -> list[tuple[str, int, tuple[float, ...]]]:
    """Says how far predicted vertices are from the true ones.

    Returns:
      A row for all planes together and one for each: its name, how many vertices are
      known, and median, mean and quantile of `SHARE` of their distances in cm. No rows
      without truth.
    """
    if record.found is None or record.found.vertices is None:
        return []
    distances = record.found.vertices.distances_cm
    named = [("all planes", distances)] if distances.shape[1] > 1 else []
    named += [(f"plane {p}", distances[:, p]) for p in range(distances.shape[1])]
    rows = []
    for name, values in named:
        known = values[~np.isnan(values)]
        if len(known):
            numbers = np.median(known), known.mean(), np.quantile(known, SHARE)
            rows.append((name, len(known), tuple(map(float, numbers))))
    return rows


def summary(record: Record) -> dict[str, str]:
    """Picks numbers for the top of the page."""
    found = {}
    counts = confusion(record)
    if counts is not None:
        share = 100 * counts["right"] / counts["events"]
        found["classes of events right"] = f"{share:.1f} %"
    for _, _, (median, *_) in resolutions(record)[:1]:
        found["vertex, median distance"] = f"{median:.2f} cm"
    return found


def residuals(records: list[Record]) -> dict[str, Any]:
    """Draws a histogram of the distances for each plane, of every run."""
    known = [
        (record.name, record.found.vertices.distances_cm)
        for record in records
        if record.found is not None and record.found.vertices is not None
    ]
    known = [(name, d) for name, d in known if not np.isnan(d).all()]
    if not known:
        return {}
    everything = np.concatenate([distances.ravel() for _, distances in known])
    last = max(float(np.nanmax(everything)), 10 * SMALLEST_CM)
    first_edge = min(max(float(np.nanmin(everything)), SMALLEST_CM), last / 10)
    edges = np.geomspace(first_edge, last, NUM_BINS + 1)
    drawn, first = {}, None
    for plane in range(max(distances.shape[1] for _, distances in known)):
        options = {"x_range": first.x_range} if first else {}
        figure = figures.make_figure(
            title=f"plane {plane}: from true to predicted vertex",
            **{"x_axis_type": "log", "height": 260, **options},
        )
        first = first or figure
        figure.xaxis.axis_label, figure.yaxis.axis_label = "cm", "events"
        for number, (name, distances) in enumerate(known):
            if plane >= distances.shape[1]:
                continue
            values = distances[~np.isnan(distances[:, plane]), plane]
            counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
            colour = figures.RUN_COLOURS[number % len(figures.RUN_COLOURS)]
            figure.quad(
                **{"left": edges[:-1], "right": edges[1:], "top": counts, "bottom": 0},
                fill_color=colour,
                fill_alpha=0.35,
                line_color=colour,
                legend_label=name,
            )
        figure.y_range.start = 0
        figures.finish_legend(figure)
        drawn[f"residual_{plane}"] = figure
    return drawn
