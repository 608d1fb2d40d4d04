"""Stops, damaged checkpoints, bad numbers, locks and hangs, in runs of seconds."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest

from ctjax.data import order
from ctjax.data.sources import SYNTHETIC_EVENTS, EventSource
from ctjax.learning import optimizer
from ctjax.learning.state import make_state
from ctjax.outputs import checkpoint, checksums, lock
from ctjax.processes import stop_requests
from ctjax.processes.stop_requests import Interrupted
from ctjax.runs import inference, parts, train
from ctjax.runs.training_loop import TrainingError
from tests.support import ROOT, tiny

COMMAND = [sys.executable, "-m", "ctjax.main"]
CONFIGURATION = ["--config", str(ROOT / "configs" / "default.py")]


def rows(folder):
    with open(folder / "train_metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def leaves_equal(a, b):
    return all(
        np.array_equal(x, y)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Eight steps with a checkpoint every second one."""
    folder = tmp_path_factory.mktemp("unbroken")
    config = tiny.make(folder, run__iterations=8, mode__checkpoint_iteration=2)
    return folder, train.run(config)


def signal_after(number, step):
    """A hook that sends this process a signal when a step is finished."""

    def on_step(this_step):
        if this_step == step:
            os.kill(os.getpid(), number)

    return on_step


@pytest.mark.parametrize(
    "number",
    [
        stop_requests.SIGNALS[0],
        *(pytest.param(n, marks=pytest.mark.slow) for n in stop_requests.SIGNALS[1:]),
    ],
)
def test_a_signal_saves_and_the_run_goes_on_bit_for_bit(unbroken, tmp_path, number):
    _, expected = unbroken
    before = {n: signal.getsignal(n) for n in stop_requests.SIGNALS}
    config = tiny.make(tmp_path, run__iterations=8)
    with pytest.raises(Interrupted, match=signal.Signals(number).name):
        train.run(config, on_step=signal_after(number, 2))
    assert {n: signal.getsignal(n) for n in stop_requests.SIGNALS} == before
    done = len(rows(tmp_path))
    assert 3 < done < 8
    assert (tmp_path / "checkpoints" / str(done)).is_dir()
    state = train.run(tiny.make(tmp_path, run__iterations=8))
    assert leaves_equal(state, expected)
    assert [int(row["step"]) for row in rows(tmp_path)] == list(range(8))


def test_max_time_stops_like_a_signal(tmp_path):
    config = tiny.make(tmp_path, run__iterations=10**6, run__max_time=0.001)
    with pytest.raises(Interrupted, match=r"run.max_time: saved after step 1"):
        train.run(config)
    assert len(rows(tmp_path)) == 2


def test_a_second_sigint_ends_at_once(tmp_path):
    code = (
        "import os, signal, time; from ctjax.processes import stop_requests\n"
        "with stop_requests.watch(0) as request:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    assert request.reason == 'SIGINT'\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(30)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60)
    assert result.returncode == -signal.SIGINT


@pytest.mark.slow
def test_the_command_line_says_so_by_its_status(tmp_path):
    flags = tiny.flags(tmp_path, run__iterations=10**6, run__max_time=0.001)
    result = subprocess.run(
        [*COMMAND, *CONFIGURATION, *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 75
    assert "Stopped by run.max_time: saved after step 1" in result.stdout
    assert "Stopped by" in (tmp_path / "process.log").read_text()


def files_of(folder):
    return [p for p in sorted(folder.rglob("*")) if p.is_file() and p.stat().st_size]


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(bytes(content))


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [flip, cut, os.unlink])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    unbroken, tmp_path, damage, caplog
):
    folder, expected = unbroken
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    largest = max(files_of(copy / "checkpoints" / "8"), key=lambda p: p.stat().st_size)
    damage(largest)
    with caplog.at_level("ERROR", logger="ctjax"):
        state = train.run(tiny.make(copy, run__iterations=8))
    assert leaves_equal(state, expected)
    assert "Damaged checkpoint" in caplog.text and "/8" in caplog.text
    assert (copy / "checkpoints_damaged" / "8").is_dir()
    assert (copy / "checkpoints" / "8").is_dir()
    assert [int(row["step"]) for row in rows(copy)] == list(range(8))


def test_nothing_starts_from_scratch_over_damaged_checkpoints(unbroken, tmp_path):
    folder, _ = unbroken
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    for step in (copy / "checkpoints").iterdir():
        if step.name.isdigit():
            flip(max(files_of(step), key=lambda p: p.stat().st_size))
    before = (copy / "train_metrics.csv").read_bytes()
    with pytest.raises(
        checkpoint.CheckpointError, match="all 4 checkpoints are damaged"
    ):
        train.run(tiny.make(copy, run__iterations=9))
    assert (copy / "train_metrics.csv").read_bytes() == before
    assert (copy / "checkpoints" / "8").is_dir()


def test_every_checkpoint_is_sealed_and_whole(unbroken):
    folder, _ = unbroken
    checkpoints = folder / "checkpoints"
    steps = {int(path.name) for path in checkpoints.iterdir() if path.name.isdigit()}
    sealed = {int(p.stem) for p in (folder / "checkpoints_checksums").iterdir()}
    assert steps == sealed == {2, 4, 6, 8}
    assert not any(checksums.find_damage(str(checkpoints), step) for step in steps)


def test_the_best_checkpoint_is_kept(tmp_path):
    config = tiny.make(tmp_path)
    with checkpoint.open_for_saving(str(tmp_path)) as saver:
        _, variables = parts.make_network(config, (40, 64))
        rule = config.mode.optimizer
        update = optimizer.make_optimizer(
            rule, optimizer.make_schedule(rule, 1, 1), 0.0
        )
        state = make_state(variables, update)
        for step, score in enumerate([0.1, 0.9, None, 0.2, 0.3, 0.4, 0.5, 0.6]):
            saver.save(
                jax.tree.map(
                    lambda x: x, state.replace(step=np.asarray(step, np.int32))
                ),
                config,
                score,
            )
    kept = {
        int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()
    }
    assert kept == {1, 3, 4, 5, 6, 7}


def test_a_save_that_fails_is_loud_and_training_goes_on(
    tmp_path, monkeypatch, caplog, unbroken
):
    _, expected = unbroken
    manager_save = checkpoint.ocp.CheckpointManager.save

    def save(self, step, *arguments, **more):
        if step == 4:
            raise OSError(28, "No space left on device")
        return manager_save(self, step, *arguments, **more)

    monkeypatch.setattr(checkpoint.ocp.CheckpointManager, "save", save)
    config = tiny.make(tmp_path, run__iterations=8, mode__checkpoint_iteration=2)
    with caplog.at_level("ERROR", logger="ctjax"):
        state = train.run(config)
    assert "step 4 could not be saved" in caplog.text
    assert "No space left" in caplog.text
    assert leaves_equal(state, expected)
    kept = {
        int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()
    }
    assert kept == {2, 6, 8}


def test_a_last_save_that_fails_ends_with_status_1(tmp_path, monkeypatch):
    def save(self, step, *arguments, **more):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(checkpoint.ocp.CheckpointManager, "save", save)
    with pytest.raises(checkpoint.CheckpointError, match="Read-only file system"):
        train.run(tiny.make(tmp_path))


def poison(monkeypatch, step):
    """Makes the charges of one step's events too large for float32."""
    entries = set(order.training_entries(SYNTHETIC_EVENTS, 4, 0, step).tolist())
    read = EventSource.read

    def poisoned(self, entry, image, label):
        pixels = read(self, entry, image, label)
        if entry in entries:
            image[image > 0] = 3e38
        return pixels

    monkeypatch.setattr(EventSource, "read", poisoned)


def test_a_bad_number_stops_with_step_events_and_activations(
    unbroken, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        poison(patch, 4)
        with pytest.raises(TrainingError) as caught:
            train.run(tiny.make(tmp_path, run__iterations=8))
    words = str(caught.value)
    assert "step 4: loss nan" in words
    events = re.search(r"Events \(run, subrun, event\): (.*?)\. Largest", words)[1]
    assert events.count("(") == 4
    assert re.search(r"Largest activations: [a-z_/0-9]+: (inf|nan), ", words), words
    # What is saved is the state before: going on without the poison changes nothing.
    state = train.run(tiny.make(tmp_path, run__iterations=8))
    assert leaves_equal(state, unbroken[1])


@pytest.mark.slow
def test_a_bad_number_is_skipped_and_counted(tmp_path, monkeypatch, caplog):
    poison(monkeypatch, 4)
    config = tiny.make(tmp_path, run__iterations=8, run__on_nonfinite="skip")
    with caplog.at_level("WARNING", logger="ctjax"):
        state = train.run(config)
    assert int(state.step) == 8
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
    assert (
        "Step 4 of training: loss nan, not finite: update skipped, 1 so far"
        in caplog.text
    )
    losses = [float(row["loss"]) for row in rows(tmp_path)]
    assert np.isnan(losses[4]) and np.isfinite(np.delete(losses, 4)).all()


@pytest.mark.slow
def test_one_run_at_a_time_in_a_folder(tmp_path):
    flags = tiny.flags(tmp_path)
    with lock.hold(str(tmp_path)):
        result = subprocess.run(
            [*COMMAND, *CONFIGURATION, *flags],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert result.returncode == 1
    assert f"in use by process {os.getpid()} on " in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "process.log").exists()


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path):
    code = (
        "import os, signal, sys; from ctjax.outputs import lock\n"
        "with lock.hold(sys.argv[1]):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, timeout=60)
    assert (tmp_path / lock.FILE).exists()
    with lock.hold(str(tmp_path)):
        words = json.loads((tmp_path / lock.FILE).read_text())
    assert words["process"] == os.getpid()


HANG = """
import functools, sys, time
from ctjax import main
from ctjax.runs import train
def hangs(step):
    if step == 1:
        time.sleep(1000)
train.run = functools.partial(train.run, on_step=hangs)
sys.exit(main.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_step_that_hangs_ends_with_every_stack(tmp_path):
    flags = tiny.flags(tmp_path, run__iterations=10, run__step_timeout=3)
    start = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-c", HANG, *CONFIGURATION, *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert time.monotonic() - start < 200
    assert result.returncode == 1
    assert "no step ended within 3 s (run.step_timeout)" in result.stderr
    log = (tmp_path / "process.log").read_text()
    assert "in hangs" in log and "Thread" in log


def test_handlers_are_left_alone_outside_of_the_main_thread():
    found = []

    def look():
        with stop_requests.watch(0) as request:
            found.append(request.reason)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [None]


@pytest.mark.slow
@pytest.mark.parametrize("jump_s", [-86400, 86400])
def test_a_clock_that_jumps_changes_nothing(unbroken, tmp_path, monkeypatch, jump_s):
    now, jumped = time.time, []

    def jump(step):
        if step == 3:
            jumped.append(jump_s)

    monkeypatch.setattr(time, "time", lambda: now() + sum(jumped))
    config = tiny.make(
        tmp_path,
        run__iterations=8,
        run__max_time=3600.0,
        run__step_timeout=600,
        mode__checkpoint_iteration=2,
    )
    assert leaves_equal(train.run(config, on_step=jump), unbroken[1])
    assert jumped


def test_damaged_weights_are_refused_in_one_line(unbroken, tmp_path):
    folder, _ = unbroken
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    flip(max(files_of(copy / "checkpoints" / "8"), key=lambda p: p.stat().st_size))
    config = tiny.make(copy, mode__name="inference")
    with pytest.raises(checkpoint.CheckpointError, match=r"/8: damaged"):
        inference.run(config)
    older = str(copy / "checkpoints" / "6")
    averages = inference.run(
        tiny.make(copy, mode__name="inference", mode__weights_location=older)
    )
    location = str(folder / "checkpoints" / "6")
    whole = tiny.make(
        tmp_path / "of-6", mode__name="inference", mode__weights_location=location
    )
    assert averages == inference.run(whole)
