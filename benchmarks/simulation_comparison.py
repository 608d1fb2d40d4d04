"""Puts simulated events beside the five light events: a table and figures.

    python benchmarks/simulation_comparison.py --light cosmic_tagging_light.h5 \
        --events 200 --seed 1 --document docs/simulation.md --figures docs/figures

The table goes between the markers of the document. Needs matplotlib and scipy, which
the package itself does not.
"""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Iterable, Iterator

import h5py
import numpy as np
from scipy import ndimage

from ctjax.base.constants import BACKGROUND, IMAGE_PRODUCT, LABEL_PRODUCT
from ctjax.base.detector import COSMIC_TAGGER
from ctjax.simulation.events import Simulator
from ctjax.simulation.parameters import GENERATOR_VERSION

NUM_PLANES = COSMIC_TAGGER.num_planes

BEGIN = "<!-- begin comparison table -->"
END = "<!-- end comparison table -->"
TOLERANCE = 1.5
SHORTEST_TRACK = 20.0
"""Length in pixels from which a connected component counts as a track."""

QUANTILES = (1, 10, 50, 90, 99)
EIGHT_NEIGHBOURS = np.ones((3, 3))


@dataclasses.dataclass(frozen=True)
class Plane:
    """Stored pixels of one plane: columns, rows, charge and label, [V] each."""

    column: np.ndarray
    row: np.ndarray
    charge: np.ndarray
    label: np.ndarray
    shape: tuple[int, int]

    def dense(self, values: np.ndarray, empty: float = 0.0) -> np.ndarray:
        """[H, W] image of some values."""
        image = np.full(self.shape, empty, np.float32)
        image[self.row, self.column] = values
        return image


def light_events(path: pathlib.Path) -> Iterator[list[Plane]]:
    """Planes of each event of a larcv3 file whose two products share their ids."""
    with h5py.File(path) as file:
        tables = {}
        for product in (IMAGE_PRODUCT, LABEL_PRODUCT):
            group = file[f"Data/sparse2d_{product}_group"]
            tables[product] = (group["voxel_extents"][:], group["voxels"][:])
        meta = file[f"Data/sparse2d_{IMAGE_PRODUCT}_group/image_meta"][:]
    extents, voxels = tables[IMAGE_PRODUCT]
    _, labels = tables[LABEL_PRODUCT]
    for first in range(0, len(extents), NUM_PLANES):
        planes = []
        for row in range(first, first + NUM_PLANES):
            width, height = (int(n) for n in meta["number_of_voxels"][row])
            begin = int(extents["first"][row])
            chosen = slice(begin, begin + int(extents["N"][row]))
            ids = voxels["id"][chosen].astype(np.int64)
            planes.append(
                Plane(
                    ids // height,
                    ids % height,
                    voxels["value"][chosen],
                    labels["value"][chosen].astype(np.int64),
                    (height, width),
                )
            )
        yield planes


def simulated_events(number: int, seed: int) -> Iterator[list[Plane]]:
    """Planes of the first events of a seed."""
    simulator = Simulator()
    height = simulator.geometry.shape[0]
    for index in range(number):
        planes = []
        for image in simulator.event(seed, index).planes:
            ids = image.ids.astype(np.int64)
            planes.append(
                Plane(
                    ids // height,
                    ids % height,
                    image.charge,
                    image.label.astype(np.int64),
                    simulator.geometry.shape,
                )
            )
        yield planes


def measure(plane: Plane) -> dict[str, float]:
    """Numbers of one plane that the table compares."""
    stored = plane.charge.size
    result = {
        "stored voxels": float(stored),
        "occupancy (%)": 100 * stored / (plane.shape[0] * plane.shape[1]),
    }
    for code, name in enumerate(("background", "cosmic", "neutrino")):
        result[f"label fraction {name}"] = float((plane.label == code).mean())
    for quantile, value in zip(
        QUANTILES, np.percentile(plane.charge, QUANTILES), strict=True
    ):
        result[f"charge quantile {quantile} %"] = float(value)
    tracks, _ = ndimage.label(plane.dense(plane.label) > 0, EIGHT_NEIGHBOURS)
    boxes = ndimage.find_objects(tracks)
    lengths = np.array(
        [np.hypot(a.stop - a.start, b.stop - b.start) for a, b in boxes] or [0.0]
    )
    is_track = lengths >= SHORTEST_TRACK
    result["connected tracks"] = float(is_track.sum())
    if is_track.any():
        result["mean track length (pixels)"] = float(lengths[is_track].mean())
    result["smaller labelled groups"] = float((~is_track).sum())

    groups, number = ndimage.label(plane.dense(plane.charge) > 0, EIGHT_NEIGHBOURS)
    group = groups[plane.row, plane.column]
    with_label = np.zeros(number + 1, bool)
    with_label[group[plane.label != BACKGROUND]] = True
    noise = ~with_label[group]
    lower = plane.row < plane.shape[0] // 2
    result["noise pixels, lower half"] = float((noise & lower).sum())
    result["noise pixels, upper half"] = float((noise & ~lower).sum())
    result["background beside tracks"] = float(
        ((plane.label == BACKGROUND) & ~noise).sum()
    )
    return result


def mean_table(events: Iterable[list[Plane]]) -> list[dict[str, float]]:
    """Mean of every number over events, per plane."""
    rows: list[list[dict[str, float]]] = [[] for _ in range(NUM_PLANES)]
    for planes in events:
        for plane, values in zip(planes, rows, strict=True):
            values.append(measure(plane))
    return [
        {
            name: float(np.mean([row[name] for row in values if name in row]))
            for name in dict.fromkeys(name for row in values for name in row)
        }
        for values in rows
    ]


def format_table(real: list[dict], simulated: list[dict]) -> tuple[str, int]:
    """Markdown table, and how many ratios are outside the tolerance."""
    lines = [
        "| mean per event | " + " | ".join(
            f"plane {p}: light | simulated | ratio" for p in range(NUM_PLANES)
        ) + " |",
        "|---|" + "---:|" * (3 * NUM_PLANES),
    ]  # fmt: skip
    outside = 0
    for name in real[0]:
        cells = [name]
        for light, made in zip(real, simulated, strict=True):
            ratio = made[name] / light[name]
            bad = not 1 / TOLERANCE <= ratio <= TOLERANCE
            outside += bad
            mark = "**" if bad else ""
            cells += [f"{light[name]:.4g}", f"{made[name]:.4g}"]
            cells.append(f"{mark}{ratio:.2f}{mark}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines), outside


def draw_planes(events: list[list[Plane]], titles: list[str], path: pathlib.Path):
    """Draws the three planes of some events, one event per row."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import colors, pyplot

    figure, axes = pyplot.subplots(
        len(events), NUM_PLANES, figsize=(16, 4.2 * len(events)), squeeze=False
    )
    for planes, title, row in zip(events, titles, axes, strict=True):
        for number, (plane, axis) in enumerate(zip(planes, row, strict=True)):
            charge = plane.dense(plane.charge, np.nan)
            # Pixels are smaller than the figure's; the largest of 2 x 2 stays visible.
            height, width = charge.shape
            blocks = charge.reshape(height // 2, 2, width // 2, 2)
            axis.imshow(
                np.fmax.reduce(np.fmax.reduce(blocks, axis=3), axis=1),
                origin="lower",
                norm=colors.LogNorm(5, 200),
                cmap="turbo",
                interpolation="nearest",
                extent=(0, width, 0, height),
                aspect="auto",
            )
            axis.set_title(f"{title}, plane {number}", fontsize=9)
    figure.tight_layout()
    _save(figure, path)


def draw_details(
    events: list[list[Plane]], titles: list[str], path: pathlib.Path, size: int = 120
):
    """Draws charge and label around the densest part of each event's planes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import colors, pyplot

    figure, axes = pyplot.subplots(
        2 * len(events), NUM_PLANES, figsize=(12, 8 * len(events)), squeeze=False
    )
    for index, (planes, title) in enumerate(zip(events, titles, strict=True)):
        for number, plane in enumerate(planes):
            chosen = plane.label == 2 if (plane.label == 2).any() else plane.label == 1
            row = int(np.median(plane.row[chosen])) - size // 2
            column = int(np.median(plane.column[chosen])) - size // 2
            row, column = max(row, 0), max(column, 0)
            window = (slice(row, row + size), slice(column, column + size))
            extent = (column, column + size, row, row + size)
            draw = {"origin": "lower", "interpolation": "nearest", "extent": extent}
            axes[2 * index, number].imshow(
                plane.dense(plane.charge, np.nan)[window],
                norm=colors.LogNorm(5, 200), cmap="turbo", **draw,
            )  # fmt: skip
            axes[2 * index + 1, number].imshow(
                plane.dense(plane.label, np.nan)[window],
                vmin=0, vmax=2, cmap="viridis", **draw,
            )  # fmt: skip
            axes[2 * index, number].set_title(
                f"{title}, plane {number}: charge, label", fontsize=9
            )
    figure.tight_layout()
    _save(figure, path)


def draw_spectra(
    real: list[list[Plane]], simulated: list[list[Plane]], path: pathlib.Path
):
    """Draws the charge spectra of the labels in both samples."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, NUM_PLANES, figsize=(14, 4))
    edges = np.geomspace(5, 1000, 60)
    for number, axis in enumerate(axes):
        for events, line in ((real, "-"), (simulated, "--")):
            for code, colour in enumerate(("grey", "tab:blue", "tab:red")):
                charge = np.concatenate(
                    [e[number].charge[e[number].label == code] for e in events]
                )
                counts, _ = np.histogram(charge, edges)
                name = ("background", "cosmic", "neutrino")[code]
                sample = "light" if events is real else "simulated"
                axis.stairs(
                    counts / len(events), edges, linestyle=line, color=colour,
                    label=f"{name}, {sample}",
                )  # fmt: skip
        axis.set(xscale="log", yscale="log", xlabel="counts", title=f"plane {number}")
    axes[0].set_ylabel("pixels per event and bin")
    axes[2].legend(fontsize=7)
    figure.tight_layout()
    _save(figure, path)


def _save(figure, path: pathlib.Path) -> None:
    """Writes a figure in 64 colours, which keeps it small."""
    import io

    from matplotlib import pyplot
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=75, format="png")
    pyplot.close(figure)
    image = Image.open(buffer).convert("RGB").quantize(64)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, optimize=True)


def main() -> int:
    """Compares, draws, and puts the table into the document."""
    parser = argparse.ArgumentParser(description="Compares events.")
    parser.add_argument("--light", type=pathlib.Path, required=True)
    parser.add_argument("--events", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--document", type=pathlib.Path)
    parser.add_argument("--figures", type=pathlib.Path)
    options = parser.parse_args()

    real = list(light_events(options.light))
    simulated = list(simulated_events(options.events, options.seed))
    table, outside = format_table(mean_table(real), mean_table(simulated))
    caption = (
        f"{len(real)} light events and {options.events} simulated ones (seed "
        f"{options.seed}, generator version {GENERATOR_VERSION}); {outside} ratios "
        f"outside 1/{TOLERANCE} to {TOLERANCE}."
    )
    sys.stdout.write(f"{table}\n\n{caption}\n")
    if options.document is not None:
        text = options.document.read_text()
        before, rest = text.split(BEGIN)
        _, after = rest.split(END)
        options.document.write_text(
            f"{before}{BEGIN}\n\n{table}\n\n{caption}\n\n{END}{after}"
        )
    if options.figures is not None:
        mixed = [real[0], simulated[0], real[2], simulated[6]]
        names = ["light 0", "simulated 0", "light 2", "simulated 6"]
        draw_planes(mixed, names, options.figures / "simulation_planes.png")
        draw_details(
            [real[2], simulated[6]],
            ["light 2", "simulated 6"],
            options.figures / "simulation_details.png",
        )
        draw_spectra(real, simulated, options.figures / "simulation_spectra.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
