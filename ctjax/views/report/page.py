"""Puts the report together: page.html with its style, scripts and data inside."""

import json
import os
import time
from collections.abc import Sequence
from importlib import resources
from typing import Any

import jinja2
from bokeh import embed, palettes
from bokeh.resources import Resources

import ctjax
from ctjax.base.detector import COSMIC_TAGGER, Detector
from ctjax.views import legends
from ctjax.views.report import event_scores, events, figures, heads, tables
from ctjax.views.report.figures import LAYERS
from ctjax.views.report.records import Record, read_record

EVENTS_OF_A_KIND = 3
"""Number of best, median and worst events of one run; of several runs, one each."""

BOKEH_PARTS: list[Any] = ["bokeh", "bokeh-gl"]
"""Bokeh's widgets, tables and formulas are left out; the page does not need them."""


def write(folders: Sequence[str], path: str) -> None:
    """Writes the page of one run or of several.

    Args:
      folders: output folders of the runs.
      path: HTML file to write; an older one is replaced.

    Raises:
      ReportError: a folder holds no run.
    """
    records = [read_record(folder) for folder in folders]
    packed = events.pack_events(records, EVENTS_OF_A_KIND if len(records) == 1 else 1)
    inferred = [record.detector for record in records if record.inference is not None]
    shown = inferred[0] if inferred else COSMIC_TAGGER
    palette = _charge_palette()
    drawn = _draw(records, packed, shown, palette)
    models = {
        name: figure for group in drawn.values() for name, figure in group.items()
    }
    script, places = embed.components(models) if models else ("", {})
    library = Resources(mode="inline", components=BOKEH_PARTS)
    environment = jinja2.Environment(autoescape=True, trim_blocks=True)
    page = environment.from_string(_own_file("page.html")).render(
        title=" and ".join(record.name for record in records),
        version=ctjax.__version__,
        written=time.strftime("%Y-%m-%d %H:%M"),
        style=_own_file("page.css"),
        behaviour=_own_file("page.js"),
        library=library.render_js() if models else "",
        figures_script=script,
        places={group: {n: places[n] for n in drawn[group]} for group in drawn},
        summary=tables.summary(records),
        head=tables.head(records),
        configurations=tables.configurations(records),
        times=tables.times(records),
        runs=[_tables_of(record) for record in records],
        several=len(records) > 1,
        picked=packed,
        events_json=_json_in_html(packed),
        detector_json=_json_in_html(_for_script(shown)),
        event_metrics=[
            (metric, tables.plain_words(metric))
            for metric in dict.fromkeys(
                m for d in inferred for m in figures.metrics_of_events(d)
            )
        ],
        layers=LAYERS,
        has_heads=any(record.found is not None for record in records),
        has_vertices=events.have_vertices(packed),
        has_inference=any(record.inference is not None for record in records),
        num_planes=shown.num_planes,
        columns=2 if shown.num_planes == 4 else min(3, shown.num_planes),
        last_class=shown.classes[-1],
        class_colours=legends.class_legend(shown),
        error_colours=legends.error_legend(shown),
        charge_colours=palette[:: len(palette) // 8],
    )
    _replace(path, page)


def _replace(path: str, page: str) -> None:
    """Writes the page beside an older one, and puts it in its place."""
    unfinished = f"{path}.unfinished"
    # Names of files need be no text.
    content = page.encode("utf-8", "backslashreplace")
    with open(unfinished, "wb") as file:
        file.write(content)
    os.replace(unfinished, path)


def _draw(
    records: list[Record],
    packed: list[dict[str, Any]],
    shown: Detector,
    palette: list[str],
) -> dict[str, dict[str, Any]]:
    """Draws the figures of the page, by section and name."""
    rows = [{plane["rows"] for plane in event["planes"]} for event in packed]
    drawn = {
        "curves": figures.learning_curves(records),
        "times": figures.step_times(records),
        "event_scores": event_scores.figures(records),
        "events": figures.event_metrics(records),
        "heads": heads.residuals(records),
        "planes": {},
    }
    if packed:
        drawn["planes"] = figures.planes(
            *(palette, shown, all(len(each) == 1 for each in rows)),
            has_vertices=events.have_vertices(packed),
        )
    return drawn


def _own_file(name: str) -> str:
    """Reads a file of this package."""
    path = resources.files("ctjax.views.report") / name
    return path.read_text(encoding="utf-8")


def _for_script(detector: Detector) -> dict[str, Any]:
    """Returns what page.js needs to know of a detector."""
    metrics = zip(detector.class_metrics, detector.classes[1:], strict=True)
    return {
        "planes": detector.num_planes,
        "classes": detector.num_classes,
        "metrics": [["mIoU", "mIoU"], *([m, f"{n} IoU"] for m, n in [*metrics][::-1])],
        "kinds": legends.error_table(detector).tolist(),
    }


def _tables_of(record: Record) -> dict[str, Any]:
    return {
        "name": record.name,
        "classes": record.detector.classes,
        "planes": range(record.detector.num_planes),
        "skipped": tables.skipped_events(record),
        "plane_metrics": tables.plane_metrics(record),
        "scores": [
            (each, tables.percentages(each.efficiency, each.purity, each.iou))
            for each in tables.scores(record)
        ],
        "class_metrics": tables.class_metrics(record),
        "confusion": tables.confusion_matrices(record),
        "heads": heads.tables_of(record),
    }


def _charge_palette() -> list[str]:
    """Returns the colours of the event display, pale to dark, less the palest."""
    return list(palettes.interp_palette(palettes.YlGnBu9[::-1][1:], 256))


def _json_in_html(value: Any) -> str:
    """Writes JSON in which no text can end the script element."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")
