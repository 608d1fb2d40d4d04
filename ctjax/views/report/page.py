"""Puts the report together: page.html with its style, scripts and data inside."""

import json
import os
import time
from collections.abc import Sequence
from importlib import resources
from typing import Any

import ctjax
from ctjax.base import optional_packages
from ctjax.base.constants import CLASS_NAMES
from ctjax.views.event import ERROR_NAMES
from ctjax.views.picture import CLASS_COLOURS, ERROR_COLOURS
from ctjax.views.report import events, figures, tables
from ctjax.views.report.figures import EVENT_METRICS, LAYERS
from ctjax.views.report.records import read_record

EVENTS_OF_A_KIND = 3
"""Number of best, median and worst events of one run; of several runs, one each."""

BOKEH_PARTS = ["bokeh", "bokeh-gl"]
"""Bokeh's widgets, tables and formulas are left out; the page does not need them."""


def write(folders: Sequence[str], path: str) -> None:
    """Writes the page of one run or of several.

    Args:
      folders: output folders of the runs.
      path: HTML file to write; an older one is replaced.

    Raises:
      ReportError: a folder holds no run.
      MissingExtraError: Bokeh is not installed.
    """
    embed = optional_packages.import_optional("bokeh.embed", "report")
    bokeh_resources = optional_packages.import_optional("bokeh.resources", "report")
    jinja2 = optional_packages.import_optional("jinja2", "report")
    records = [read_record(folder) for folder in folders]
    packed = events.pack_events(records, EVENTS_OF_A_KIND if len(records) == 1 else 1)
    palette = _charge_palette()
    drawn = {
        "curves": figures.learning_curves(records),
        "times": figures.step_times(records),
        "events": figures.event_metrics(records),
        "planes": figures.planes(palette) if packed else {},
    }
    models = {
        name: figure for group in drawn.values() for name, figure in group.items()
    }
    script, places = embed.components(models) if models else ("", {})
    library = bokeh_resources.Resources(mode="inline", components=BOKEH_PARTS)
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
        configurations=tables.configurations(records),
        times=tables.times(records),
        runs=[_tables_of(record) for record in records],
        several=len(records) > 1,
        picked=packed,
        events_json=_json_in_html(packed),
        event_metrics=EVENT_METRICS,
        layers=LAYERS,
        has_inference=any(record.inference is not None for record in records),
        class_colours=list(zip(CLASS_NAMES, CLASS_COLOURS, strict=True)),
        error_colours=list(zip(ERROR_NAMES, ERROR_COLOURS, strict=True)),
        charge_colours=palette[:: len(palette) // 8],
    )
    unfinished = f"{path}.unfinished"
    # Names of files need be no text.
    content = page.encode("utf-8", "backslashreplace")
    with open(unfinished, "wb") as file:
        file.write(content)
    os.replace(unfinished, path)


def _own_file(name: str) -> str:
    """Reads a file of this package."""
    path = resources.files("ctjax.views.report") / name
    return path.read_text(encoding="utf-8")


def _tables_of(record: Any) -> dict[str, Any]:
    return {
        "name": record.name,
        "plane_metrics": tables.plane_metrics(record),
        "class_metrics": tables.class_metrics(record),
        "confusion": tables.confusion_matrices(record),
    }


def _charge_palette() -> list[str]:
    """Returns the colours of the event display, pale to dark, less the palest."""
    palettes = optional_packages.import_optional("bokeh.palettes", "report")
    return list(palettes.interp_palette(palettes.YlGnBu9[::-1][1:], 256))


def _json_in_html(value: Any) -> str:
    """Writes JSON in which no text can end the script element."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")
