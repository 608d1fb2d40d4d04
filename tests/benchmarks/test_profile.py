"""A profile sums the kernels of a trace and joins them with the program's bytes."""

import sys

import pytest

from benchmarks import profile
from tests.support.small_program import IMAGE, TEXT
from tests.support.tiny_cases import TINY


def named(kind, pid, tid, name):
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": {"name": name}}


def event(pid, tid, name, microseconds, operation=None):
    arguments = {"hlo_op": operation} if operation else {}
    values = {"ph": "X", "pid": pid, "tid": tid, "name": name, "dur": microseconds}
    return values | {"args": arguments}


TRACE = [
    named("process_name", 1, 0, "/device:GPU:0"),
    named("thread_name", 1, 7, "Stream #7(Compute)"),
    named("thread_name", 1, 8, "XLA Ops"),
    named("process_name", 2, 0, "/host:CPU"),
    named("thread_name", 2, 9, "python"),
    event(1, 7, "sm90_fprop", 300.0, "conv"),
    event(1, 7, "sm90_fprop", 100.0, "conv"),
    event(1, 7, "loop_fusion", 50.0, "bias"),
    event(1, 7, "MemcpyD2D", 5.0),
    event(1, 8, "conv", 400.0, "conv"),  # the same again, by operation
    event(2, 9, "step", 1000.0, "conv"),
]


def test_kernels_of_the_streams_are_summed():
    rows = profile.kernels_of(TRACE, 2, TEXT)
    assert [(row["name"], row["launches"], row["ms"]) for row in rows] == [
        ("sm90_fprop", 1.0, 0.2),
        ("loop_fusion", 0.5, 0.025),
        ("MemcpyD2D", 0.5, 0.0025),
    ]
    conv, bias, copy = rows
    assert conv["bytes"] == 3 * IMAGE + 288 and bias["bytes"] == IMAGE + 16
    assert conv["source"] == "jit(step)/conv"
    assert copy["bytes"] is None and copy["operation"] == ""


def test_without_a_gpu_what_names_an_operation_counts():
    events = [entry for entry in TRACE if entry["pid"] == 2]
    (row,) = profile.kernels_of(events, 1, "")
    assert row["operation"] == "conv" and row["ms"] == 1.0 and row["bytes"] is None


def test_the_page_says_rates_and_what_it_leaves_out(monkeypatch):
    monkeypatch.setattr(profile, "SHOWN", 2)
    result = {
        "command": "python -m benchmarks.profile",
        "machine": {
            "processor": "P",
            "cpus": 2,
            "python": "3",
            "versions": {"jax": "1"},
            "commit": "abc1234",
        },
        "device": "D",
        "case": "task3",
        "words": "Task 3: training",
        "precision": "bfloat16",
        "minibatch_size": 1,
        "first_s": 9.0,
        "step_s": [0.02, 0.01],
        "images_per_s": 100.0,
        "peak_bytes": 2e9,
        "kernels": profile.kernels_of(TRACE, 1, TEXT),
    }
    lines = profile.page(result)
    assert (
        "- 100 images/s, 10.00 ms a step; of the kernels 0.46 ms, 4 launches" in lines
    )
    rate = (3 * IMAGE + 288) / 0.4 / 1e6
    assert f"| sm90_fprop | conv | 2 | 0.400 | {rate:.0f} | jit(step)/conv |" in lines
    assert "| 1 more | | | 0.005 | | |" in lines


@pytest.mark.slow
def test_profiles_a_step_here(tmp_path, monkeypatch, capsys):
    import json

    fields = json.dumps(TINY)
    arguments = ["--device", "cpu", "--case", "task4", "--steps", "1"]
    arguments += ["--fields", fields, "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["profile", *arguments])
    assert profile.main() == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        "task4.profile.json",
        "task4.profile.md",
        "task4.program.gz",
    }
    result = json.loads((tmp_path / "task4.profile.json").read_text())
    assert result["kernels"] and sum(row["ms"] for row in result["kernels"]) > 0
    assert any(row["bytes"] for row in result["kernels"])
    assert "images/s" in capsys.readouterr().out
