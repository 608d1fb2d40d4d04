"""The command line of the simulation: files, sets, and one line for each bad input."""

import os
import pathlib
import re
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest

from ctjax.commands import simulate
from ctjax.data.larcv.file import LarcvFile
from ctjax.simulation.benchmark_sets import BENCHMARK_SETS, BenchmarkFile
from ctjax.simulation.content_checksum import content_checksum
from ctjax.simulation.events import Simulator
from ctjax.simulation.parameters import GENERATOR_VERSION, SimulationParameters

SMALL = ("--shape", "320,512", "--workers", "1")


def run(*arguments):
    assert simulate.main([str(argument) for argument in arguments]) == 0


def fails(capsys, *arguments):
    """The one line on stderr that a command ends with."""
    try:
        assert simulate.main([str(argument) for argument in arguments]) == 1
        line = capsys.readouterr().err.removesuffix("\n")
    except SystemExit as stopped:
        # A text as the exit code is printed on stderr, with status 1.
        line = stopped.code
    assert isinstance(line, str) and line.startswith("ctjax: error: ")
    assert "\n" not in line
    return line


def test_writes_the_events_of_a_seed(tmp_path):
    path = tmp_path / "a.h5"
    run("--events", 3, "--output", path, "--seed", 4, *SMALL)
    simulator = Simulator(SimulationParameters(image_shape=(320, 512)))
    with LarcvFile(path, strict=True) as file:
        assert file.num_events == 3 and file.plane_shapes == ((320, 512),) * 3
        wanted = [[4, GENERATOR_VERSION, number] for number in range(3)]
        assert np.asarray(file.event_ids).tolist() == wanted
        for number in range(3):
            image, label = file.read_image(number), file.read_label(number)
            planes = simulator.event(4, number).planes
            for name, read in (("charge", image), ("label", label)):
                values = np.concatenate([getattr(plane, name) for plane in planes])
                np.testing.assert_array_equal(np.asarray(read.values), values)
    with h5py.File(path) as file:
        assert file["Data/particle_sbndneutrino_group/extents"].shape == (3,)
        assert file["Data/bbox2d_bbox_neutrino_group/bbox_extents"].shape == (9,)


def test_same_bytes_for_any_number_of_workers(tmp_path):
    for workers in (1, 2):
        run(
            "--events", 9, "--output", tmp_path / f"{workers}.h5", "--seed", 4,
            "--shape", "320,512", "--workers", workers,
        )  # fmt: skip
    first, second = ((tmp_path / f"{n}.h5").read_bytes() for n in (1, 2))
    assert first == second
    run("--events", 9, "--output", tmp_path / "3.h5", "--seed", 5, *SMALL)
    assert (tmp_path / "3.h5").read_bytes() != first


def test_first_event_continues_a_seed(tmp_path):
    run("--events", 4, "--output", tmp_path / "all.h5", "--seed", 4, *SMALL)
    run(
        "--events", 2, "--first_event", 2, "--output", tmp_path / "end.h5",
        "--seed", 4, *SMALL,
    )  # fmt: skip
    with h5py.File(tmp_path / "all.h5") as whole, h5py.File(tmp_path / "end.h5") as end:
        name = "Data/sparse2d_sbndwire_group/voxels"
        later = end[name][:]
        np.testing.assert_array_equal(whole[name][-len(later) :], later)
        assert end["Events/event_id"]["event"].tolist() == [2, 3]


@pytest.mark.parametrize(
    "name, shape, sizes",
    [
        ("sbnd", "32,64", [[64, 32]] * 3),
        ("microboone", "32,144", [[96, 32], [96, 32], [144, 32]]),
        ("two_tpcs", "32,128", [[128, 32], [128, 32], [96, 32]] * 2),
    ],
)
def test_detectors_by_name(tmp_path, name, shape, sizes):
    path = tmp_path / "a.h5"
    run(
        "--events", 1, "--output", path, "--seed", 4, "--detector", name,
        "--shape", shape, "--workers", 1,
    )  # fmt: skip
    with h5py.File(path) as file:
        for product in ("sparse2d_sbndwire", "bbox2d_bbox_neutrino"):
            meta = file[f"Data/{product}_group/image_meta"]
            assert meta["number_of_voxels"].tolist() == sizes


BAD_INPUT = {
    "events must be at least 1, got -3": ("--events", "-3", "--seed", "1"),
    "events must be at least 1, got 0": ("--events", "0", "--seed", "1"),
    "seed must be at least 0, got -1": ("--events", "1", "--seed", "-1"),
    "seed must be below": ("--events", "1", "--seed", str(2**70)),
    "workers must be at least 1": ("--events", "1", "--seed", "1", "--workers", "0"),
    "first_event must be": ("--events", "1", "--seed", "1", "--first_event", "-1"),
    "multiples of 32": ("--events", "1", "--seed", "1", "--shape", "1280,2000"),
    "expected rows,columns": ("--events", "1", "--seed", "1", "--shape", "big"),
    "invalid int value": ("--events", "many", "--seed", "1"),
    "--seed is required": ("--events", "1"),
    "--seed goes with": ("--set", "small", "--seed", "1"),
    "--detector goes with": ("--set", "small", "--detector", "sbnd"),
    "argument --detector: invalid choice: 'dune'": (
        *("--events", "1", "--seed", "1", "--detector", "dune"),
    ),
    "1000,3456: rows and columns must be positive multiples of 16": (
        *("--events", "1", "--seed", "1", "--detector", "microboone"),
        *("--shape", "1000,3456"),
    ),
    "invalid choice": ("--set", "huge"),
    "one of the arguments": (),
}


@pytest.mark.parametrize("message", BAD_INPUT)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, message, capsys):
    line = fails(capsys, *BAD_INPUT[message], "--output", tmp_path / "a.h5")
    assert message in line
    assert not list(tmp_path.iterdir())


def test_output_is_required():
    with pytest.raises(SystemExit, match="--output is required"):
        run("--events", 1, "--seed", 1)


def test_an_existing_output_is_kept(tmp_path, capsys):
    path = tmp_path / "a.h5"
    path.write_text("precious")
    line = fails(capsys, "--events", 1, "--output", path, "--seed", 1, *SMALL)
    assert "output exists already" in line
    assert path.read_text() == "precious" and len(list(tmp_path.iterdir())) == 1


def test_a_missing_folder_is_named(tmp_path, capsys):
    output = tmp_path / "no" / "a.h5"
    line = fails(capsys, "--events", 1, "--output", output, "--seed", 1, *SMALL)
    assert "no such folder" in line


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
from ctjax.commands import simulate
sys.exit(simulate.main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no file size limit to set")
@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, workers):
    result = subprocess.run(
        [
            sys.executable, "-c", LIMITED, "--events", "16", "--seed", "1", "--shape",
            "320,512", "--output", str(tmp_path / "a.h5"), "--workers", workers,
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 1, result.stderr
    last = result.stderr.splitlines()[-1]
    assert last.startswith("ctjax: error: ") and "a.h5" in last
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM")
@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_sigterm_is_one_line_and_leaves_nothing(tmp_path, workers):
    process = subprocess.Popen(
        [
            *(
                sys.executable,
                "-m",
                "ctjax",
                "simulate",
                "--events",
                "100000",
                "--seed",
            ),
            *("1", "--shape", "320,512", "--workers", workers),
            *("--output", str(tmp_path / "a.h5")),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_events(process, tmp_path)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    last = errors.splitlines()[-1]
    assert last == "ctjax: error: interrupted; nothing unfinished was kept"
    assert "Traceback" not in errors
    assert not list(tmp_path.iterdir())


def wait_for_events(process, folder):
    """Waits until the unfinished file holds some events, each of about 40 kB."""
    deadline = time.monotonic() + 60
    while sum(path.stat().st_size for path in folder.iterdir()) < 100_000:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)


KILLED = """
import os, sys
from concurrent import futures
from ctjax.commands import simulate

submit = futures.ProcessPoolExecutor.submit

def submit_and_name_workers(pool, *arguments):
    future = submit(pool, *arguments)
    print(*pool._processes, flush=True)
    return future

futures.ProcessPoolExecutor.submit = submit_and_name_workers
sys.exit(simulate.main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    process = subprocess.Popen(
        [
            sys.executable, "-c", KILLED, "--events", "100000", "--seed", "1",
            "--shape", "320,512", "--output", str(tmp_path / "a.h5"), "--workers", "2",
        ],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    workers = set()
    while len(workers) < 2:
        workers |= {int(word) for word in process.stdout.readline().split()}
    # Not before they have begun, or they end for another reason.
    wait_for_events(process, tmp_path)
    process.kill()
    process.communicate(timeout=60)
    deadline = time.monotonic() + 60
    while any(is_running(worker) for worker in workers):
        assert time.monotonic() < deadline, f"{workers} still run"
        time.sleep(0.1)
    assert not (tmp_path / "a.h5").exists()


def is_running(process_id):
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    # A zombie, where nobody collects orphans, runs no more.
    status = pathlib.Path(f"/proc/{process_id}/stat")
    return (
        not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"
    )


def test_a_set_is_made_with_its_checksums(tmp_path, monkeypatch, capsys):
    tiny = (BenchmarkFile("train", 2, 7), BenchmarkFile("test", 1, 8))
    monkeypatch.setitem(BENCHMARK_SETS, "small", tiny)
    run("--set", "small", "--output", tmp_path / "sets", "--workers", 1)
    shown = capsys.readouterr().out
    for file in tiny:
        path = tmp_path / "sets" / f"small_{file.name}.h5"
        assert f"events {file.events}  seed {file.seed}" in shown
        assert content_checksum(path) in shown

    # The second file alone is in the way: the first must not be made before.
    (tmp_path / "sets" / "small_train.h5").unlink()
    line = fails(
        capsys, "--set", "small", "--output", tmp_path / "sets", "--workers", 1
    )
    assert re.search(r"exists already: .*small_test\.h5", line)
    assert [path.name for path in (tmp_path / "sets").iterdir()] == ["small_test.h5"]


def test_sets_share_no_seed_and_have_the_documented_sizes():
    files = [file for files in BENCHMARK_SETS.values() for file in files]
    assert len({file.seed for file in files}) == len(files)
    sizes = {
        name: [file.events for file in files] for name, files in BENCHMARK_SETS.items()
    }
    assert sizes == {
        "quickstart": [1000, 100],
        "small": [400, 100, 100],
        "large": [20000, 2000, 2000],
    }


def test_checksum_is_printed(tmp_path, capsys):
    path = tmp_path / "a.h5"
    run("--events", 1, "--output", path, "--seed", 1, *SMALL)
    capsys.readouterr()
    run("--checksum", path)
    shown = capsys.readouterr().out
    assert re.fullmatch(r"[0-9a-f]{64}\n", shown)
    assert shown.strip() == content_checksum(path)


def test_checksum_of_no_file_is_one_line(tmp_path, capsys):
    assert "none.h5" in fails(capsys, "--checksum", tmp_path / "none.h5")


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(
    tmp_path, monkeypatch, capsys, terminal
):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    run("--events", 2, "--output", tmp_path / "a.h5", "--seed", 1, *SMALL)
    shown = capsys.readouterr().err
    assert "a.h5: 2/2 events" in shown and shown.endswith("events/s\n")
    assert ("\r[" in shown) == terminal
