"""The lines of docs/api.md, as a reader runs them; training from a program."""

import logging
import re
import types

import numpy as np
import pytest

import ctjax
from ctjax.base.errors import UserError
from tests.support import ROOT, detector_files, larcv_fixtures, small_runs

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("page_of_the_api")]

CONFIG = """
def get_config():
    return {
        "run": {"minibatch_size": 4, "compute_mode": "CPU"},
        "data": {"downsample": 1},
        "network": {
            "name": "scc21", "depth": 1, "normalization": "none",
            "n_initial_filters": 2, "blocks_per_layer": 0, "blocks_deepest_layer": 0,
            "blocks_final": 0, "bottleneck_deepest": 3, "filter_size_deepest": 3,
        },
    }
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the reader is: files of events, and a configuration in place of ours."""
    folder = tmp_path_factory.mktemp("reader")
    for number in range(2):
        listed = larcv_fixtures.make_events(5, seed=number)
        larcv_fixtures.write_larcv(folder / f"cosmic_tagging_{number}.h5", listed)
    larcv_fixtures.write_larcv(folder / "train.h5", larcv_fixtures.make_events(5))
    (folder / "configs").mkdir()
    (folder / "configs" / "scc21.py").write_text(CONFIG)
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def train(**changes):
    sections = {"data": {"file": "train.h5"}, "run": {"iterations": 3}, **changes}
    return ctjax.train("scc21", **sections)


def test_the_lines_about_other_detectors_work(here):
    shapes = [(8, 12), (6, 16)]
    event = detector_files.make_event(np.random.default_rng(0), shapes, (0, 11, 13, 22))
    detector_files.write("michels.h5", [event], shapes, image="wire", label="seg")
    tagger = types.SimpleNamespace(
        classify=lambda event: np.minimum(event.label, 2),
        classes=("background", "muon", "michel"),
    )
    text = (ROOT / "docs" / "api.md").read_text()
    _, lines, _ = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    names = {"ctjax": ctjax, "tagger": tagger}
    exec(lines.replace("ctjax.metrics(", "metrics = ctjax.metrics("), names)
    assert names["metrics"]["Michel_IoU"] == 1
    most = max(charges.max() for _, charges, _ in event)
    assert names["events"][0].charge.max() == pytest.approx(most / 100)


def test_the_lines_of_the_page_work(here):
    train(output_dir="output/uresnet/first")
    text = (ROOT / "docs" / "api.md").read_text()
    lines, others, last = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    assert "basicConfig" in last and "label_map" in others
    names = {}
    exec(lines.replace('"iterations": 500', '"iterations": 5'), names)
    assert names["scores"].shape == (3, 8, 12, 3)
    assert names["classes"].shape == (3, 8, 12)
    assert (here / "predictions.h5").stat().st_size > 1000
    assert len(ctjax.open("predictions.h5")) == 10
    assert names["event"].entry == 9
    assert names["run"].metrics["loss"].shape == (5,)


def test_a_run_has_its_numbers_and_goes_on(here, capfd):
    aux = {"file": here / "train.h5", "aux_file": "cosmic_tagging_0.h5"}
    for iterations in (2, 4):
        run = train(
            data=aux,
            run={"iterations": iterations, "aux_iterations": 2, "id": "goes_on"},
            mode={"optimizer": {"learning_rate": 1e-2}},
        )
    assert run.folder == "output/scc21/goes_on"
    assert run.metrics["step"].tolist() == [0, 1, 2, 3]
    assert run.validation["step"].tolist() == [2, 4]
    assert {"loss", "Neutrino_IoU", "plane2/mIoU"} <= run.metrics.keys()
    assert np.isfinite(run.metrics["loss"]).all()
    assert "4 steps" in repr(run)
    assert ctjax.load(run.folder).step == 4
    assert capfd.readouterr() == ("", "")
    assert "train Step 3" in (here / run.folder / "process.log").read_text()
    assert len(train(run={"iterations": 1, "id": "one"}).validation["loss"]) == 0


def test_the_log_is_what_the_program_lets_through(here):
    """Of a training, too; the handlers that it has added are still there after it."""
    with small_runs.listening() as messages:
        train(run={"iterations": 1, "id": "listened"})
        handlers = list(logging.getLogger("ctjax").handlers)
    assert any("train Step 0" in message for message in messages)
    assert len(handlers) == 1
    assert logging.getLogger("ctjax").level == logging.NOTSET
    assert logging.getLogger("ctjax").propagate


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"run": {"iteration": 3}}, "did you mean run.iterations"),
        ({"run": {"iterations": 0}}, "run.iterations: expected at least 1"),
        ({"run": 3}, "run: expected a mapping of fields, got 3"),
        ({"mode": {"name": "inference"}}, "mode.name=inference: expected none"),
        ({"mode": {"optimizer": {"name": "adamw"}}}, "expected one of adam"),
        ({"data": {"file": "nothing.h5"}}, "nothing.h5"),
        ({"network": {"in_dims": [3]}}, "network.in_dims"),
    ],
)
def test_errors_are_one_line(here, changes, words):
    with pytest.raises(UserError) as caught:
        train(output_dir="output/errors", **changes)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not logging.getLogger("ctjax").handlers
