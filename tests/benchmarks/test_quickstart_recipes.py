"""The quickstart beside the original's recipe: what runs and what is read."""

import argparse
import csv
import json
import pathlib

import numpy as np
import pytest

from benchmarks import accuracy_runs, quickstart_recipes
from ctjax.base.detector import COSMIC_TAGGER
from ctjax.commands import command_line
from ctjax.config.choices import LearningRateSchedule
from ctjax.config.fields import ModeName


def write_table(path, names, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([names, *rows])


@pytest.fixture
def called(monkeypatch):
    """Words of the runs, each of which leaves two events: 3 of 4 neutrino pixels found.

    The event without a neutrino has 5 false pixels.
    """
    calls = []

    def call(program, command, words):
        calls.append([command, *words])
        folder = pathlib.Path(words[-1].partition("=")[2])
        folder.mkdir(parents=True)
        names = accuracy_runs.MEASURES
        write_table(folder / "inference_metrics.csv", names, [[0.2] * 3, [0.4] * 3])
        counts = [dict.fromkeys(COSMIC_TAGGER.confusion_names, 0) for _ in range(2)]
        counts[0] |= {"plane0/neutrino_as_neutrino": 3, "plane1/neutrino_as_cosmic": 1}
        counts[1] |= {"plane2/background_as_neutrino": 5}
        rows = [list(row.values()) for row in counts]
        path = folder / "inference_confusion.csv"
        write_table(path, COSMIC_TAGGER.confusion_names, rows)

    monkeypatch.setattr(accuracy_runs, "call", call)
    return calls


def test_what_is_done_is_read_and_not_run_again(tmp_path, called, monkeypatch):
    options = argparse.Namespace(
        seeds=2, iterations=3, work=tmp_path / "work", output=tmp_path / "out"
    )
    monkeypatch.setattr(quickstart_recipes, "parse", lambda: options)
    assert quickstart_recipes.main() == 0
    assert len(called) == 4 and len({words[-1] for words in called}) == 4
    assert quickstart_recipes.main() == 0 and len(called) == 4
    rows = json.loads((tmp_path / "out" / "recipes.json").read_text())["rows"]
    names = [recipe.name for recipe in quickstart_recipes.RECIPES]
    assert [(row["seed"], row["recipe"]) for row in rows] == [
        (seed, name) for seed in range(2) for name in names
    ]
    assert rows[0]["Average/mIoU"] == pytest.approx(0.3)
    assert rows[0]["neutrino efficiency"] == 0.75 and rows[0]["neutrino purity"] == 1
    assert rows[0]["neutrino false pixels"] == 5 and rows[0]["cosmic IoU"] is None
    # The event without a neutrino has more predicted pixels than the one with it.
    assert rows[0]["neutrino events, area under the ROC"] == 0
    page = (tmp_path / "out" / "recipes.md").read_text()
    assert "| neutrino efficiency | 0.750 (0.750 to 0.750) | 0.750 " in page
    assert "| cosmic IoU | none | none |" in page
    assert rows[0]["commit"] and f"commit {rows[0]['commit']} |" in page
    # With more steps everything is run again.
    options.iterations = 4
    assert quickstart_recipes.main() == 0 and len(called) == 8


def test_recipes_differ_in_what_they_say_and_in_nothing_else(tmp_path, called):
    options = argparse.Namespace(iterations=7, work=tmp_path)
    for recipe in quickstart_recipes.RECIPES:
        quickstart_recipes.run(recipe, 5, options)
    quickstart, original = (
        command_line.parse_config(words, ModeName.QUICKSTART, "quickstart")[0]
        for _, *words in called
    )
    assert original.mode.optimizer.lr_schedule is LearningRateSchedule.WARMUP_FLAT_DECAY
    assert not original.mode.mask_empty_pixels and not original.data.img_transform
    assert quickstart.mode.mask_empty_pixels and quickstart.data.img_transform
    assert quickstart.run == original.run and original.run.iterations == 7
    assert quickstart.run.seed == quickstart.data.seed == original.data.seed == 5
    for name in ("n_initial_filters", "depth", "blocks_per_layer"):
        assert getattr(quickstart.network, name) == getattr(original.network, name)


def test_counts_are_read_by_event_plane_and_class(tmp_path):
    counts = np.arange(2 * 27).reshape(2, 27)
    names = COSMIC_TAGGER.confusion_names
    write_table(tmp_path / "inference_confusion.csv", names, counts)
    found = accuracy_runs.read_counts(tmp_path)
    assert found.shape == (2, 3, 3, 3)
    assert found[1, 2, 0, 1] == counts[1][names.index("plane2/background_as_cosmic")]
