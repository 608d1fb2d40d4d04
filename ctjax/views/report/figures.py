"""Draws the figures of the report with Bokeh."""

from typing import Any

import numpy as np
from bokeh import models as bokeh_models
from bokeh import plotting

from ctjax.base.detector import Detector
from ctjax.views import legends, vertex_marks
from ctjax.views.report.records import Record, Table

models: Any = bokeh_models  # whose annotations refuse the names that models may have

# Okabe and Ito's colours again, ordered so that two runs are blue and orange.
RUN_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")

MOST_POINTS = 1500
"""Largest number of points of a curve; longer ones are averaged."""

NUM_BINS = 8
"""Number of equal groups of events whose means are drawn."""

PAN_AND_ZOOM = "pan,wheel_zoom,box_zoom,reset,save"

LAYERS = ("charge", "truth", "prediction", "errors")


def make_figure(**options: Any) -> Any:
    """Makes a figure of the page, with options of Bokeh's."""
    defaults = {
        "height": 300,
        "sizing_mode": "stretch_width",
        "tools": PAN_AND_ZOOM,
        "toolbar_location": "above",
        "min_border_right": 12,
    }
    figure = plotting.figure(**{**defaults, **options})
    figure.toolbar.logo = None
    figure.outline_line_color = None
    figure.grid.grid_line_color = "#E6E8EB"
    return figure


def curves(detector: Detector) -> list[tuple[str, str]]:
    """Lists the columns that are drawn by step, and their titles."""
    ious = zip(detector.class_metrics, detector.classes[1:], strict=True)
    return [
        ("loss", "loss"),
        ("Average/mIoU", "mIoU"),
        *((f"Average/{metric}", f"{name} IoU") for metric, name in [*ious][::-1]),
        ("Average/Non_Bkg_Accuracy", "non-background accuracy"),
    ]


def metrics_of_events(detector: Detector) -> list[str]:
    """Lists the metrics of events that are drawn, first that of the last class."""
    last, *others = detector.class_metrics[::-1]
    return [last, "mIoU", *others, "Non_Bkg_Accuracy"]


def learning_curves(records: list[Record]) -> dict[str, Any]:
    """Draws loss and metrics by step: training solid, validation dashed."""
    known = [r for r in records if r.train is not None]
    if not known:
        return {}
    figures, first = {}, None
    for column, title in dict.fromkeys(c for r in known for c in curves(r.detector)):
        options = {"x_range": first.x_range} if first else {}
        scale = "log" if column == "loss" else "linear"
        figure = make_figure(title=title, y_axis_type=scale, **options)
        first = first or figure
        figure.xaxis.axis_label = "step"
        for number, record in enumerate(known):
            assert record.train is not None
            if column not in record.train:
                continue  # of another detector
            colour = RUN_COLOURS[number % len(RUN_COLOURS)]
            prefix = f"{record.name} " if len(known) > 1 else ""
            steps, values = thinned(record.train["step"], record.train[column])
            figure.line(steps, values, color=colour, alpha=0.25)
            figure.line(
                *(steps, smoothed(values)),
                color=colour,
                line_width=2,
                legend_label=f"{prefix}training",
            )
            if record.validation is not None and column in record.validation:
                table = record.validation
                figure.line(
                    *thinned(table["step"], table[column]),
                    color=colour if len(known) > 1 else RUN_COLOURS[1],
                    line_width=2,
                    line_dash="dashed",
                    legend_label=f"{prefix}validation",
                )
        finish_legend(figure)
        figures[f"curve_{title.replace(' ', '_')}"] = figure
    return figures


def step_times(records: list[Record]) -> dict[str, Any]:
    """Draws the images per second, or the seconds, of every step, by mode."""
    figures = {}
    for mode in ("train", "inference", "iotest"):
        known = [r for r in records if len(r.timings.get(mode, ())) > 1]
        if not known:
            continue
        has_rate = all(r.images_per_step(mode) is not None for r in known)
        what = "images/s" if has_rate else "seconds"
        figure = make_figure(title=f"{mode}: {what} of each step", height=240)
        figure.xaxis.axis_label = "step"
        for number, record in enumerate(known):
            timings = record.timings[mode]
            values = timings["step_s"]
            images = record.images_per_step(mode)
            if has_rate and images is not None:
                values = images / values
            figure.line(
                *thinned(timings["iteration"].astype(float), values),
                color=RUN_COLOURS[number % len(RUN_COLOURS)],
                line_width=1.5,
                legend_label=record.name,
            )
        figure.y_range.start = 0
        finish_legend(figure)
        figures[f"times_{mode}"] = figure
    return figures


def event_metrics(records: list[Record]) -> dict[str, Any]:
    """Draws a metric of every event against energy and size of its neutrino.

    The menu of page.html changes the metric: columns are named after it. The names of
    sources are `events_` or `bins_`, `energy_` or `pixels_`, and the run's number.
    """
    figures = {}
    known = [record.detector for record in records if record.inference is not None]
    names = list(dict.fromkeys(m for d in known for m in metrics_of_events(d)))
    last = dict.fromkeys(detector.classes[-1] for detector in known)
    for name, label, scale in (
        ("energy", "neutrino energy (GeV)", "linear"),
        ("pixels", f"true {' or '.join(last)} pixels, all planes", "log"),
    ):
        figure = None
        for number, record in enumerate(records):
            x = _abscissa(record, name)
            if record.inference is None or x is None or np.isnan(x).all():
                continue
            if figure is None:
                figure = make_figure(
                    title=f"by {label}", x_axis_type=scale, y_range=(-0.03, 1.03)
                )
                figure.xaxis.axis_label = label
            colour = RUN_COLOURS[number % len(RUN_COLOURS)]
            _add_events(figure, record, names, x, colour, f"{name}_{number}")
        if figure is not None:
            finish_legend(figure)
            figures[f"events_{name}"] = figure
    return figures


def _abscissa(record: Record, name: str) -> np.ndarray | None:
    """Returns [N] float64, not a number for an event that has none."""
    if record.inference is None:
        return None
    if name == "energy":
        return record.neutrinos["energy_gev"]
    if record.confusion is None:
        return None
    pixels = record.confusion[:, :, -1].sum((1, 2))
    return np.where(pixels > 0, pixels, np.nan)


def _add_events(
    figure: Any,
    record: Record,
    metrics: list[str],
    x: np.ndarray,
    colour: str,
    name: str,
) -> None:
    table = record.inference
    assert table is not None
    is_unknown = np.isnan(table["Average/mIoU"])
    known = ~np.isnan(x) & (~is_unknown | is_unknown.all())
    none = np.full(len(x), np.nan)  # of the metrics of other detectors
    columns = {m: table.get(f"Average/{m}", none)[known] for m in metrics}
    data = {"x": x[known], "entry": table["entry"][known], **columns}
    data["y"] = columns[metrics[0]]
    points = figure.scatter(
        "x",
        "y",
        source=models.ColumnDataSource(data, name=f"events_{name}"),
        size=7,
        color=colour,
        alpha=0.45,
        line_color=None,
        legend_label=record.name,
    )
    tips = [("entry", "@entry"), ("metric", "@y{0.000}"), ("", "$x{0.00}")]
    figure.add_tools(models.HoverTool(renderers=[points], tooltips=tips))
    if np.count_nonzero(known) >= 2 * NUM_BINS:
        centres, means = binned(x[known], columns)
        binned_data = {"x": centres, "y": means[metrics[0]], **means}
        source = models.ColumnDataSource(binned_data, name=f"bins_{name}")
        style = {"color": colour, "line_width": 2.5}
        figure.line("x", "y", source=source, **style)
        figure.scatter("x", "y", source=source, size=8, marker="square", color=colour)


def planes(
    charge_palette: Any,
    detector: Detector,
    share_ticks: bool,
    has_vertices: bool = False,
) -> dict[str, Any]:
    """Makes an empty picture for each plane, which page.js fills with an event.

    Args:
      charge_palette: colours, from little to much charge.
      detector: of the events.
      share_ticks: whether planes have the same rows, and are moved together.
      has_vertices: whether vertices of events are known, which are marked.
    """
    ticks = models.Range1d(0, 1, name="ticks0")
    classes = legends.class_colours(detector)
    scales = {
        "charge": models.LogColorMapper(charge_palette, low=1, high=10, name="scale"),
        "truth": _classes(classes),
        "prediction": _classes(classes),
        "errors": _classes(legends.error_colours(detector)),
    }
    figures = {}
    for plane in range(detector.num_planes):
        if plane > 0 and not share_ticks:
            ticks = models.Range1d(0, 1, name=f"ticks{plane}")
        figure = make_figure(
            name=f"plane{plane}",
            height=330,
            title=f"plane {plane}",
            x_range=models.Range1d(0, 1, name=f"wires{plane}"),
            y_range=ticks,
            tools="pan,wheel_zoom,box_zoom,reset,save",
            active_scroll="wheel_zoom",
            output_backend="webgl",
            lod_threshold=None,
        )
        figure.xaxis.axis_label, figure.yaxis.axis_label = "wire", "tick"
        figure.grid.grid_line_color = None
        _add_pixels(figure, plane, scales)
        if has_vertices:
            _add_vertices(figure, plane)
        figures[f"plane{plane}"] = figure
    return figures


def _add_pixels(figure: Any, plane: int, scales: dict[str, Any]) -> None:
    """Adds the pixels of every layer to a picture; page.js sets which are seen."""
    columns = ("x", "y", *LAYERS)
    source = models.ColumnDataSource(
        {name: [] for name in columns}, name=f"pixels{plane}"
    )
    shapes = []
    for layer in LAYERS:
        # The line keeps a pixel visible where the picture is smaller than the image; it
        # is part of the pixel's own square where it is larger.
        colour = {"field": layer, "transform": scales[layer]}
        shape = figure.rect(
            *("x", "y"),
            width=1,
            height=1,
            source=source,
            fill_color=colour,
            line_color=colour,
            line_width=1,
            visible=layer == "charge",
            name=f"{layer}{plane}",
        )
        shape.nonselection_glyph = shape.selection_glyph = None
        shapes.append(shape)
    tips = [("wire, tick", "@x{0}, @y{0}"), ("charge", "@charge{0.0}")]
    figure.add_tools(models.HoverTool(renderers=shapes, tooltips=tips))


def _add_vertices(figure: Any, plane: int) -> None:
    """Adds a ring and a cross to a picture, whose places page.js sets."""
    shapes = {"o": "circle", "x": "x"}
    for name, mark in vertex_marks.MARKS.items():
        places = {"x": [], "y": []}
        source = models.ColumnDataSource(places, name=f"{name} {plane}")
        for colour, width in (
            (vertex_marks.HALO, vertex_marks.HALO_WIDTH),
            (vertex_marks.INK, vertex_marks.LINE_WIDTH),
        ):
            figure.scatter(
                *("x", "y"),
                source=source,
                marker=shapes[mark],
                size=1.3 * vertex_marks.SIZES[name],
                fill_color=None,
                line_color=colour,
                line_width=width,
            )


def _classes(colours: tuple[str, ...]) -> Any:
    high = len(colours) - 0.5
    return models.LinearColorMapper(list(colours), low=-0.5, high=high)


def finish_legend(figure: Any) -> None:
    """Puts the legend under the figure, and hides one with a single name."""
    for legend in list(figure.legend):
        legend.visible = len(legend.items) > 1
        legend.click_policy = "hide"
        legend.orientation = "horizontal"
        legend.ncols = 2
        legend.border_line_color = None
        legend.padding = legend.margin = 2
        figure.center.remove(legend)
        figure.add_layout(legend, "below")


def thinned(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Averages a curve over equal stretches until it has few enough points."""
    size = -(-len(steps) // MOST_POINTS)
    whole = len(steps) // size * size
    cut = [array[:whole].reshape(-1, size).mean(1) for array in (steps, values)]
    return cut[0], cut[1]


def smoothed(values: np.ndarray) -> np.ndarray:
    """Averages each value with its neighbours, a fortieth of all on either side."""
    half = len(values) // 40
    if half == 0:
        return values
    sums = np.cumsum(np.concatenate([[0.0], values]))
    at = np.arange(len(values))
    first, last = np.maximum(at - half, 0), np.minimum(at + half + 1, len(values))
    return (sums[last] - sums[first]) / (last - first)


def binned(x: np.ndarray, columns: Table) -> tuple[np.ndarray, Table]:
    """Averages x and every column over equal numbers of events."""
    parts = np.array_split(np.argsort(x), NUM_BINS)
    centres = np.array([x[part].mean() for part in parts])
    means = {
        name: np.array([values[part].mean() for part in parts])
        for name, values in columns.items()
    }
    return centres, means
