"""Draws an event as a picture.

Each plane has a row that shows the whole image and a row that shows the box around the
neutrino.
"""

from typing import Any

import numpy as np

from ctjax.base import optional_packages
from ctjax.base.constants import CLASS_NAMES, NEUTRINO
from ctjax.views.event import ERROR_NAMES, EventView, PlanePixels, pixel_kinds

# Okabe and Ito's colours (jfly.uni-koeln.de/color), which people with every kind of
# colour vision can tell apart; grey for what is of no interest.
CLASS_COLOURS = ("#C9CCD1", "#0072B2", "#D55E00")
ERROR_COLOURS = ("#E9EAEC", "#9AA4AE", "#56B4E9", "#D55E00", "#000000")

COLUMN_INCHES = 4.6
HEIGHT_INCHES = 17.2

TOP, BOTTOM, PLANE_GAP = 0.936, 0.05, 0.035
"""Shares of the height; the gap below a plane holds its numbers and the next title."""

PANEL_PIXELS = (640, 400)
"""Largest number of columns and rows of a picture; nobody would see more."""

BOX_QUANTILES = (0.15, 0.85)
BOX_MARGIN = 1.8

SMALLEST_BOX = 48
"""Number of pixels on a side."""

SHOWN_METRICS = ("Cosmic_IoU", "Neutrino_IoU", "mIoU", "Non_Bkg_Accuracy")


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
    figure = figures.Figure(figsize=(width, HEIGHT_INCHES), dpi=110)
    # Places by hand: matplotlib's own layout takes as long as all the drawing.
    left, right = 0.6 / width, 1 - 0.2 / width
    each = (TOP - BOTTOM) / len(view.planes)
    blocks = []
    for plane in range(len(view.planes)):
        top = TOP - plane * each
        grid = figure.add_gridspec(
            *(2, len(layers)),
            left=left,
            right=right,
            top=top,
            bottom=top - each + PLANE_GAP,
            hspace=0.16,
            wspace=0.13,
        )
        blocks.append(grid.subplots(squeeze=False))
    norm = _charge_norm(view)
    for plane, pixels in enumerate(view.planes):
        box = neutrino_box(pixels, view.image_shape)
        whole, zoomed = blocks[plane]
        for layer, at_whole, at_zoom in zip(layers, whole, zoomed, strict=True):
            everything = (0, view.image_shape[0], 0, view.image_shape[1])
            _draw_layer(at_whole, layer, pixels, everything, view, norm)
            at_whole.set_title(f"plane {plane}: {layer}", fontsize=11, loc="left")
            if box is None:
                at_zoom.set_axis_off()
                continue
            _draw_layer(at_zoom, layer, pixels, box, view, norm)
            _mark_box(at_whole, at_zoom, box, view.pixel_size)
        whole[0].set_ylabel("tick")
        zoomed[0].set_ylabel("tick")
        whole[-1].set_title(_plane_words(view, plane), fontsize=9, loc="right")
        for panel in zoomed:
            panel.set_xlabel("wire", labelpad=1)
    first = blocks[0][0][0]
    scale = figure.add_axes((left, 0.044, first.get_position().width, 0.007))
    figure.colorbar(
        first.images[0], cax=scale, orientation="horizontal", label="charge"
    )
    figure.suptitle(_title(view), fontsize=14, x=left, y=0.992, ha="left", va="top")
    _add_legend(figure, view)
    return figure


def neutrino_box(
    pixels: PlanePixels, image_shape: tuple[int, int]
) -> tuple[int, int, int, int] | None:
    """Finds the box around the true neutrino, or else around the predicted one.

    Args:
      pixels: pixels of the plane.
      image_shape: rows H and columns W.

    Returns:
      First and last row (exclusive), first and last column (exclusive), within the
      image; None where no pixel belongs to a neutrino.
    """
    wanted = pixels.truth == NEUTRINO
    if not wanted.any():
        wanted = pixels.prediction == NEUTRINO
    if not wanted.any():
        return None
    # By charge, so that a few deposits far from the vertex do not widen the box.
    weight = np.maximum(pixels.charge[wanted], 1e-3)
    middles, halves = [], []
    for positions in (pixels.rows[wanted], pixels.columns[wanted]):
        low, high = _weighted_quantiles(positions, weight)
        middles.append((low + high) / 2)
        halves.append(max(BOX_MARGIN * (high - low + 1), SMALLEST_BOX) / 2)
    # The box has the proportions of the image, so that slopes stay as they are.
    scale = max(half / size for half, size in zip(halves, image_shape, strict=True))
    box = []
    for middle, size in zip(middles, image_shape, strict=True):
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
      box: rows and columns, see `neutrino_box`.
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
        kinds = {
            "truth": (pixels.truth, CLASS_COLOURS),
            "prediction": (pixels.prediction, CLASS_COLOURS),
            "errors": (pixel_kinds(pixels), ERROR_COLOURS),
        }
        values, colours = kinds[layer]
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
    """Formats the two metrics of a plane that fit beside its name."""
    if not view.metrics:
        return ""
    cosmic, neutrino = (
        view.metrics[f"plane{plane}/{name}"] for name in ("Cosmic_IoU", "Neutrino_IoU")
    )
    return f"IoU cosmic {cosmic:.3f}, neutrino {neutrino:.3f}"


def _title(view: EventView) -> str:
    pixel = f"{view.pixel_size} x {view.pixel_size} wires and ticks per pixel"
    words = [view.title, pixel if view.pixel_size > 1 else ""]
    if view.metrics:
        means = [
            f"{name.replace('_', ' ')} {view.metrics[f'Average/{name}']:.3f}"
            for name in SHOWN_METRICS
        ]
        words.append("mean of the planes: " + ", ".join(means))
    return "\n".join(filter(None, words))


def _add_legend(figure: Any, view: EventView) -> None:
    """Names the colours under the panels."""
    patches = optional_packages.import_optional("matplotlib.patches", "display")
    named = []
    if view.has_truth or view.has_prediction:
        named += zip(CLASS_NAMES, CLASS_COLOURS, strict=True)
    if view.has_truth and view.has_prediction:
        named += zip(ERROR_NAMES, ERROR_COLOURS, strict=True)
    if named:
        handles = [patches.Patch(color=colour, label=name) for name, colour in named]
        figure.legend(
            handles=handles,
            loc="lower center",
            ncols=len(handles),
            frameon=False,
            fontsize=10,
        )
