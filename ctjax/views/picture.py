"""Draws an event as a picture.

Each plane has a row that shows all of it and a row that shows the box around the pixels
of the last class: the neutrino, where the classes are the default ones.
"""

import textwrap
from typing import Any

import numpy as np

from ctjax.base import optional_packages
from ctjax.base.detector import Detector, ImageShape
from ctjax.views import legends, vertex_marks
from ctjax.views.event import EventView, PlanePixels

COLUMN_INCHES, PLANE_INCHES = 4.6, 15.2392 / 3

TOP_INCHES, BOTTOM_INCHES, GAP_INCHES = 1.1008, 0.86, 0.602
"""Of the title's three lines, of the legend's one line and the scale of the charges,
and below each plane, for its numbers and the next title."""

TITLE_LINE_INCHES, LEGEND_LINE_INCHES = 0.24, 0.26

TITLE_LETTERS, LEGEND_LETTER_INCHES, LEGEND_KEY_INCHES = 8.6, 0.08, 0.68
"""Letters of a title in an inch; widths in a legend, a little too large."""

PANEL_PIXELS = (640, 400)
"""Largest number of columns and rows of a picture; nobody would see more."""

BOX_QUANTILES = (0.15, 0.85)
BOX_MARGIN = 1.8

SMALLEST_BOX = 48
"""Number of pixels on a side."""

NBSP = "\u00a0"

PLANE_LETTERS = 44
"""Most letters of the metrics beside the name of a plane."""


def draw(view: EventView) -> Any:
    """Draws the charge of an event and, where known, truth, prediction and errors.

    Args:
      view: the event.

    Returns:
      A matplotlib figure that belongs to no window.

    Raises:
      MissingExtraError: matplotlib is not installed.
    """
    figures = optional_packages.import_optional("matplotlib.figure", "display")
    layers = ["charge", *(["truth"] if view.has_truth else [])]
    if view.has_prediction:
        layers += ["prediction", *(["errors"] if view.has_truth else [])]
    width = COLUMN_INCHES * len(layers)
    title, keys = _title(view, width), _legends(view, width)
    lines = sum(-(-len(named) // columns) for named, columns in keys)
    below = BOTTOM_INCHES + max(0, lines - 1) * LEGEND_LINE_INCHES
    above = TOP_INCHES + max(0, title.count("\n") - 2) * TITLE_LINE_INCHES
    height = above + PLANE_INCHES * len(view.planes) + below
    figure = figures.Figure(figsize=(width, height), dpi=110)
    left, right = 0.6 / width, 1 - 0.2 / width
    blocks = _add_panels(figure, view, layers, (left, right), 1 - above / height)
    norm = _charge_norm(view)
    for plane, block in enumerate(blocks):
        _draw_plane(block, plane, layers, view, norm)
    first = blocks[0][0][0]
    scale = figure.add_axes(
        (left, (below - 0.1032) / height, first.get_position().width, 0.1204 / height)
    )
    figure.colorbar(
        first.images[0], cax=scale, orientation="horizontal", label="charge"
    )
    top = 1 - 0.1376 / height
    figure.suptitle(title, fontsize=14, x=left, y=top, ha="left", va="top")
    _add_legends(figure, keys)
    return figure


def _add_panels(
    figure: Any, view: EventView, layers: list[str], sides: tuple[float, float], top
) -> list[Any]:
    """Returns the panels of each plane: a row of whole pictures, a row of boxes."""
    # Places by hand: matplotlib's own layout takes as long as all the drawing.
    each, gap = (
        inches / figure.get_figheight() for inches in (PLANE_INCHES, GAP_INCHES)
    )
    blocks = []
    for _ in view.planes:
        grid = figure.add_gridspec(
            *(2, len(layers)),
            left=sides[0],
            right=sides[1],
            top=top,
            bottom=top - each + gap,
            hspace=0.16,
            wspace=0.13,
        )
        blocks.append(grid.subplots(squeeze=False))
        top -= each
    return blocks


def _draw_plane(
    block: Any, plane: int, layers: list[str], view: EventView, norm: Any
) -> None:
    """Draws the two rows of a plane."""
    pixels, shape = view.planes[plane], view.plane_shapes[plane]
    box = box_of_class(pixels, shape, view.detector.num_classes - 1)
    whole, zoomed = block
    for layer, at_whole, at_zoom in zip(layers, whole, zoomed, strict=True):
        _draw_layer(at_whole, layer, pixels, (0, shape[0], 0, shape[1]), view, norm)
        at_whole.set_title(f"plane {plane}: {layer}", fontsize=11, loc="left")
        # Where there is anything else, charges stay as they are.
        is_marked = layer != "charge" or len(layers) == 1
        if is_marked:
            vertex_marks.draw(at_whole, view, plane)
        if box is None:
            at_zoom.set_axis_off()
            continue
        _draw_layer(at_zoom, layer, pixels, box, view, norm)
        _mark_box(at_whole, at_zoom, box, view.pixel_size)
        if is_marked:
            vertex_marks.draw(at_zoom, view, plane)
    if view.vertices is not None and "prediction" in layers:
        at = whole[layers.index("prediction")]
        at.set_title(view.vertices.words(plane), fontsize=9, loc="right")
    whole[0].set_ylabel("tick")
    zoomed[0].set_ylabel("tick")
    whole[-1].set_title(_plane_words(view, plane), fontsize=9, loc="right")
    for panel in zoomed:
        panel.set_xlabel("wire", labelpad=1)


def box_of_class(
    pixels: PlanePixels, shape: ImageShape, number: int
) -> tuple[int, int, int, int] | None:
    """Finds the box around the true pixels of a class, or else the predicted ones.

    Args:
      pixels: pixels of the plane.
      shape: its rows and columns.
      number: of the class.

    Returns:
      First and last row (exclusive), first and last column (exclusive), within the
      plane; None where no pixel is of the class.
    """
    wanted = pixels.truth == number
    if not wanted.any():
        wanted = pixels.prediction == number
    if not wanted.any():
        return None
    # By charge, so that a few deposits far from the vertex do not widen the box.
    weight = np.maximum(pixels.charge[wanted], 1e-3)
    middles, halves = [], []
    for positions in (pixels.rows[wanted], pixels.columns[wanted]):
        low, high = _weighted_quantiles(positions, weight)
        middles.append((low + high) / 2)
        halves.append(max(BOX_MARGIN * (high - low + 1), SMALLEST_BOX) / 2)
    # The box has the proportions of the plane, so that slopes stay as they are.
    scale = max(half / size for half, size in zip(halves, shape, strict=True))
    box = []
    for middle, size in zip(middles, shape, strict=True):
        length = min(size, round(2 * scale * size))
        first = min(max(0, round(middle - length / 2)), size - length)
        box += [first, first + length]
    first_row, last_row, first_column, last_column = box
    return first_row, last_row, first_column, last_column


def _weighted_quantiles(positions, weight):
    """Finds the positions below which BOX_QUANTILES of the weight lie."""
    order = np.argsort(positions)
    share = np.cumsum(weight[order]) / weight.sum()
    at = np.searchsorted(share, BOX_QUANTILES)
    return positions[order][np.minimum(at, len(order) - 1)]


def rasterise(
    pixels: PlanePixels,
    values: np.ndarray,
    box: tuple[int, int, int, int],
    most: tuple[int, int] = PANEL_PIXELS,
) -> np.ndarray:
    """Fills a raster with the pixels of a box; in large boxes they share cells.

    Args:
      pixels: pixels of the plane.
      values: [V] float32; a cell takes the largest of its pixels.
      box: rows and columns, see `box_of_class`.
      most: largest number of columns and rows of the raster.

    Returns:
      [rows, columns] float32, not a number where nothing is stored.
    """
    first_row, last_row, first_column, last_column = box
    rows, columns = pixels.rows - first_row, pixels.columns - first_column
    height, width = last_row - first_row, last_column - first_column
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    down, across = -(-height // most[1]), -(-width // most[0])
    picture = np.full((-(-height // down), -(-width // across)), -np.inf, np.float32)
    at = rows[inside] // down, columns[inside] // across
    np.maximum.at(picture, at, values[inside])
    picture[np.isneginf(picture)] = np.nan
    return picture


def _draw_layer(panel, layer, pixels, box, view, norm):
    """Draws one layer of a box and returns matplotlib's image."""
    colors = optional_packages.import_optional("matplotlib.colors", "display")
    if layer == "charge":
        values, options = np.clip(pixels.charge, norm.vmin, None), {"norm": norm}
        options["cmap"] = CHARGE_MAP
    else:
        values, colours = _kinds(layer, pixels, view.detector)
        options = {"cmap": colors.ListedColormap(colours), "vmin": -0.5}
        options["vmax"] = len(colours) - 0.5
    picture = rasterise(pixels, values.astype(np.float32), box)
    size = view.pixel_size
    first_row, last_row, first_column, last_column = (edge * size for edge in box)
    panel.tick_params(labelsize=8)
    return panel.imshow(
        picture,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        extent=(first_column, last_column, first_row, last_row),
        **options,
    )


def _kinds(
    layer: str, pixels: PlanePixels, detector: Detector
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns what each pixel is in a layer of classes or errors, and the colours."""
    truth = legends.drawn(pixels.truth, detector)
    if layer == "errors":
        kinds = legends.error_table(detector)[truth, pixels.prediction]
        return kinds, legends.error_colours(detector)
    shown = truth if layer == "truth" else pixels.prediction
    return shown, legends.class_colours(detector)


CHARGE_MAP = "YlGnBu"
"""Pale for little charge, on white paper; its brightness changes evenly."""


def _charge_norm(view: EventView) -> Any:
    """Returns a logarithmic scale over the charges of all planes."""
    colors = optional_packages.import_optional("matplotlib.colors", "display")
    charge = np.concatenate([pixels.charge for pixels in view.planes])
    charge = charge[charge > 0]
    if not charge.size:
        return colors.LogNorm(1, 10)
    low, high = np.quantile(charge, (0.001, 0.999))
    return colors.LogNorm(0.4 * low, max(high, 1.01 * low))


def _mark_box(whole, zoomed, box, size):
    """Outlines the box in the whole picture, and the picture of the box itself."""
    patches = optional_packages.import_optional("matplotlib.patches", "display")
    first_row, last_row, first_column, last_column = (edge * size for edge in box)
    outline = patches.Rectangle(
        (first_column, first_row),
        last_column - first_column,
        last_row - first_row,
        fill=False,
        edgecolor="black",
        linewidth=1.2,
    )
    whole.add_patch(outline)
    for spine in zoomed.spines.values():
        spine.set_linewidth(1.6)


def _plane_words(view: EventView, plane: int) -> str:
    """Formats the metrics of a plane that fit beside its name."""
    if not view.metrics:
        return ""
    values = [
        f"{name} {view.metrics[f'plane{plane}/{metric}']:.3f}"
        for name, metric in zip(
            view.detector.classes[1:], view.detector.class_metrics, strict=True
        )
    ]
    words = f"IoU {', '.join(values)}"
    if len(words) <= PLANE_LETTERS:
        return words
    return f"mIoU {view.metrics[f'plane{plane}/mIoU']:.3f}"


def _title(view: EventView, width: float) -> str:
    """Returns lines that fit a width in inches."""
    pixel = f"{view.pixel_size} x {view.pixel_size} wires and ticks per pixel"
    words = [view.title, pixel if view.pixel_size > 1 else ""]
    if view.metrics:
        shown = (*view.detector.class_metrics, "mIoU", "Non_Bkg_Accuracy")
        means = [
            f"{name.replace('_', ' ')} {view.metrics[f'Average/{name}']:.3f}"
            for name in shown
        ]
        # Lines end behind a comma alone.
        line = "mean of the planes: " + ", ".join(m.replace(" ", NBSP) for m in means)
        words += textwrap.wrap(line, max(40, int(TITLE_LETTERS * width)))
    return "\n".join(filter(None, words)).replace(NBSP, " ")


def _legends(view: EventView, width: float) -> list[tuple[list[tuple[str, str]], int]]:
    """Returns names and colours of what is drawn, but the charge, and the columns.

    They stand in one line where they fit a width in inches, else classes over errors.
    Vertices have marks for colours.
    """
    classes, errors = [], []
    if view.has_truth or view.has_prediction:
        classes = legends.class_legend(view.detector)
    if view.has_truth and view.has_prediction:
        errors = legends.error_legend(view.detector)
    classes += vertex_marks.legend(view)
    everything = classes + errors
    if _num_columns(everything, width) == len(everything):
        return [(everything, len(everything))] if everything else []
    return [(named, _num_columns(named, width)) for named in (classes, errors) if named]


def _num_columns(named: list[tuple[str, str]], width: float) -> int:
    """Returns the columns of a legend of as few lines as fit a width in inches."""
    widths = LEGEND_LETTER_INCHES * np.array([len(name) for name, _ in named])
    for lines in range(1, len(named)):
        columns = -(-len(named) // lines)
        # As matplotlib fills them, one after the other.
        widest = [part.max() for part in np.array_split(widths, columns)]
        if sum(widest) + LEGEND_KEY_INCHES * columns <= width:
            return columns
    return 1


def _add_legends(figure: Any, keys: list[tuple[list[tuple[str, str]], int]]) -> None:
    """Names the colours under the panels, the last legend at the bottom."""
    patches = optional_packages.import_optional("matplotlib.patches", "display")
    bottom = 0.0
    for named, columns in keys[::-1]:
        handles = [
            vertex_marks.handle(name)
            if name in vertex_marks.MARKS
            else patches.Patch(color=colour, label=name)
            for name, colour in named
        ]
        figure.legend(
            handles=handles,
            loc="lower center",
            bbox_to_anchor=(0.5, bottom / figure.get_figheight()),
            ncols=columns,
            frameon=False,
            fontsize=10,
        )
        bottom += -(-len(named) // columns) * LEGEND_LINE_INCHES
