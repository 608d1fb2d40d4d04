"""Accuracy of the sparse network beside the same one on images, equal events and steps.

    python -m benchmarks.sparse_accuracy --light cosmic_tagging_light.h5 \
        --output docs/benchmarks/sparse

Trains the network of configs/sparse_small.py and the one on images of the same shape on
simulated events at downsample 2, and the sparse one alone at full resolution, each from
several seeds; applies them to other simulated events and to a file. Every run is one of
`ctjax train` and `ctjax infer` in a folder of its own under --work: stopped and started
again, the command goes on where it was. Writes accuracy.json and accuracy.md.
"""

import argparse
import dataclasses
import json
import logging
import pathlib
import sys

from benchmarks import accuracy_runs, machine
from ctjax.base.detector import COSMIC_TAGGER
from ctjax.runs import quickstart
from ctjax.simulation.benchmark_sets import BenchmarkFile

PROGRAM = "benchmarks.sparse_accuracy"

TRAINING_SEED, TEST_SEED = 40_001, 40_002
"""Of the simulated events; far from those that people try out."""

IMAGES = (
    "network.architecture=uresnet",
    "network.name=dense_small",
)
"""Words that make sparse_small the network on images of the same shape."""

BATCH = ("network.normalization=batch",)
INSTANCE = ("network.normalization=instance",)

ABOUT = ("study", "seed", "events", "file", "held_out", "commit")
"""What a result says besides its measures."""


@dataclasses.dataclass(frozen=True)
class Study:
    """A network that is trained and applied.

    Attributes:
      name: for folders and the table.
      downsample: halvings of the images.
      words: of the command line, beside the configuration's.
    """

    name: str
    downsample: int
    words: tuple[str, ...] = ()


STUDIES = (
    Study("images, batch", 2, IMAGES + BATCH),
    Study("sparse, batch", 2, BATCH),
    Study("images, instance", 2, IMAGES + INSTANCE),
    Study("sparse, instance", 2, INSTANCE),
    Study("sparse, batch, full resolution", 0, BATCH),
)


def main() -> int:
    """Runs what is missing and writes the table."""
    options = parse()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    files = {
        "simulated": quickstart.find_or_simulate(
            BenchmarkFile("test", options.held_out, TEST_SEED)
        )
    }
    if options.light is not None:
        files["light"] = str(options.light.resolve())
    training = quickstart.find_or_simulate(
        BenchmarkFile("train", options.events, TRAINING_SEED)
    )
    rows = []
    for seed in range(options.seeds):
        for study in STUDIES:
            if options.studies and study.name not in options.studies:
                continue
            rows += run(study, seed, training, files, options)
            write(rows, options)
    sys.stdout.write(f"Results: {options.output.resolve() / 'accuracy.md'}\n")
    return 0


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {PROGRAM}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--events", type=int, default=300, help="to train on")
    parser.add_argument("--held-out", type=int, default=100, help="to apply it to")
    parser.add_argument("--iterations", type=int, default=600, help="steps")
    parser.add_argument("--minibatch-size", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--light", type=pathlib.Path, help="a file to apply it to, too")
    parser.add_argument(
        "--studies", nargs="+", choices=[study.name for study in STUDIES]
    )
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("accuracy"))
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("accuracy"))
    return parser.parse_args()


def run(
    study: Study,
    seed: int,
    training: str,
    files: dict[str, str],
    options: argparse.Namespace,
) -> list[dict]:
    """Trains a network and applies it, where that is not done; returns the results."""
    name = f"{study.name.replace(', ', '_').replace(' ', '_')}_{seed}"
    size = f"{options.events}_{options.iterations}_{options.minibatch_size}"
    folder = (options.work / size / name).resolve()
    common = [
        "--config=sparse_small",
        f"data.downsample={study.downsample}",
        f"run.minibatch_size={options.minibatch_size}",
        *study.words,
    ]
    trained = [
        *common,
        f"data.file={training}",
        *accuracy_runs.words_of_training(seed, options.iterations, folder),
    ]
    accuracy_runs.call(PROGRAM, "train", trained)
    rows = []
    for kind, file in files.items():
        applied = folder / kind
        done = applied / "done.json"
        asked = {"file": pathlib.Path(file).name, "held_out": options.held_out}
        found = json.loads(done.read_text()) if done.exists() else {}
        if any(found.get(name) != value for name, value in asked.items()):
            accuracy_runs.call(
                PROGRAM,
                "infer",
                [
                    *common,
                    f"data.file={file}",
                    f"mode.weights_location={folder}",
                    "mode.write_predictions=False",
                    f"output_dir={applied}",
                ],
            )
            found = read_results(applied) | asked
            found |= {"study": study.name, "seed": seed, "events": kind}
            found |= {"commit": machine.commit()}
            done.write_text(json.dumps(found))
        rows.append(found)
    return rows


def read_results(folder: pathlib.Path) -> dict[str, float]:
    """Reads means over the events, efficiency and purity over all their pixels."""
    found = accuracy_runs.read_means(folder)
    total = accuracy_runs.read_counts(folder).sum((0, 1))
    for place, name in enumerate(COSMIC_TAGGER.classes[1:], 1):
        right = int(total[place, place])
        found[f"{name} efficiency"] = right / max(int(total[place].sum()), 1)
        found[f"{name} purity"] = right / max(int(total[:, place].sum()), 1)
    return found


def write(rows: list[dict], options: argparse.Namespace) -> None:
    """Writes all results, and a table of their means and spreads over the seeds."""
    measures = [name for name in rows[0] if name not in ABOUT]
    words = [
        f"{options.events} simulated events, {options.iterations} steps of "
        f"{options.minibatch_size} events; applied to {options.held_out} other "
        "simulated events",
        "and, where named, to CosmicTagger's public events. Median over the seeds, and",
        "the least and the greatest. The first three are means over the events, and",
        "efficiency and purity are of all their pixels together.",
    ]
    table = [
        f"| applied to | network | seeds | {' | '.join(measures)} |",
        f"|---|---|---:|{'---|' * len(measures)}",
    ]
    kinds = dict.fromkeys((row["events"], row["study"]) for row in rows)
    for kind, study in sorted(kinds, key=lambda pair: pair[0], reverse=True):
        of_kind = [r for r in rows if (r["events"], r["study"]) == (kind, study)]
        cells = [
            accuracy_runs.spread([row[name] for row in of_kind]) for name in measures
        ]
        table.append(f"| {kind} | {study} | {len(of_kind)} | {' | '.join(cells)} |")
    title = "Accuracy: the sparse network beside the same one on images"
    path = options.output / "accuracy"
    accuracy_runs.write(PROGRAM, path, rows, title, words, table)


if __name__ == "__main__":
    sys.exit(main())
