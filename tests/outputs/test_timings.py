"""Durations of steps, by a clock that is set by hand."""

import numpy as np
import pytest

from ctjax.outputs import timings


@pytest.fixture
def clock(monkeypatch):
    """A clock that shows what `clock.now` says, and began at Unix time 1000."""

    class Clock:
        now = 5.0

    monkeypatch.setattr(timings.time, "perf_counter", lambda: Clock.now)
    monkeypatch.setattr(timings.time, "time", lambda: 1000.0 + Clock.now)
    return Clock


def test_start_up_is_in_no_step_and_images_are_those_that_exist(clock):
    measured = timings.StepTimings(3)
    clock.now += 0.5
    with measured.start_up():
        clock.now += 30
    clock.now += 1.5
    for _ in range(2):
        measured.add_wait(0.125)
    assert measured.end_step(7, 4) == pytest.approx((0.25, 2.0))
    clock.now += 4
    assert measured.end_step(8, 1) == pytest.approx((0.0, 4.0))
    assert measured.done.tolist() == [
        (7, 0.25, 2.0, 30.0, 4, 1005.0),
        (8, 0.0, 4.0, 0.0, 1, 1037.0),
    ]


@pytest.mark.parametrize("skipped, steps, mean", [(1, 3, 2.0), (0, 4, 4 / 3)])
def test_rates_of_a_run(skipped, steps, mean):
    rows = np.zeros(4, timings.TIMING_TYPE)
    rows["step_s"], rows["images"] = [5, 1, 1, 2], [4, 4, 2, 2]
    rates = timings.find_rates(rows, skipped)
    assert rates == {
        "steps": steps,
        "mean": pytest.approx(mean),
        "median": rates["median"],
    }
    assert rates["median"] == (2.0 if skipped else 1.5)
    assert timings.find_rates(rows[:1])["mean"] == 0.8
    assert timings.find_rates(rows[:0]) == {}


def test_files_of_the_run_and_of_each_process(clock, tmp_path):
    measured = timings.StepTimings(1)
    clock.now += 2
    measured.add_wait(0.125)
    measured.end_step(0, 4)
    timings.save_timings(str(tmp_path), "train", measured.done)
    timings.save_rank_timings(str(tmp_path), 3, measured.done)
    whole = np.load(tmp_path / "profiles/train_timings.npy")
    np.testing.assert_array_equal(whole, measured.done)
    (row,) = np.load(tmp_path / "profiles/profiling_info_rank_3.npy")
    assert row["start"] == np.datetime64(1005, "s")
    assert row["iteration"] == np.timedelta64(2, "s")
    assert row["io"] == np.timedelta64(125, "ms")
