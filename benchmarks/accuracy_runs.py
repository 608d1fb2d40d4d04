"""Shares what studies of accuracy do: runs of ctjax, their tables, a page of results.

benchmarks/sparse_accuracy.py and benchmarks/quickstart_recipes.py say what is trained.
"""

import csv
import json
import pathlib
import shlex
import statistics
import subprocess
import sys

import numpy as np

from benchmarks import machine
from ctjax.base.detector import COSMIC_TAGGER

MEASURES = ("Average/mIoU", "Average/Cosmic_IoU", "Average/Neutrino_IoU")

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
"""Whose versions are written beside the results."""


def call(program: str, command: str, words: list[str]) -> None:
    """Runs `ctjax` in a process of its own; ends this one where that fails.

    Args:
      program: this one's name, for the message.
      command: of `ctjax`.
      words: that follow it.

    Raises:
      SystemExit: the status of `ctjax` is not 0; it has said why.
    """
    words = [sys.executable, "-m", "ctjax", command, *words]
    sys.stdout.write(f"{shlex.join(words[2:])}\n")
    sys.stdout.flush()
    status = subprocess.run(words, stdout=subprocess.DEVNULL, check=False).returncode
    if status:
        raise SystemExit(f"{program}: status {status}")


def words_of_training(seed: int, iterations: int, folder: pathlib.Path) -> list[str]:
    """Returns the words of `ctjax` that tell the trainings of a study apart.

    Args:
      seed: of the parameters, and of the order of the events.
      iterations: steps.
      folder: of its results.
    """
    return [
        f"run.seed={seed}",
        f"data.seed={seed}",
        f"run.iterations={iterations}",
        f"output_dir={folder}",
    ]


def read_means(folder: pathlib.Path) -> dict[str, float]:
    """Reads CosmicTagger's metrics of an inference, means over its events."""
    events = _read_table(folder / "inference_metrics.csv")
    return {
        name: statistics.fmean(float(event[name]) for event in events)
        for name in MEASURES
    }


def read_counts(folder: pathlib.Path) -> np.ndarray:
    """Reads the counted pixels of an inference, [N, P, K, K] int64, true class first.

    N events, P planes and K classes, as `ctjax.learning.class_scores` takes them.
    """
    events = _read_table(folder / "inference_confusion.csv")
    names = COSMIC_TAGGER.confusion_names
    counts = [[int(event[name]) for name in names] for event in events]
    planes, classes = COSMIC_TAGGER.num_planes, COSMIC_TAGGER.num_classes
    return np.array(counts, np.int64).reshape(-1, planes, classes, classes)


def _read_table(path: pathlib.Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write(
    program: str,
    path: pathlib.Path,
    rows: list[dict],
    title: str,
    words: list[str],
    table: list[str],
) -> None:
    """Writes all results as JSON and a page of them.

    Args:
      program: the study's module, for the command.
      path: of the two files, without their endings; its folder is made.
      rows: a dictionary of results for each run.
      title: of the page.
      words: lines under it, what was run.
      table: lines of the page, below command and machine.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    described = machine.describe(*PACKAGES)
    command = f"python -m {program} {shlex.join(sys.argv[1:])}".strip()
    result = {"command": command, "machine": described, "rows": rows}
    path.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    lines = [
        f"# {title}",
        "",
        *words,
        "",
        f"- Command: `{command}`",
        f"- Machine: {machine.words(described)}",
        "",
        *table,
    ]
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")


def spread(values: list[float]) -> str:
    """Writes the median and, of several values, the least and the greatest."""
    median = f"{statistics.median(values):.3f}"
    if len(values) == 1:
        return median
    return f"{median} ({min(values):.3f} to {max(values):.3f})"
