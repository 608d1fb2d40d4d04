"""The benchmark beside PyTorch runs, and says what it could not run."""

import json
import math
import os
import pathlib
import subprocess
import sys
import time
import types

import pytest

from benchmarks import (
    compute,
    compute_cases,
    compute_jobs,
    compute_process,
    compute_report,
)
from ctjax.config.fields import Precision
from tests.support.tiny_cases import TINY


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A run of one training and one inference: its JSON and its page."""
    pytest.importorskip("torch", reason="torch is not installed: ctjax[torch]")
    folder = tmp_path_factory.mktemp("compute")
    command = [sys.executable, "-m", "benchmarks.compute", "--output", str(folder)]
    command += ["--fields", json.dumps(TINY), "--cases", "task2,a21-inference"]
    # One thread: threads that spin at barriers take each other's processor here.
    command += ["--contenders", "channels-last", "--repeats", "2", "--threads", "1"]
    environment = os.environ | {"PYTHONPATH": str(compute_process.ROOT)}
    result = subprocess.run(
        [*command, "--block-s", "0.01"],
        cwd=compute_process.ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    content = json.loads((folder / "compute_cpu.json").read_text())
    return content, (folder / "compute.md").read_text()


@pytest.mark.slow
def test_both_sides_compute_the_same(written):
    training, inference = written[0]["cases"]
    ours, theirs = (row["checks"] for row in training["rows"])
    assert ours == pytest.approx(theirs, rel=1e-4)  # losses of the first steps
    assert ours[0] > ours[1] > ours[2]
    ours, theirs = (row["checks"] for row in inference["rows"])
    assert sum(ours[0]) == 3 * 40 * 64
    assert ours[0] == pytest.approx(theirs[0], abs=2)  # pixels of each class


@pytest.mark.slow
def test_every_column_is_filled(written):
    content, page = written
    assert content["limits"]["best"]["bytes"] > 1e8
    for case in content["cases"]:
        assert [row["contender"] for row in case["rows"]] == ["ctjax", "channels-last"]
        for row in case["rows"]:
            assert "failed" not in row and len(row["seconds"]) == 2
            assert row["peak_bytes"] > 1e8
        ours, theirs = case["rows"]
        ratios = [theirs_s / ours_s for ours_s, theirs_s in theirs["pairs"]]
        assert min(ratios) <= theirs["ratio"]["median"] <= max(ratios)
        assert "ratio" not in ours
        assert f"| {theirs['ratio']['median']:.2f} |" in page
        rate = theirs["images_per_s"]["median"]
        assert theirs["fractions"]["B"] == pytest.approx(rate * case["least_s"]["B"])
    assert page.count("| torch, channels last |") == 2
    assert "[a page of their own](gpu.md)" in page.split("## CPU")[0]


def test_quartiles_and_rows_of_what_failed():
    found = compute_report.quartiles([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found == {"low": 2.0, "median": 3.0, "high": 4.0}
    assert compute_report.quartiles([2.0])["median"] == 2.0
    case = {
        "words": "Task",
        "precision": "bfloat16",
        "image_shape": [1280, 2048],
        "minibatch_size": 2,
        "least_s": {"A": 0.4, "B": 0.2, "C": 0.1},
        "rows": [
            {"contender": "ctjax", "seconds": [1.0, 1.0], "setup_s": 3, "first_s": 4},
            {"contender": "eager", "seconds": [], "failed": "out | of memory"},
        ],
    }
    for row in case["rows"]:
        compute_report.summarize(row, case)
    ours, theirs = compute_report.rows_of(case)
    assert ours == (
        "| Task, bfloat16, 1280 x 2048, minibatch 2 | ctjax | 2 | 2 to 2 |  |  |  | "
        "80% | 40% | 20% |  | 7 s |"
    )
    assert theirs.count("|") == ours.count("|")
    assert "| torch autocast, eager | out / of memory |" in theirs


def test_a_process_that_fails_says_why(tmp_path):
    cpus = sorted(os.sched_getaffinity(0))[:1]
    job = {"contender": "limits", "framework": "none", "cpus": cpus}
    with compute.Worker(job, str(tmp_path), math.inf) as worker:
        with pytest.raises(compute.WorkerError, match="KeyError: 'none'"):
            worker.answer()
    with compute.Worker(job, str(tmp_path), time.monotonic() - 1) as worker:
        with pytest.raises(compute.WorkerError, match="its time was over"):
            worker.answer()


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Runs `compute.measure` over workers that are none, failing where they are told.

    Takes contender to the number of the answer at which it fails; gives the rows by
    contender, and the jobs, each with the seconds that its worker was given. `written`
    of it has the contenders of each write.
    """
    jobs, written = {}, []

    class Worker:
        def __init__(self, job, folder, deadline, environment=None):
            name = pathlib.Path(folder).name
            given = deadline - time.monotonic()
            jobs[name] = job | {"environment": environment, "given_s": given}
            pathlib.Path(folder, "jax").mkdir(parents=True, exist_ok=True)
            self.left = failures.get(name, math.inf)

        def __enter__(self):
            return self

        def __exit__(self, *exception):
            return None

        def answer(self):
            self.left -= 1
            if self.left < 0:
                raise compute.WorkerError("out of memory")
            return {"one_s": 1.0}

        def tell(self, word):
            if word == "end":
                return {"peak_bytes": 3}
            return self.answer() | {"seconds": 2.0, "processor_s": 1.0, "faults": 3}

    def run(contenders, **given):
        failures.update(given)
        options = types.SimpleNamespace(keep=tmp_path, repeats=3, block_s=0.1)
        job = {"config": {"name": "x", "network": {"depth": 2, "kernels": "auto"}}}
        until = time.monotonic() + 1000
        rows = compute.measure(
            *(job, options, "unused", until, contenders),
            lambda rows: written.append([row["contender"] for row in rows]),
        )
        return {row["contender"]: row for row in rows}, jobs

    failures = {}
    monkeypatch.setattr(compute, "Worker", Worker)
    run.written = written
    return run


def test_ctjax_is_measured_whatever_becomes_of_the_others(measured):
    rows, _ = measured(["eager", "compile"], eager=0, compile=0)
    assert rows["eager"]["failed"] == rows["compile"]["failed"] == "out of memory"
    assert rows["ctjax"]["seconds"] == [2.0, 2.0, 2.0]
    assert rows["ctjax"]["peak_bytes"] == 3 and "failed" not in rows["ctjax"]


def test_the_others_are_measured_whatever_becomes_of_ctjax(measured):
    rows, _ = measured(["eager", "compile"], ctjax=3)
    assert rows["ctjax"]["failed"] == "out of memory"
    assert len(rows["ctjax"]["seconds"]) == len(rows["eager"]["pairs"]) == 2
    for name in ("eager", "compile"):
        assert "failed" not in rows[name] and len(rows[name]["seconds"]) == 3
    assert not rows["compile"]["pairs"]


def test_variants_of_ctjax_are_set_up_as_their_names_say(measured):
    rows, jobs = measured(compute.USUAL["gpu"])
    assert list(rows) == ["ctjax", *compute.USUAL["gpu"]]
    assert jobs["fused"]["config"]["network"] == {"depth": 2, "kernels": "fused"}
    assert jobs["fused"]["framework"] == jobs["conv-fusion"]["framework"] == "ctjax"
    assert jobs["eager"]["framework"] == "torch"
    assert compute_cases.CONV_FUSION in jobs["conv-fusion"]["environment"]["XLA_FLAGS"]
    for name in ("xla", "columns", "fused"):
        assert jobs[name]["config"]["network"] == {"depth": 2, "kernels": name}
    for name in set(jobs) - {"xla", "columns", "fused"}:
        assert jobs[name]["config"]["network"]["kernels"] == "auto"


def test_every_contender_has_its_own_time_and_is_written(measured):
    _, jobs = measured(["eager", "compile"])
    assert jobs["ctjax"]["given_s"] == pytest.approx(1000 + compute.GRACE_S, abs=5)
    for name in ("eager", "compile"):
        limit_s = compute.CONTENDERS[name].limit_s
        assert jobs[name]["given_s"] == pytest.approx(limit_s, abs=5)
    assert measured.written == [["ctjax", "eager"], ["ctjax", "eager", "compile"]]


def test_what_was_compiled_before_is_said(measured):
    first, _ = measured(["eager"])
    again, _ = measured(["eager", "compile"])
    assert not any(row["is_kept"] for row in first.values())
    assert {name: row["is_kept"] for name, row in again.items()} == {
        "ctjax": True,
        "eager": True,
        "compile": False,
    }


def test_every_contender_has_words():
    assert set(compute_report.WORDS) == {"ctjax", *compute.CONTENDERS}
    for names in compute.USUAL.values():
        assert set(names) <= set(compute.CONTENDERS)


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_cases_are_configurations(device, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["compute", "--device", device])
    options = compute.parse()
    found = {c.name: compute_jobs.configure(c, options) for c in compute.CASES[device]}
    assert found["task2"].data.downsample == 2
    assert found["a21"].network.n_initial_filters == 8
    assert found["a21"].data.downsample == 1
    if device == "gpu":
        assert found["task3"].run.precision is Precision.BFLOAT16
        assert found["task3"].data.downsample == found["task4"].data.downsample == 0
        assert 0 < options.limit_s < 600
