"""The page that says what a run leaves names all of it, and its snippets run."""

import csv
import re

import numpy as np
import pytest

from ctjax.base.detector import COSMIC_TAGGER
from ctjax.views.event_table import EVENT_TABLE
from tests.support import ROOT, head_tables

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("page_of_the_output")]

PAGE = (ROOT / "docs" / "output.md").read_text()


@pytest.fixture
def output(runs, tmp_path, monkeypatch):
    """Where the reader is: a training and an inference below output/uresnet."""
    folder = tmp_path / "output" / "uresnet"
    folder.mkdir(parents=True)
    training = runs.train(run__seed=3, data__aux_file=runs.file)
    (folder / "first").symlink_to(training.folder)
    predicted = runs.infer(run__seed=3)
    (folder / "test").mkdir()
    for path in predicted.folder.iterdir():
        (folder / "test" / path.name).symlink_to(path)
    # What a network with heads would have left, too.
    true = np.arange(12.0).reshape(2, 3, 2)
    found = {"event_score": np.eye(2, 4, 1), "event_label": np.array([1, 3])}
    vertices = head_tables.made_vertices(true)
    head_tables.write(folder / "test", found | vertices)
    monkeypatch.chdir(tmp_path)
    return folder


def test_snippets_run(output, capsys):
    snippets = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    for snippet in snippets:
        exec(compile(snippet, "docs/output.md", "exec"), {})
    said = capsys.readouterr().out
    with open(output / "test" / "inference_confusion.csv") as file:
        rows = list(csv.DictReader(file))
    confusion = np.zeros((3, 3))
    names = COSMIC_TAGGER.classes
    for row in rows:
        for plane in range(3):
            for true in range(3):
                for found in range(3):
                    name = f"plane{plane}/{names[true]}_as_{names[found]}"
                    confusion[true, found] += float(row[name])
    assert 0 < confusion[2, 2] < confusion[2].sum()
    assert f"efficiency {confusion[2, 2] / confusion[2].sum()}\n" in said
    assert f"purity {confusion[2, 2] / confusion[:, 2].sum()}\n" in said
    assert "1 of 2 classes are right" in said
    assert "half of 2 vertices: within 5.0 cm" in said


def test_files_and_columns_are_named(output):
    for run in ("first", "test"):
        listed = set((output / run).iterdir()) - {output / run / "profiles"}
        for path in listed:
            name = path.name + "/" * path.is_dir()
            assert f"`{name}`" in PAGE, f"{name} is not on the page"
        for path in (output / run / "profiles").iterdir():
            assert f"`profiles/{path.name}`" in PAGE, path.name
        for path in (output / run).glob("*.csv"):
            header = path.read_text().splitlines()[0].split(",")
            for name in header:
                if "/" not in name or (path.name == EVENT_TABLE and "plane0" in name):
                    assert f"`{name}`" in PAGE, f"{path.name}: {name}"
    metrics = (ROOT / "docs" / "metrics.md").read_text()
    for name in COSMIC_TAGGER.metric_names:
        assert f"`{name.split('/')[1]}`" in metrics, name
    timings = np.load(output / "first" / "profiles" / "train_timings.npy")
    for name in timings.dtype.names:
        assert f"`{name}`" in PAGE, name
