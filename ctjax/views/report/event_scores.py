"""Draws how well the number of predicted pixels tells which events have a class.

ctjax/learning/class_scores.py computes what is drawn here.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from bokeh import models as bokeh_models

from ctjax.base.detector import Detector
from ctjax.learning.class_scores import ClassScores, EventScores
from ctjax.views.report import tables
from ctjax.views.report.figures import (
    MOST_POINTS,
    RUN_COLOURS,
    finish_legend,
    make_figure,
)
from ctjax.views.report.records import Record

models: Any = bokeh_models  # whose annotations refuse the names that models may have

WITHOUT = "#7F8B97"
"""Of the events without the class, and of what no network would do."""


def figures(records: list[Record]) -> dict[str, Any]:
    """Draws for each class the scores of events, and the ROC of each run.

    Args:
      records: what the runs have left.

    Returns:
      Two figures for each class but the background of which a run has events with and
      without it, by name; none for other classes.
    """
    drawn = {}
    detectors = [record.detector for record in records if record.confusion is not None]
    for name in dict.fromkeys(n for d in detectors for n in d.classes[1:]):
        known = [*_known(records, name)]
        if known:
            drawn[f"scores_{name}"] = _draw_scores(name, known)
            drawn[f"roc_{name}"] = _draw_roc(name, known)
    return drawn


def _known(
    records: list[Record], name: str
) -> Iterator[tuple[str, str, ClassScores, Detector]]:
    """Yields colour, words, scores and detector of the runs with both kinds of events.

    The words begin the names in legends: "" for a run alone.
    """
    for number, record in enumerate(records):
        for each in tables.scores(record):
            if each.name == name and each.by_event.is_known:
                colour = RUN_COLOURS[number % len(RUN_COLOURS)]
                words = f"{record.name} " if len(records) > 1 else ""
                yield colour, words, each, record.detector


def _draw_scores(name: str, known: list) -> Any:
    """Draws how the scores of events with and without a class are spread."""
    most = max(
        max(e.by_event.with_class[-1], e.by_event.without[-1]) for *_, e, _ in known
    )
    bins = int(_place(np.array([max(1.0, most)]))[0]) + 1
    title = f"events by their predicted {name} pixels"
    figure = make_figure(title=title, x_range=(0, bins))
    figure.xaxis.axis_label = f"predicted {name} pixels, all planes"
    figure.yaxis.axis_label = "share of the events"
    for colour, words, each, detector in known:
        if not words:
            colour = detector.colours[detector.classes.index(name)]
        scores = each.by_event
        for kind, values, dash in (
            (f"with {name}", scores.with_class, "solid"),
            (f"without {name}", scores.without, "dashed"),
        ):
            shade = WITHOUT if not words and dash == "dashed" else colour
            edges, shares = _outline(values, bins)
            style = {"color": shade, "line_dash": dash, "line_width": 2}
            label = f"{words}{kind} ({len(values):,})"
            figure.line(edges, shares, legend_label=label, **style)
            if not words:
                figure.varea(edges, 0 * shares, shares, color=shade, alpha=0.2)
    figure.y_range.start = 0
    figure.xaxis.ticker = models.FixedTicker(ticks=[0.5, *range(2, bins + 1, 2)])
    figure.xaxis.major_label_overrides = {
        0.5: "0",
        **{tick: f"{2 ** (tick - 1):,}" for tick in range(2, bins + 1, 2)},
    }
    finish_legend(figure)
    return figure


def _outline(scores: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the corners of a histogram with a bin for 0, 1, 2 to 3, 4 to 7, ..."""
    counted, _ = np.histogram(_place(scores), np.arange(bins + 1))
    shares = np.repeat(counted / len(scores), 2)
    return np.repeat(np.arange(bins + 1.0), 2), np.concatenate([[0.0], shares, [0.0]])


def _place(scores: np.ndarray) -> np.ndarray:
    """Places numbers of pixels on the axis: 0 from 0 to 1, and from 1 on doubling."""
    return np.where(scores < 1, 0.0, 1 + np.log2(np.maximum(scores, 1)))


def _draw_roc(name: str, known: list) -> Any:
    """Draws the ROC of each run, and where its threshold is."""
    ranges = {"x_range": (-0.02, 1.02), "y_range": (-0.02, 1.02)}
    figure = make_figure(title=f"which events have {name}: ROC", **ranges)
    figure.xaxis.axis_label = f"share of the events without {name} that pass"
    figure.yaxis.axis_label = f"share of those with {name}"
    figure.line([0, 1], [0, 1], color=WITHOUT, line_dash="dotted", line_width=2)
    for colour, words, each, _ in known:
        scores: EventScores = each.by_event
        passed, found = scores.roc()
        kept = np.unique(np.linspace(0, len(passed) - 1, MOST_POINTS).astype(int))
        label = f"{words}area {scores.area}"
        line = {"color": colour, "line_width": 2, "legend_label": label}
        figure.line(passed[kept], found[kept], **line)
        point = models.ColumnDataSource(
            {
                "passed": [scores.passed],
                "found": [scores.efficiency.value],
                "pixels": [scores.threshold],
            }
        )
        mark = figure.scatter("passed", "found", source=point, size=11, color=colour)
        tips = [(f"{name} pixels", "@pixels or more"), ("with", "@found{0.000}")]
        tips.append(("without", "@passed{0.000}"))
        figure.add_tools(models.HoverTool(renderers=[mark], tooltips=tips))
    finish_legend(figure)
    return figure
