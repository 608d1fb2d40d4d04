"""How well a small network finds the vertex, beside the centre of the charge.

    python -m benchmarks.vertex --work W --output docs/benchmarks/vertex

Trains the network of configs/quickstart.py with the head of the vertex on the simulated
events of `ctjax quickstart`, and applies it to those that it has not seen. The baseline
is the centre of an event's charge in each plane. Training and inference are commands of
ctjax in a folder under --work: stopped and started again, the same command goes on.
Writes vertex.json and vertex.md.
"""

import argparse
import csv
import json
import pathlib
import shlex
import statistics
import sys

import numpy as np

from benchmarks import accuracy_runs, machine
from ctjax.config.heads import ActiveHeads, Vertex
from ctjax.data import sources
from ctjax.data.larcv.records import PlaneMeta
from ctjax.data.voxels import Voxels
from ctjax.runs import quickstart
from ctjax.simulation.benchmark_sets import BENCHMARK_SETS

PROGRAM = "benchmarks.vertex"

DOWNSAMPLE = 3

HEAD = (
    "network.name=vertex",
    "network.vertex.active=True",
    "network.vertex.detach=False",
    "network.vertex.n_filters=32",
    "network.vertex.n_layers=2",
)
"""Words that give the network of the quickstart the head."""

NETWORK, CENTRE = "network", "centre of the charge"


def main() -> int:
    """Runs what is missing and writes the table."""
    options = parse()
    file, held_out = map(quickstart.find_or_simulate, BENCHMARK_SETS["quickstart"])
    folder = options.work.resolve() / f"{options.iterations}_{options.minibatch_size}"
    common = [
        "--config=quickstart",
        f"run.minibatch_size={options.minibatch_size}",
        *HEAD,
    ]
    steps = f"run.iterations={options.iterations}"
    accuracy_runs.call(
        PROGRAM, "train", [*common, f"data.file={file}", steps, f"output_dir={folder}"]
    )
    applied = folder / "held_out"
    words = [f"data.file={held_out}", f"mode.weights_location={folder}"]
    accuracy_runs.call(PROGRAM, "infer", [*common, *words, f"output_dir={applied}"])
    distances = {
        NETWORK: read_distances(applied / "inference_metrics.csv"),
        CENTRE: centre_distances(held_out),
    }
    write(distances, options)
    sys.stdout.write(f"Results: {options.output.resolve() / 'vertex.md'}\n")
    return 0


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.vertex",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--iterations", type=int, default=900, help="steps")
    parser.add_argument("--minibatch-size", type=int, default=2)
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("vertex"))
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("vertex"))
    return parser.parse_args()


def read_distances(path: pathlib.Path) -> np.ndarray:
    """Reads the distance in cm of every event and plane, [N, P]; nan without one."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name.endswith("/VertexResolution")]
    planes = [name for name in names if name.startswith("plane")]
    return np.array([[float(row[name]) for name in planes] for row in rows])


def centre_distances(file: str) -> np.ndarray:
    """Measures how far the centre of the charge is from the vertex; as above."""
    heads = ActiveHeads(None, Vertex(active=True), 0)
    distances = []
    with sources.open_source(file=file, downsample=DOWNSAMPLE, heads=heads) as source:
        for entry in range(source.num_events):
            image, _ = source.read_pooled(entry)
            centres = find_centres(
                image, source.plane_metas(entry), source.image_shape[0]
            )
            labels = source.head_labels([entry])
            assert labels is not None and labels.vertex is not None
            difference = centres - labels.vertex.position[0]
            distances.append(np.sqrt((difference**2).sum(1)))
    return np.array(distances)


def find_centres(image: Voxels, metas: list[PlaneMeta], num_rows: int) -> np.ndarray:
    """Finds the mean row and column of the charge in each plane, [P, 2] cm."""
    centres = []
    for span, meta in zip(image.planes, metas, strict=True):
        columns, rows = np.divmod(image.ids[span], num_rows)
        weight = np.abs(image.values[span].astype(np.float64))
        pixels = np.array(meta.number_of_voxels)
        mean = np.stack([columns, rows]) @ weight / max(weight.sum(), 1e-30) + 0.5
        centre = meta.origin + mean * np.array(meta.image_sizes) / pixels
        centres.append(centre[::-1])
    return np.array(centres)


def write(distances: dict[str, np.ndarray], options: argparse.Namespace) -> None:
    """Writes all distances, and a table of their medians and means."""
    options.output.mkdir(parents=True, exist_ok=True)
    described = machine.describe("jax", "jaxlib", "flax", "optax", "numpy")
    command = f"python -m benchmarks.vertex {shlex.join(sys.argv[1:])}".strip()
    rows = {
        name: [[plain(distance) for distance in event] for event in found]
        for name, found in distances.items()
    }
    result = {"command": command, "machine": described, "distances_cm": rows}
    (options.output / "vertex.json").write_text(json.dumps(result) + "\n")
    planes = [f"plane {plane}" for plane in range(distances[CENTRE].shape[1])]
    lines = [
        "# The vertex: a small network beside the centre of the charge",
        "",
        "The quickstart's network with the head of the vertex after "
        f"{options.iterations} steps of {options.minibatch_size}",
        "simulated events, applied to others; distance from the true vertex in cm,",
        "median / mean (events with a vertex).",
        "",
        f"- Command: `{command}`",
        f"- Machine: {machine.words(described)}",
        "",
        f"| found by | {' | '.join(planes)} |",
        f"|---|{'---:|' * len(planes)}",
    ]
    for name, found in distances.items():
        cells = " | ".join(summary(column) for column in found.T)
        lines.append(f"| {name} | {cells} |")
    (options.output / "vertex.md").write_text("\n".join(lines) + "\n")


def plain(distance: float) -> float | None:
    """Returns a number that JSON has."""
    return None if np.isnan(distance) else round(float(distance), 3)


def summary(column: np.ndarray) -> str:
    """Writes median, mean and number of the distances that there are."""
    known = column[~np.isnan(column)].tolist()
    if not known:
        return "none"
    median, mean = statistics.median(known), statistics.fmean(known)
    return f"{median:.1f} / {mean:.1f} ({len(known)})"


if __name__ == "__main__":
    sys.exit(main())
