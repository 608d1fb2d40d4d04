"""The record of a run: its start at once, what is known later added, its end."""

import json
import logging
import os
import sys
import types

import pytest

from ctjax import main
from ctjax.outputs import run_record
from ctjax.processes.join import Processes
from ctjax.processes.stop_requests import Interrupted
from ctjax.runs import iotest, train
from tests.support import small_runs, tiny

pytestmark = pytest.mark.xdist_group("runs_of_records")


def read(folder, mode="train"):
    text = (folder / f"{mode}_config.json").read_text("utf-8")
    return json.loads(text, parse_constant=lambda word: pytest.fail(word))


def test_what_is_known_at_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ctjax", "train", "run.id=a b"])
    config = tiny.make(tmp_path)
    with run_record.keep(config):
        record = read(tmp_path)
    assert record["command"] == "ctjax train 'run.id=a b'"
    assert record["ended"] is None and record["former_starts"] == []
    assert set(record["versions"]) == {
        *("python", "ctjax", "ctjax_commit", "jax", "jaxlib", "flax", "optax"),
        *("orbax-checkpoint", "h5py", "numpy"),
    }
    assert "unknown" not in record["versions"].values()
    assert record["config"]["run"]["iterations"] == 4
    assert read(tmp_path)["ended"]["how"] == "finished"
    assert os.listdir(tmp_path) == ["train_config.json"]


@pytest.mark.parametrize(
    "error, how, why",
    [
        (Interrupted("SIGTERM: saved"), "stopped", "SIGTERM: saved"),
        (KeyboardInterrupt(), "stopped", "interrupted"),
        (ValueError("no\nnumber"), "failed", "ValueError: no number"),
    ],
)
def test_how_a_run_ended(tmp_path, error, how, why):
    config = tiny.make(tmp_path)
    with pytest.raises(type(error)), run_record.keep(config):
        raise error
    ended = read(tmp_path)["ended"]
    assert (ended["how"], ended["why"]) == (how, why)
    assert ended["duration_s"] >= 0


def test_what_is_added_stays_and_what_is_no_number_is_null(tmp_path):
    config = tiny.make(tmp_path)
    with run_record.keep(config):
        run_record.add(config, metrics={"loss": [float("nan"), 2.0]}, config={})
        run_record.add(config, hosts=3)
    record = read(tmp_path)
    assert record["metrics"] == {"loss": [None, 2.0]}
    assert record["hosts"] == 3 and record["config"] == {}


def test_the_starts_before_are_kept_in_short(tmp_path):
    config = tiny.make(tmp_path)
    for number in range(3):
        with run_record.keep(config):
            run_record.add(config, steps=number, parameters=9)
    before = read(tmp_path)["former_starts"]
    assert [start["steps"] for start in before] == [0, 1]
    assert not any("config" in start or "parameters" in start for start in before)


@pytest.mark.parametrize("left", [b"", b"[1]", b"\xff", b"[" * 9999])
def test_a_record_that_is_none_is_replaced(tmp_path, left):
    (tmp_path / "train_config.json").write_bytes(left)
    with run_record.keep(tiny.make(tmp_path)):
        pass
    assert read(tmp_path)["former_starts"] == []


def test_a_run_goes_on_without_what_its_disk_does_not_take(
    tmp_path, caplog, monkeypatch
):
    config = tiny.make(tmp_path)
    run_record.add(config, hosts=1)  # of a run without a record
    assert os.listdir(tmp_path) == [] and not caplog.records
    with run_record.keep(config):
        os.mkdir(tmp_path / "train_config.json.partial")
        run_record.add(config, hosts=1)
        os.rmdir(tmp_path / "train_config.json.partial")
    (line,) = caplog.messages
    assert "train_config.json: lacks hosts: " in line
    assert "hosts" not in read(tmp_path)


def test_events_are_told_apart_and_a_copy_is_the_same(runs, tmp_path):
    copy = tmp_path / "copy.h5"
    copy.write_bytes((runs.folder / os.path.basename(runs.file)).read_bytes())
    other = runs.write("others.h5", runs.events[1:])
    sums = []
    for path in (runs.file, copy, other):
        with iotest.sources.open_source(file=str(path)) as source:
            found = run_record.describe_events(source)
        (file,) = found["files"]
        assert file["file"] == str(path) and file["bytes"] == os.path.getsize(path)
        assert file["events"] == found["events"]
        sums.append(file["sample_sha256"])
    assert sums[0] == sums[1] != sums[2] and len(sums[0]) == 64


def test_hosts_of_several_processes(monkeypatch):
    def gather(name):
        return run_record.np.stack([name, name, name[::-1]])

    monkeypatch.setattr(run_record.join, "gather", gather)
    assert run_record.count_hosts(Processes(0, 3)) == 2
    assert run_record.count_hosts(Processes(0, 1)) == 1


def test_the_first_process_alone_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(iotest, "run", lambda *arguments: None)
    monkeypatch.setattr(logging.getLogger("ctjax"), "handlers", [])
    main.run(tiny.make(tmp_path, mode__name="iotest"), Processes(1, 2))
    assert not (tmp_path / "iotest_config.json").exists()


def test_an_iotest_records_what_it_read_and_how_fast(runs, tmp_path):
    main.run(runs.config("iotest", tmp_path))
    record = read(tmp_path, "iotest")
    assert [file["file"] for file in record["data"]["files"]] == [runs.file]
    assert record["steps"] == {"first": 0, "end": 2}
    assert record["images_per_s"]["steps"] == 2
    assert (record["hosts"], record["processes"]) == (1, 1)
    assert record["ended"]["how"] == "finished"


@pytest.fixture(scope="module")
def recorded(runs, tmp_path_factory):
    """Records of a training and of an inference with its weights."""
    folder = tmp_path_factory.mktemp("recorded")
    fields = {"run__aux_iterations": 1, "data__aux_file": runs.file}
    for mode, more in (("train", fields), ("inference", {})):
        config = runs.config(mode, folder, **more)
        with run_record.keep(config):
            finished = small_runs.run_and_listen(config)
    return types.SimpleNamespace(
        train=read(folder), inference=read(folder, "inference"), last=finished
    )


@pytest.mark.slow
def test_a_training_records_what_it_ran_on_and_what_came_of_it(recorded, runs):
    record = recorded.train
    assert sum(record["devices"].values()) == 4
    assert (record["hosts"], record["processes"]) == (1, 1)
    assert record["kernels"] and record["parameters"] > 100
    for name in ("data", "validation_data"):
        assert record[name]["events"] == small_runs.NUM_EVENTS
        assert [file["file"] for file in record[name]["files"]] == [runs.file]
    assert record["steps"] == {"first": 0, "end": 2}
    assert record["images_per_s"]["steps"] == 1
    last = record["metrics"]
    assert last["train"]["step"] == 1 and last["validation"]["step"] == 2
    table = recorded.last.table("train_metrics")[-1]
    assert last["train"]["loss"] == pytest.approx(table["loss"], rel=1e-6)
    assert last["validation"]["Average/mIoU"] >= 0


@pytest.mark.slow
def test_an_inference_has_the_weights_of_the_training(recorded):
    record = recorded.inference
    assert record["weights"]["sha256"] == recorded.train["weights"]["sha256"]
    assert record["weights"]["from"].endswith(", step 2")
    assert record["metrics"] == pytest.approx(recorded.last.result)
    assert record["parameters"] == recorded.train["parameters"]
    assert record["weights"]["step"] == 2


@pytest.mark.slow
def test_a_training_that_fails_records_what_it_had_done(runs, tmp_path):
    """Steps, rate and last metrics, of a program's own error as of any other."""
    config = runs.config("train", tmp_path, run__iterations=4)

    def fail(step):
        if step == 2:
            raise ValueError("the disk is gone")

    with pytest.raises(ValueError, match="gone"), run_record.keep(config):
        train.run(config, on_step=fail)
    record = read(tmp_path)
    assert record["ended"]["how"] == "failed"
    assert record["steps"] == {"first": 0, "end": 3}
    assert record["images_per_s"]["steps"] == 2
    assert record["metrics"]["train"]["step"] == 2
    assert "weights" not in record
