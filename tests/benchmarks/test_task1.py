import argparse

import pytest

from benchmarks import task1


def test_the_rate_is_that_of_the_log():
    words = "12:00:00 - INFO - Average Image IO Throughput: 371.250 images/s\n"
    assert task1.find_rate(f"Total IO Time: 2.1s\n{words}") == 371.25
    with pytest.raises(ValueError, match="found 2"):
        task1.find_rate(words * 2)


def test_the_best_numbers_of_processes_are_compared_turn_by_turn():
    rates = {
        "ctjax": {1: [30.0, 31.0, 99.0], 2: [60.0, 40.0, 90.0]},
        "larcv3": {1: [6.0, 8.0, 5.0], 2: [5.0, 5.0, 20.0]},
    }
    assert task1.compare(rates) == [
        "ctjax: 60.0 images/s (40.0 to 90.0), best with processes: 2",
        "larcv3: 6.0 images/s (5.0 to 8.0), best with processes: 1",
        "ratio: 10.00 (5.00 to 18.00), turns: 3",
    ]
    del rates["larcv3"]
    assert task1.compare(rates) == [
        "ctjax: 60.0 images/s (40.0 to 90.0), best with processes: 2"
    ]


def test_turns_alternate(monkeypatch):
    calls = []

    def measure(what, count, result):
        calls.append((what, count))
        return result

    monkeypatch.setattr(
        task1, "read_by_ctjax", lambda _, count: measure("ctjax", count, (8.0, 1.0))
    )
    monkeypatch.setattr(
        task1, "read_by_larcv", lambda _, count: measure("larcv3", count, 1.0)
    )
    options = argparse.Namespace(turns=2, processes=[1, 2], larcv_python="python")
    rates = task1.take_turns(options)
    assert rates == {
        n: {1: [r] * 2, 2: [r] * 2} for n, r in (("ctjax", 8), ("larcv3", 1))
    }
    assert [what for what, _ in calls] == ["ctjax", "larcv3"] * 2 + [
        "larcv3",
        "ctjax",
    ] * 2
    assert [count for _, count in calls] == [1, 1, 2, 2] * 2
