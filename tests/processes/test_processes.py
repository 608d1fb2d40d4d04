"""Several real processes under mpirun, against one process with as many devices."""

import json
import re
import shutil
import signal
import subprocess
import time

import h5py
import jax
import numpy as np
import pytest

from ctjax.data.larcv.file import LarcvFile
from ctjax.outputs import checkpoint
from ctjax.runs import inference, iotest, parts, train
from tests.support import ROOT, detector_files, larcv_fixtures, tiny
from tests.support.finished_runs import column, last_variables, read_table
from tests.support.processes import (
    MPIRUN,
    command,
    environment,
    free_port,
    mpirun,
    needs_mpirun,
    one_at_a_time,
    start_ranks,
)

pytestmark = [needs_mpirun, one_at_a_time, pytest.mark.slow]


def largest_difference(a, b):
    return max(
        float(np.abs(x - y).max())
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


TRAINING = {
    "network__normalization": "none",
    "run__iterations": 20,
    # One in which no activation comes within rounding of its kink, see test_sharding.
    "run__seed": 1,
}


@pytest.fixture(scope="module")
def larcv_file(tmp_path_factory):
    """Ten events of 40 x 64 pixels."""
    path = tmp_path_factory.mktemp("data") / "ten.h5"
    events = larcv_fixtures.make_events(10, (40, 64), most=300)
    return larcv_fixtures.write_larcv(path, events, (40, 64))


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The training by one process on the four devices of this one."""
    folder = tmp_path_factory.mktemp("reference")
    train.run(tiny.make(folder, **TRAINING))
    return folder


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """The same by two processes."""
    folder = tmp_path_factory.mktemp("two")
    result = mpirun(2, *tiny.flags(folder, **TRAINING))
    assert result.returncode == 0, result.stdout + result.stderr
    return folder, result


def test_processes_train_as_devices_of_one_process_do(reference, two_processes):
    folder, _ = two_processes
    for name in ("loss", "Average/mIoU", "plane2/Total_Accuracy"):
        np.testing.assert_allclose(
            column(folder, name), column(reference, name), rtol=2e-5, atol=1e-6
        )
    config = tiny.make(folder, **TRAINING)
    ours, step = last_variables(folder, config)
    expected, _ = last_variables(reference, config)
    assert step == 20
    assert largest_difference(ours, expected) < 1e-5


def test_another_detector_and_a_bad_event(tmp_path):
    """Planes of three sizes, classes by a map, and an event that one process skips."""
    shapes = [(26, 32), (26, 42), (20, 16), (26, 32)]
    random = np.random.default_rng(5)
    stored = (0, 3, 7, 65535)
    events = [detector_files.make_event(random, shapes, stored) for _ in range(8)]
    events[5] = events[5] * 2
    path = detector_files.write(tmp_path / "events.h5", events, shapes)
    fields = {
        "data__synthetic": False,
        "data__file": path,
        "data__downsample": 1,
        "data__classes": "empty,track,shower",
        "data__label_map": "0:empty,3:track,7:shower,65535:ignore",
        "data__on_bad_event": "skip",
        "network__normalization": "none",
        "run__iterations": 4,
    }
    two = mpirun(2, *tiny.flags(tmp_path / "two", **fields))
    assert two.returncode == 0, two.stdout + two.stderr
    train.run(tiny.make(tmp_path / "one", **fields))
    for name in ("loss", "Average/mIoU", "plane3/Track_IoU"):
        np.testing.assert_allclose(
            column(tmp_path / "two", name), column(tmp_path / "one", name), rtol=2e-5
        )
    skipped = read_table(tmp_path / "two", "train_skipped.csv")
    assert [row["entry"] for row in skipped] == ["5"]


def test_two_processes_of_four_devices_train_as_one_device_does(tmp_path, one_device):
    fields = {**TRAINING, "run__minibatch_size": 8}
    many = mpirun(2, *tiny.flags(tmp_path / "many", **fields), JAX_NUM_CPU_DEVICES="4")
    assert many.returncode == 0, many.stdout + many.stderr
    train.run(tiny.make(tmp_path / "one", **fields))
    np.testing.assert_allclose(
        column(tmp_path / "many", "loss"), column(tmp_path / "one", "loss"), rtol=2e-5
    )


def test_the_first_process_alone_reports(two_processes):
    folder, result = two_processes
    assert len(read_table(folder)) == 20
    assert result.stdout.count("train Step 3 metrics") == 1
    log = (folder / "process.log").read_text()
    assert log.count("train Step 3 metrics") == 1
    assert len(list((folder / "train").glob("events.out.tfevents*"))) == 1
    record = json.loads((folder / "train_config.json").read_text())
    assert (record["processes"], record["hosts"]) == (2, 1)
    assert sum(record["devices"].values()) == 2
    assert record["ended"]["how"] == "finished"


def test_four_processes_go_on_where_two_ended(reference, two_processes, tmp_path):
    folder, _ = two_processes
    for name, source in (("many", folder), ("one", reference)):
        shutil.copytree(source, tmp_path / name)
    longer = {**TRAINING, "run__iterations": 24}
    result = mpirun(4, *tiny.flags(tmp_path / "many", **longer))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Restored step 20" in result.stdout
    train.run(tiny.make(tmp_path / "one", **longer))
    steps = [int(row["step"]) for row in read_table(tmp_path / "many")]
    assert steps == list(range(24))
    np.testing.assert_allclose(
        column(tmp_path / "many", "loss"), column(tmp_path / "one", "loss"), rtol=2e-5
    )


def test_inference_by_two_is_that_of_one(
    two_processes, larcv_file, tmp_path, one_device
):
    folder, _ = two_processes
    fields = {
        "network__normalization": "none",
        "mode__name": "inference",
        "mode__weights_location": str(folder),
        "mode__allow_other_images": True,
        "mode__write_predictions": True,
        "run__iterations": None,
        "data__synthetic": False,
        "data__downsample": 0,
        "data__file": str(larcv_file),
    }
    result = mpirun(2, *tiny.flags(tmp_path / "two", **fields))
    assert result.returncode == 0, result.stdout + result.stderr
    inference.run(tiny.make(tmp_path / "one", **fields))
    for name in ("entry", "event", "Average/mIoU", "plane0/Cosmic_IoU"):
        np.testing.assert_allclose(
            column(tmp_path / "two", name, "inference_metrics.csv"),
            column(tmp_path / "one", name, "inference_metrics.csv"),
            atol=1e-6,
        )
    assert sorted(path.name for path in (tmp_path / "two").glob("predictions*")) == [
        "predictions.h5"
    ]
    for producer in ("cosmic_prediction", "cosmicseg_prediction"):
        np.testing.assert_allclose(
            *(
                stored(tmp_path / who / "predictions.h5", producer)
                for who in ("one", "two")
            ),
            atol=1e-5,
        )
    with LarcvFile(tmp_path / "two" / "predictions.h5") as ours:
        with LarcvFile(larcv_file) as truth:
            np.testing.assert_array_equal(ours.event_ids, truth.event_ids)
            for entry in range(truth.num_events):
                image = truth.read_image(entry)
                nonzero = image.values != 0
                copy = ours.read_image(entry)
                assert len(copy.ids) == nonzero.sum()


def stored(path, producer):
    with h5py.File(path) as file:
        voxels = file[f"Data/sparse2d_{producer}_group/voxels"][:]
    return np.stack([voxels["id"].astype(np.float64), voxels["value"]])


def test_iotest_by_two_reads_every_event_once(larcv_file, tmp_path):
    fields = {
        "mode__name": "iotest",
        "run__iterations": 3,
        "data__synthetic": False,
        "data__downsample": 0,
        "data__file": str(larcv_file),
    }
    result = mpirun(2, *tiny.flags(tmp_path / "two", **fields))
    assert result.returncode == 0, result.stdout + result.stderr
    alone = iotest.run(tiny.make(tmp_path / "one", **fields))
    assert alone["images"] == 12
    assert "2 processes" in result.stdout
    assert result.stdout.count("Total images read per batch: 4") == 1
    throughput = float(re.search(r"Throughput: ([\d.]+)", result.stdout)[1])
    seconds = float(re.search(r"Total IO Time: ([\d.]+)s", result.stdout)[1])
    assert throughput == pytest.approx(12 / seconds, rel=0.02)
    profiles = tmp_path / "two" / "profiles"
    timings = np.load(profiles / "io_timings.npy")
    assert timings["step_s"].sum() == pytest.approx(seconds, abs=1e-4)
    ranks = [np.load(profiles / f"profiling_info_rank_{rank}.npy") for rank in (0, 1)]
    slowest = max(rows["iteration"].astype(float).sum() for rows in ranks)
    assert slowest * 1e-6 == pytest.approx(seconds, abs=1e-3)


def assert_ends_with(result, *words):
    assert result.returncode != 0
    lines = [line for line in result.stderr.splitlines() if "ctjax: error" in line]
    assert lines, result.stderr
    for word in words:
        assert word in lines[0]
    assert "Traceback" not in result.stdout + result.stderr


def test_an_indivisible_minibatch_names_both_numbers(tmp_path):
    result = mpirun(3, *tiny.flags(tmp_path))
    assert_ends_with(result, "run.minibatch_size=4", "3 devices")
    fields = {"mode__name": "iotest"}
    result = mpirun(3, *tiny.flags(tmp_path, **fields))
    assert_ends_with(result, "run.minibatch_size=4", "3 processes")


def test_a_rank_with_another_configuration_is_named(tmp_path):
    result = subprocess.run(
        [
            *(MPIRUN, "--bind-to", "none", "-n", "1", *command(*tiny.flags(tmp_path))),
            *(":", "-n", "1", *command(*tiny.flags(tmp_path, run__seed=7))),
        ],
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert_ends_with(result, "rank 1", "run.seed is 7, expected 0")
    assert not (tmp_path / "train_metrics.csv").exists()


def test_an_error_of_one_rank_ends_all(larcv_file, tmp_path):
    with LarcvFile(larcv_file) as file:
        assert file.num_events == 10
    damaged = tmp_path / "damaged.h5"
    shutil.copy(larcv_file, damaged)
    with h5py.File(damaged, "r+") as file:
        # The last event only. With all ten in every minibatch it is always the second
        # process that reads it, however far ahead either is.
        voxels = file["Data/sparse2d_sbndwire_group/voxels"]
        row = voxels[-1]
        row["id"] = 10**9
        voxels[-1] = row
    fields = {
        "mode__name": "iotest",
        "run__minibatch_size": 10,
        "run__iterations": 100000,
        "data__synthetic": False,
        "data__downsample": 0,
        "data__file": str(damaged),
    }
    start = time.monotonic()
    result = mpirun(2, *tiny.flags(tmp_path / "out", **fields))
    assert_ends_with(result, "rank 1", str(damaged), "entry 9")
    assert time.monotonic() - start < 60


def test_the_others_end_and_name_the_rank_that_was_killed(tmp_path):
    processes = start_ranks(
        tmp_path,
        4,
        free_port(),
        run__iterations=1000000,
        mode__checkpoint_iteration=3,
    )
    try:
        rows = tmp_path / "run" / "train_metrics.csv"
        deadline = time.monotonic() + 240
        while not (rows.exists() and len(rows.read_text().splitlines()) > 8):
            assert time.monotonic() < deadline
            assert all(process.poll() is None for process in processes)
            time.sleep(0.2)
        processes[2].send_signal(signal.SIGKILL)
        start = time.monotonic()
        statuses = [process.wait(timeout=60) for process in processes]
        assert time.monotonic() - start < 60
    finally:
        for process in processes:
            process.kill()
    assert statuses[2] == -signal.SIGKILL
    for rank in (0, 1, 3):
        # 1, or that of an abort where rank 0, which keeps jax's store, is gone first.
        assert statuses[rank] != 0
        errors = (tmp_path / f"rank{rank}.err").read_text()
        # Noticed by its connection where they were sending, else by its silence, which
        # one of them notices first.
        told = rf"rank {rank}: (ends because another one did: rank \d: )?lost rank 2 \("
        assert re.search(f"ctjax: error: {told}", errors), errors
    # What it had saved is whole, and for one process alone to go on with.
    config = tiny.make(tmp_path / "run")
    _, step = last_variables(tmp_path / "run", config)
    assert step >= 3 and step % 3 == 0


def test_a_coordinator_that_never_answers_ends_in_one_line(tmp_path):
    variables = {
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}",
        "JAX_PROCESS_ID": "1",
        "JAX_NUM_PROCESSES": "2",
    }
    result = subprocess.run(
        command(*tiny.flags(tmp_path, run__start_timeout=5)),
        env=environment(**variables),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert_ends_with(result, "rank 1", "within 5 s", "does not answer")
    assert result.returncode == 1


def ranks_in_folders(tmp_path, *fields):
    """Two ranks, each in a folder of its own, with the same relative names."""
    words = []
    for rank in range(2):
        words += [":"] * bool(rank)
        words += ["-n", "1", "--wdir", str(tmp_path / str(rank)), *command(*fields)]
    return subprocess.run(
        [MPIRUN, "--bind-to", "none", *words],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("mode", ["train", "inference", "iotest"])
def test_ranks_that_see_other_files_of_one_name_end_in_one_line(tmp_path, mode):
    for rank, number in enumerate((3, 5)):
        (tmp_path / str(rank)).mkdir()
        events = larcv_fixtures.make_events(number, (40, 64))
        larcv_fixtures.write_larcv(tmp_path / str(rank) / "e.h5", events, (40, 64))
    fields = {
        "mode__name": mode,
        "data__synthetic": False,
        "data__downsample": 0,
        "data__file": "e.h5",
    }
    result = ranks_in_folders(tmp_path, *tiny.flags(tmp_path / "out", **fields))
    assert_ends_with(result, "rank 1 differs from rank 0", "e.h5: events is 5, expec")


def test_ranks_that_see_other_weights_of_one_name_end_in_one_line(tmp_path):
    for rank in range(2):
        folder = tmp_path / str(rank) / "run"
        config = tiny.make(folder, run__seed=rank)
        _, variables = parts.make_network(config, (40, 64))
        checkpoint.save_weights(str(folder), variables, 4, config)
    fields = {"mode__name": "inference", "mode__weights_location": "run"}
    result = ranks_in_folders(tmp_path, *tiny.flags(tmp_path / "out", **fields))
    assert_ends_with(result, "rank 1 differs from rank 0", "run: 4/")


SPARSE = {
    "network__architecture": "uresnet_sparse",
    "network__depth": 1,
    "network__n_initial_filters": 2,
    "network__normalization": "instance",
    "network__blocks_per_layer": 1,
    "network__blocks_deepest_layer": 1,
    "network__blocks_final": 0,
    "network__bottleneck_deepest": 3,
    "network__filter_size_deepest": 3,
    "data__synthetic": False,
    "data__downsample": 0,
}


def test_the_sparse_network_by_two_processes(tmp_path, larcv_file):
    """Lists of the same sizes in both; trained and applied as by one process."""
    fields = {
        **SPARSE,
        "data__file": str(larcv_file),
        "data__aux_file": str(larcv_file),
        "run__iterations": 4,
        "run__aux_iterations": 2,
    }
    two, one = tmp_path / "two", tmp_path / "one"
    result = mpirun(2, *tiny.flags(two, **fields))
    assert result.returncode == 0, result.stdout + result.stderr
    train.run(tiny.make(one, **fields))
    for table in ("train_metrics.csv", "val_metrics.csv"):
        np.testing.assert_allclose(
            column(two, "loss", table), column(one, "loss", table), rtol=1e-4
        )
    apply = {
        **{name: value for name, value in fields.items() if name != "data__aux_file"},
        "mode__name": "inference",
        "mode__weights_location": str(one),
        "mode__write_predictions": True,
        "run__iterations": 9,
    }
    result = mpirun(2, *tiny.flags(tmp_path / "applied2", **apply))
    assert result.returncode == 0, result.stdout + result.stderr
    inference.run(tiny.make(tmp_path / "applied1", **apply))
    name = "inference_metrics.csv"
    rows = [read_table(tmp_path / f"applied{count}", name) for count in (1, 2)]
    assert len(rows[0]) == 10 and rows[0] == rows[1]
    for product in ("cosmic_prediction", "cosmicseg_prediction", "sbndwire"):
        path = f"Data/sparse2d_{product}_group/voxels"
        with (
            h5py.File(tmp_path / "applied1/predictions.h5") as ours,
            h5py.File(tmp_path / "applied2/predictions.h5") as theirs,
        ):
            assert len(ours[path]) > 1000
            for field in ("id", "value"):
                np.testing.assert_allclose(
                    theirs[path][field], ours[path][field], rtol=1e-4
                )
