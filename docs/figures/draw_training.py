"""Draws loss and accuracies of a training, step by step.

python docs/figures/draw_training.py RUN_FOLDER docs/figures/sparse_training.png
"""

import argparse
import csv
import pathlib

import matplotlib.pyplot as plt
import numpy as np

CURVES = (
    ("Average/Cosmic_IoU", "cosmic IoU", "#0072b2"),
    ("Average/Neutrino_IoU", "neutrino IoU", "#d55e00"),
)  # colours of Okabe and Ito
WINDOW = 5  # steps of the mean that is drawn beside each step's own value


def main() -> None:
    """Draws one figure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path, help="of the run")
    parser.add_argument("output", type=pathlib.Path)
    options = parser.parse_args()
    path = options.folder / "train_metrics.csv"
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    steps = np.array([int(row["step"]) for row in rows])
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    draw(left, steps, np.array([float(row["loss"]) for row in rows]), "loss", "#333333")
    left.set_ylim(bottom=0)
    left.set_ylabel("loss, pixels with charge")
    for name, words, colour in CURVES:
        draw(right, steps, np.array([float(row[name]) for row in rows]), words, colour)
    right.set_ylabel("intersection over union")
    right.set_ylim(0, 1)
    right.legend(frameon=False, loc="lower right")
    for axes in (left, right):
        axes.set_xlabel("step")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    figure.savefig(options.output, dpi=150)


def draw(axes: plt.Axes, steps: np.ndarray, values: np.ndarray, words: str, colour):
    """Draws each step's value, and more strongly the mean of a few."""
    axes.plot(steps, values, color=colour, alpha=0.25, linewidth=1)
    mean = np.convolve(values, np.ones(WINDOW) / WINDOW, "valid")
    half = WINDOW // 2
    axes.plot(steps[half : half + len(mean)], mean, color=colour, label=words)


if __name__ == "__main__":
    main()
