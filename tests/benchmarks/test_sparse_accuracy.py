"""The figures that the comparison of the sparse network with the dense one reads."""

import argparse
import csv
import json

import pytest

from benchmarks import accuracy_runs, sparse_accuracy
from ctjax.base.detector import COSMIC_TAGGER


def write_table(path, names, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([names, *rows])


def test_efficiency_and_purity_are_of_all_pixels_together(tmp_path):
    names = accuracy_runs.MEASURES
    path = tmp_path / "inference_metrics.csv"
    write_table(path, names, [[0.2, 0.4, 0.0], [0.4, 0.6, 0.2]])
    counts = [dict.fromkeys(COSMIC_TAGGER.confusion_names, 0) for _ in range(2)]
    counts[0] |= {"plane0/neutrino_as_neutrino": 3, "plane1/neutrino_as_cosmic": 1}
    counts[1] |= {"plane2/neutrino_as_neutrino": 3, "plane2/cosmic_as_neutrino": 6}
    path = tmp_path / "inference_confusion.csv"
    write_table(
        path, COSMIC_TAGGER.confusion_names, [list(row.values()) for row in counts]
    )
    found = sparse_accuracy.read_results(tmp_path)
    assert found == pytest.approx(
        {
            "Average/mIoU": 0.3,
            "Average/Cosmic_IoU": 0.5,
            "Average/Neutrino_IoU": 0.1,
            "cosmic efficiency": 0.0,
            "cosmic purity": 0.0,
            "neutrino efficiency": 6 / 7,
            "neutrino purity": 6 / 12,
        }
    )


def test_what_is_done_is_not_run_again(tmp_path, monkeypatch):
    commands = []

    def call(program, command, words):
        commands.append(command)
        folder = next(word for word in words if word.startswith("output_dir="))
        (tmp_path / folder.partition("=")[2]).mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(accuracy_runs, "call", call)
    monkeypatch.setattr(
        sparse_accuracy, "read_results", lambda folder: {"Average/mIoU": 0.5}
    )
    options = argparse.Namespace(
        events=3, iterations=2, minibatch_size=1, held_out=4, work=tmp_path
    )
    study = sparse_accuracy.STUDIES[0]
    arguments = study, 1, "train.h5", {"simulated": "test.h5"}, options
    rows = sparse_accuracy.run(*arguments)
    assert rows[0]["Average/mIoU"] == 0.5 and rows[0]["file"] == "test.h5"
    assert sparse_accuracy.run(*arguments) == rows
    # A training that is done ends by itself at once; it is asked each time.
    assert commands == ["train", "infer", "train"]
    # Applied to more events than before, it is applied again.
    options.held_out = 5
    sparse_accuracy.run(*arguments)
    assert commands[3:] == ["train", "infer"]


def test_table_has_median_and_spread_over_the_seeds(tmp_path):
    rows = [
        {"Average/mIoU": value, "study": "sparse", "seed": seed, "events": "simulated"}
        for seed, value in enumerate((0.1, 0.4, 0.3))
    ]
    options = argparse.Namespace(
        output=tmp_path, events=3, iterations=2, minibatch_size=1, held_out=4
    )
    sparse_accuracy.write(rows, options)
    page = (tmp_path / "accuracy.md").read_text()
    assert "| simulated | sparse | 3 | 0.300 (0.100 to 0.400) |" in page
    assert json.loads((tmp_path / "accuracy.json").read_text())["rows"] == rows
