"""The IO test: its words, its figures, its order, and no device."""

import logging
import os

import numpy as np
import pytest

from ctjax.config import resolve
from ctjax.data.larcv.file import LarcvFileError
from ctjax.processes.join import Processes
from ctjax.runs import iotest
from tests.support import larcv_fixtures


@pytest.fixture
def settings(tmp_path):
    larcv_fixtures.write_larcv(tmp_path / "good.h5", larcv_fixtures.make_events(5))

    def make(**data):
        data = {"data_directory": str(tmp_path), "file": "good.h5", **data}
        return resolve.resolve(
            {
                "run": {"iterations": 7, "minibatch_size": 2},
                "data": {"downsample": 1, **data},
                "mode": {"name": "iotest", "start_index": 3},
                "output_dir": str(tmp_path / "out"),
            }
        )

    return make


@pytest.mark.parametrize("densify", ["host", "device"])
def test_words_and_figures(settings, caplog, tmp_path, densify, loops):
    with caplog.at_level(logging.INFO, logger="ctjax"):
        figures = iotest.run(settings(densify=densify))
    assert "Total IO Time: " in caplog.text
    assert "Total images read per batch: 2" in caplog.text
    assert "Average Image IO Throughput: " in caplog.text
    timings = np.load(tmp_path / "out/profiles/io_timings.npy")
    assert timings["iteration"].tolist() == list(range(7))
    assert (timings["step_s"] > 0).all()
    assert figures["images"] == 14
    assert figures["total_s"] == pytest.approx(timings["step_s"].sum())
    assert figures["images_per_s"] == pytest.approx(14 / figures["total_s"])
    assert figures["wait_s"] <= figures["total_s"]


def test_goes_over_the_file_in_order_and_wraps(settings, monkeypatch):
    seen = []
    original = iotest.pipeline.MinibatchReader.release

    def release(reader, minibatch):
        seen.append(minibatch.entries.tolist())
        original(reader, minibatch)

    monkeypatch.setattr(iotest.pipeline.MinibatchReader, "release", release)
    figures = iotest.run(settings())
    # Three that start the reading, of which two are read ahead, and then seven.
    turn = [[3, 4], [0, 1], [2, 3], [4, 0], [1, 2]]
    assert seen == 2 * turn
    assert figures["images"] == 7 * 2


@pytest.mark.parametrize("processes, first", [(1, 3), (2, 6)])
def test_the_first_minibatches_are_in_no_rate(
    settings, monkeypatch, caplog, processes, first
):
    """By a clock on which each of the first ones takes a minute, others a second.

    Of two processes what is read while one waits for the other is among the first.
    """
    now, taken = [100.0], []
    monkeypatch.setattr(iotest.join, "check_alike", lambda ours: None)
    monkeypatch.setattr(iotest.join, "wait_for_all", lambda name: taken.append(name))
    monkeypatch.setattr(iotest.join, "gather", lambda values: np.stack([values] * 2))
    original = iotest.pipeline.MinibatchReader.__next__

    def take(reader):
        now[0] += 60 if len(taken) - taken.count("iotest") < first else 1
        taken.append("minibatch")
        return original(reader)

    monkeypatch.setattr(iotest.pipeline.MinibatchReader, "__next__", take)
    monkeypatch.setattr(iotest.time, "perf_counter", lambda: now[0])
    with caplog.at_level(logging.INFO, logger="ctjax"):
        figures = iotest.run(settings(), Processes(0, processes))
    words = f"Start-up: {60 * first}.0000s for the first {first} minibatches"
    assert words in caplog.text
    waits = [at for at, name in enumerate(taken) if name == "iotest"]
    assert waits == ([3] if processes == 2 else [])
    assert figures["total_s"] == pytest.approx(7.0)
    assert figures["images_per_s"] == pytest.approx(2.0)
    assert "Average Image IO Throughput: 2.000 images/s" in caplog.text


def test_synthetic_needs_no_file(settings, tmp_path):
    os.unlink(tmp_path / "good.h5")
    assert iotest.run(settings(synthetic=True, downsample=3))["images"] == 14
    with pytest.raises(LarcvFileError, match="good"):
        iotest.run(settings())
