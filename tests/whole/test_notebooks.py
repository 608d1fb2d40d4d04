"""The notebooks run as a reader runs them, and are kept without what they show."""

import json

import matplotlib
import pytest
from matplotlib.figure import Figure

from tests.support import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def cells(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_run(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    known = {"__name__": "__main__"}
    figures = 0
    for number, cell in enumerate(cells(path)):
        source = "".join(cell["source"])
        last = source.splitlines()[-1]
        exec(compile(source, f"{path.name}, cell {number}", "exec"), known)
        # What a notebook shows is the value of the last line.
        if last in known or last.startswith("ctjax.draw("):
            figures += isinstance(eval(last, known), Figure)
    matplotlib.pyplot.close("all")
    assert figures >= 2
    said = capsys.readouterr().out
    if path.stem == "use":
        assert (tmp_path / "predictions.h5").exists()
        assert "scores: (3, 80, 128, 3) classes: (3, 80, 128)" in said
    else:
        assert "efficiency of neutrino pixels: 0." in said


def test_outputs_are_stripped():
    assert [path.stem for path in NOTEBOOKS] == ["analysis", "use"]
    for path in NOTEBOOKS:
        for cell in cells(path):
            assert not cell["outputs"] and cell["execution_count"] is None, path.name
