"""Draws the network of docs/model.md from a configuration.

python docs/figures/draw_model.py configs/uresnet.py docs/figures/model.png
"""

import argparse
import importlib.util
import pathlib

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, Rectangle

from ctjax.base.constants import FULL_IMAGE_SHAPE
from ctjax.config import resolve
from ctjax.config.fields import GrowthRate, Network

PLANE_COLOURS = ("#0072b2", "#e69f00", "#009e73")  # of Okabe and Ito
SKIP = "#999999"
DOWN_X, UP_X = 0.0, 6.2
WIDTH = 1.5
STEP = 1.3


def main() -> None:
    """Draws one figure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("config", type=pathlib.Path)
    parser.add_argument("output", type=pathlib.Path)
    options = parser.parse_args()
    spec = importlib.util.spec_from_file_location("configuration", options.config)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    resolved = resolve.resolve(module.get_config())
    figure, axes = plt.subplots(figsize=(10, 7.6), layout="constrained")
    draw(axes, resolved.network, resolved.data.downsample)
    figure.savefig(options.output, dpi=110)


def draw(axes: Axes, network: Network, downsample: int) -> None:
    """Draws levels from the top down: the way down on the left, up on the right."""
    axes.set_axis_off()
    axes.set_xlim(-2.2, 10)
    axes.set_ylim(-STEP * network.depth - 1.5, 1.0)
    features = network.n_initial_filters
    for level in range(network.depth + 1):
        height, width = (size >> (downsample + level) for size in FULL_IMAGE_SHAPE)
        y = -STEP * level
        shape = f"{height} x {width}\n{features} features"
        if level < network.depth:
            blocks = f"{network.blocks_per_layer} blocks, 3 x 3"
            draw_level(axes, DOWN_X, y, shape, blocks)
            draw_level(axes, UP_X, y, shape, blocks)
            middle = 0.5 * (DOWN_X + WIDTH + UP_X)
            arrow(axes, (DOWN_X + WIDTH, y), (UP_X, y), SKIP)
            joined = network.connections.value
            axes.text(
                *(middle, y + 0.05, f"level's input, {joined}"),
                **{"ha": "center", "va": "bottom", "fontsize": 8, "color": SKIP},
            )
            arrow(axes, (DOWN_X + 0.75, y - 0.38), (DOWN_X + 0.75, y - STEP + 0.43))
            arrow(axes, (UP_X + 0.75, y - STEP + 0.28), (UP_X + 0.75, y - 0.38))
            if level == 0:
                note(axes, DOWN_X - 0.1, y - STEP / 2, "max-pooling,\n1 x 1", "right")
                note(
                    *(axes, UP_X + WIDTH + 0.1, y - STEP / 2),
                    *("1 x 1,\ninterpolation", "left"),
                )
            if network.growth_rate is GrowthRate.ADDITIVE:
                features += network.n_initial_filters
            else:
                features *= 2
            continue
        draw_level(axes, DOWN_X, y, shape, "")
        draw_level(axes, UP_X, y, shape, "")
        draw_deepest(axes, network, y)
    draw_ends(axes, network)


def draw_level(axes: Axes, x: float, y: float, shape: str, blocks: str) -> None:
    """Draws a box for each plane, one behind the other: planes share weights."""
    for plane, colour in reversed(list(enumerate(PLANE_COLOURS))):
        shift = 0.07 * plane
        axes.add_patch(
            Rectangle(
                *((x + shift, y - 0.37 + shift), WIDTH - 0.14, 0.64),
                **{"facecolor": "white", "edgecolor": colour, "linewidth": 1.6},
            )
        )
    text = f"{shape}\n{blocks}" if blocks else shape
    axes.text(
        *(x + 0.5 * (WIDTH - 0.14), y - 0.05, text),
        **{"ha": "center", "va": "center", "fontsize": 7.5, "linespacing": 1.3},
    )


def draw_deepest(axes: Axes, network: Network, y: float) -> None:
    """Draws the level where the planes meet, unless they stay apart."""
    size = network.filter_size_deepest
    words = (
        f"{'planes apart' if network.block_concat else 'planes concatenated'}\n"
        f"1 x 1 to {network.bottleneck_deepest} features\n"
        f"{network.blocks_deepest_layer} blocks, {size} x {size}\n1 x 1 back"
    )
    x = 0.5 * (DOWN_X + UP_X)
    axes.add_patch(
        Rectangle(
            *((x - 0.35, y - 0.55), WIDTH + 0.7, 1.1),
            **{"facecolor": "#f2f2f2", "edgecolor": "black", "linewidth": 1.6},
        )
    )
    axes.text(x + WIDTH / 2, y, words, ha="center", va="center", fontsize=8.5)
    arrow(axes, (DOWN_X + WIDTH, y), (x - 0.37, y))
    arrow(axes, (x + WIDTH + 0.37, y), (UP_X, y))


def draw_ends(axes: Axes, network: Network) -> None:
    """Draws the images to the left and the scores to the right of the first level."""
    size = 5
    note(
        axes,
        -2.15,
        0.0,
        f"charge of\nthree planes\n\n{size} x {size} to {network.n_initial_filters}",
        "left",
    )
    arrow(axes, (-0.75, 0.0), (DOWN_X, 0.0))
    final = f"{network.blocks_final} blocks, 3 x 3\n" if network.blocks_final else ""
    arrow(axes, (UP_X + WIDTH, 0.0), (UP_X + WIDTH + 0.6, 0.0))
    note(
        *(axes, UP_X + WIDTH + 0.7, 0.0),
        *(f"{final}1 x 1 to 3 scores:\nbackground,\ncosmic, neutrino", "left"),
    )
    kind = (
        "residual block: two convolutions and a sum"
        if network.residual
        else ("block: one convolution")
    )
    axes.text(
        *(DOWN_X, -STEP * network.depth - 1.0),
        f"{kind}, each convolution followed by normalization "
        f"({network.normalization.value}) and LeakyReLU.\n"
        "Planes (blue, orange, green) share all weights.",
        **{"fontsize": 9, "va": "top"},
    )


def arrow(
    axes: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    colour: str = "black",
) -> None:
    """Draws an arrow between two boxes."""
    axes.add_patch(
        FancyArrowPatch(
            *(start, end),
            **{"arrowstyle": "-|>", "mutation_scale": 10, "color": colour},
            **{"shrinkA": 0, "shrinkB": 0, "linewidth": 1.1},
        )
    )


def note(axes: Axes, x: float, y: float, text: str, side: str) -> None:
    """Writes small words beside a box."""
    axes.text(x, y, text, ha=side, va="center", fontsize=8)


if __name__ == "__main__":
    main()
