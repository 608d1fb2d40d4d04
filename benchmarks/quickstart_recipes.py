"""The quickstart beside the original's recipe: same network, events and steps.

    python -m benchmarks.quickstart_recipes --output docs/benchmarks/quickstart

Trains the quickstart's network on the quickstart's events from several seeds, once by
its own recipe and once by CosmicTagger's, and applies it to the quickstart's other
events. Every run is one of `ctjax quickstart` in a folder of its own under --work:
stopped and started again, the command goes on where it was. Writes recipes.json and
recipes.md, from the tables of the runs, so that measures can be added later.
"""

import argparse
import dataclasses
import json
import logging
import math
import pathlib
import sys

from benchmarks import accuracy_runs, machine
from ctjax.base.detector import COSMIC_TAGGER
from ctjax.learning import class_scores

PROGRAM = "benchmarks.quickstart_recipes"

ABOUT = ("recipe", "seed", "commit", "machine")
"""What a result says besides its measures."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A way to train the quickstart's network.

    Attributes:
      name: for the table.
      folder: begins the names of its runs' folders.
      words: of the command line, beside the quickstart's configuration.
    """

    name: str
    folder: str
    words: tuple[str, ...] = ()


RECIPES = (
    Recipe("the quickstart", "quickstart"),
    Recipe(
        "CosmicTagger's recipe",
        "original",
        (
            "network.normalization=batch",
            "data.img_transform=False",
            "mode.optimizer.name=adam",
            "mode.optimizer.learning_rate=3e-4",
            "mode.optimizer.lr_schedule=warmup_flat_decay",
            "mode.optimizer.loss_balance_scheme=focal",
            "mode.mask_empty_pixels=False",
        ),
    ),
)


def main() -> int:
    """Runs what is missing and writes the table."""
    options = parse()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    rows = []
    for seed in range(options.seeds):
        for recipe in RECIPES:
            rows.append(run(recipe, seed, options))
            write(rows, options)
    sys.stdout.write(f"Results: {options.output.resolve() / 'recipes.md'}\n")
    return 0


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {PROGRAM}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    folder = pathlib.Path("recipes")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=900, help="steps")
    parser.add_argument("--work", type=pathlib.Path, default=folder)
    parser.add_argument("--output", type=pathlib.Path, default=folder)
    return parser.parse_args()


def run(recipe: Recipe, seed: int, options: argparse.Namespace) -> dict:
    """Runs the quickstart by a recipe, where that is not done; returns its result."""
    name = f"{recipe.folder}_{seed}"
    folder = (options.work / str(options.iterations) / name).resolve()
    done = folder / "done.json"
    if not done.exists():
        training = accuracy_runs.words_of_training(seed, options.iterations, folder)
        accuracy_runs.call(PROGRAM, "quickstart", [*recipe.words, *training])
        described = machine.describe(*accuracy_runs.PACKAGES)
        about = recipe.name, seed, machine.commit(), machine.words(described)
        done.write_text(json.dumps(dict(zip(ABOUT, about, strict=True))))
    return json.loads(done.read_text()) | read_results(folder)


def read_results(folder: pathlib.Path) -> dict[str, float | None]:
    """Reads CosmicTagger's metrics and the scores of each class, means over events.

    A mean over no event is None.
    """
    found: dict[str, float | None] = dict(accuracy_runs.read_means(folder))
    counts = accuracy_runs.read_counts(folder)
    for each in class_scores.score_classes(counts, COSMIC_TAGGER.classes)[1:]:
        measures = {
            "efficiency": each.efficiency,
            "purity": each.purity,
            "IoU": each.iou,
            "false pixels": each.false_pixels,
            "events, area under the ROC": each.by_event.area,
        }
        for measure, mean in measures.items():
            known = None if math.isnan(mean.value) else mean.value
            found[f"{each.name} {measure}"] = known
    return found


def write(rows: list[dict], options: argparse.Namespace) -> None:
    """Writes all results, and a table of their medians and spreads over the seeds."""
    words = [
        f"The quickstart's network, events and {options.iterations} steps, by its own "
        "recipe and by",
        f"CosmicTagger's (`{' '.join(RECIPES[1].words)}`).",
        "Median over the seeds, and the least and the greatest. The first three are",
        "CosmicTagger's metrics, in which an absent class counts as 1; docs/metrics.md",
        "says what the others are. All are means over the 100 validation events.",
    ]
    by_recipe = {}
    for row in rows:
        by_recipe.setdefault(row["recipe"], []).append(row)
    table = [
        f"| | {' | '.join(by_recipe)} |",
        f"|---|{'---:|' * len(by_recipe)}",
    ]
    for measure in [name for name in rows[0] if name not in ABOUT]:
        cells = [_cell([row[measure] for row in runs]) for runs in by_recipe.values()]
        table.append(f"| {measure} | {' | '.join(cells)} |")
    table += ["", "| run | seed | measured on |", "|---|---:|---|"]
    table += [f"| {row['recipe']} | {row['seed']} | {row['machine']} |" for row in rows]
    title = "The quickstart beside CosmicTagger's recipe"
    path = options.output / "recipes"
    accuracy_runs.write(PROGRAM, path, rows, title, words, table)


def _cell(values: list[float | None]) -> str:
    """Writes the median and spread of a measure, or in how many runs it has none."""
    known = [value for value in values if value is not None]
    if not known:
        return "none"
    rest = f", {len(values) - len(known)} none" * (len(known) < len(values))
    return f"{accuracy_runs.spread(known)}{rest}"


if __name__ == "__main__":
    sys.exit(main())
