"""Task 1 of the competition guide, read and make dense, against larcv3.

    python -m benchmarks.io --file cosmic_tagging_light.h5 --larcv-python PATH

Every case runs in processes of its own, started together on the same file; cases
alternate, and a row is the median of the repeats. Two limits are measured in the same
run: how fast dense arrays can be written at all, and how fast the file's voxels can
be inflated; and where the time of an image goes. `--larcv-python` is an interpreter
with the package `larcv`; without one its rows say "not measured". Writes
docs/benchmarks/io.{md,json,png}.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

import h5py
import numpy as np

from benchmarks import io_report
from ctjax.data import native, pipeline, sources
from ctjax.data.larcv import filters, repack
from ctjax.data.minibatch import Form
from ctjax.data.order import wrapped_entries

SHAPE = (1280, 2048)
LARCV_WORKER = pathlib.Path(__file__).with_name("larcv_worker.py")


def _commit() -> str:
    """The commit that is measured, "unknown" outside of a git checkout."""
    result = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=pathlib.Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return result.stdout.strip() or "unknown"


def make_cases(num_cpus: int, files: dict[str, str]) -> list[dict]:
    """Every case to measure: what, on which file, with how many of each."""
    alone, threads, processes = (1, 1), (1, num_cpus), (num_cpus, 1)
    cases = []

    def add(what, layout, minibatch_size, downsample, file="as written"):
        cases.append(
            {
                "what": what,
                "processes": layout[0],
                "threads": layout[1],
                "minibatch_size": minibatch_size,
                "downsample": downsample,
                "layout": file,
                "file": files[file],
                "shape": SHAPE,
            }
        )

    for downsample in (0, 1, 2):
        add("larcv3", alone, 2, downsample)
        add("larcv3", processes, 2, downsample)
        for layout in (alone, threads, processes):
            add("ctjax", layout, 2, downsample)
        for minibatch_size in (1, 8):
            add("ctjax", processes, minibatch_size, downsample)
        add("ctjax in numpy", processes, 2, downsample)
        add("ctjax sparse", processes, 2, downsample)
        for file in list(files)[1:]:
            add("ctjax", processes, 2, downsample, file)
            add("ctjax", threads, 2, downsample, file)
        add("fill", processes, 1, downsample)
    add("inflate", processes, 1, 0)
    return cases


def work(case: dict) -> None:
    """One process of a case: warms up, says "ready", waits for a line, measures."""
    step, close = WORK[case["what"]](case)
    for _ in range(4):
        step()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    begin = now = time.perf_counter()
    count = 0
    while now - begin < case["seconds"]:
        step()
        count += case["minibatch_size"]
        now = time.perf_counter()
    sys.stdout.write(json.dumps({"images": count, "elapsed_s": now - begin}) + "\n")
    close()


def start_reading(case: dict):
    """A step that takes one minibatch and gives it back."""
    if case["what"] == "ctjax in numpy":
        native.routines = None
    source = sources.open_source(file=case["file"], downsample=case["downsample"])
    reader = pipeline.minibatches(
        source,
        wrapped_entries(source.num_events, case["minibatch_size"]),
        io_threads=case["threads"],
        form=Form.PIXELS if case["what"] == "ctjax sparse" else Form.DENSE,
    )
    return lambda: reader.release(next(reader)), reader.close


def start_filling(case: dict):
    """A step that writes zeros over one event's dense arrays, out of the cache."""
    shape = (3, *(side >> case["downsample"] for side in SHAPE))
    arrays = [(np.ones(shape, np.float32), np.ones(shape, np.uint8)) for _ in range(6)]

    def step():
        image, label = arrays[0]
        image.fill(0)
        label.fill(0)
        arrays.append(arrays.pop(0))

    return step, lambda: None


def start_inflating(case: dict):
    """A step that inflates one event's share of the stored chunks."""
    stored = []
    with h5py.File(case["file"]) as file:
        num_events = len(file["Events/event_id"])
        for name in ("sbndwire", "sbnd_cosmicseg"):
            voxels = file[f"Data/sparse2d_{name}_group/voxels"]
            size = voxels.chunks[0] * voxels.dtype.itemsize
            for row in range(0, len(voxels), voxels.chunks[0]):
                stored.append((voxels.id.read_direct_chunk((row,))[1], size))
    shares = [stored[event::num_events] for event in range(num_events)]

    def step():
        shares.append(shares.pop(0))
        for data, size in shares[0]:
            filters.inflate(data, size)

    return step, lambda: None


WORK = {
    "ctjax": start_reading,
    "ctjax in numpy": start_reading,
    "ctjax sparse": start_reading,
    "fill": start_filling,
    "inflate": start_inflating,
}


def measure(case: dict, seconds: float, larcv_python: str | None) -> float:
    """Images a second of all processes of a case together."""
    command = [sys.executable, "-m", "benchmarks.io", "--work"]
    if case["what"] == "larcv3":
        command = [larcv_python, str(LARCV_WORKER)]
    argument = json.dumps({**case, "seconds": seconds})
    processes = [
        subprocess.Popen(
            [*command, argument],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for _ in range(case["processes"])
    ]
    for process in processes:
        # larcv3's C++ logging comes first, on the same channel.
        while (line := process.stdout.readline()).strip() != "ready":
            if not line:
                raise RuntimeError(f"a process of {case} ended before it was ready")
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    rate = 0.0
    for process in processes:
        found = json.loads(process.communicate()[0].splitlines()[-1])
        rate += found["images"] / found["elapsed_s"]
    return rate


def profile(path: str, threads: int, seconds: float) -> list[dict]:
    """Milliseconds per image of each stage, on one thread and on several."""
    found = []
    for downsample in (0, 1, 2):
        for count in dict.fromkeys((1, threads)):
            command = [sys.executable, "-m", "benchmarks.io_stages", "--file", path]
            command += ["--downsample", str(downsample), "--threads", str(count)]
            command += ["--seconds", str(seconds)]
            result = subprocess.run(command, capture_output=True, text=True, check=True)
            stages = json.loads(result.stdout)
            found.append({"downsample": downsample, "threads": count, "ms": stages})
    return found


def describe_machine() -> dict:
    """Processor, cores and versions, for the report."""
    model = platform.processor()
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":")[1].strip()
            break
    return {
        "processor": model,
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "h5py": h5py.__version__,
        "hdf5": h5py.version.hdf5_version,
        "commit": _commit(),
        "inflate": "libdeflate",
        "loops": native.language(),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.io")
    parser.add_argument("--file", help="larcv3 file of the light events")
    parser.add_argument("--larcv-python", help="interpreter with the package larcv")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--output", default="docs/benchmarks")
    parser.add_argument("--machine", default="", help="words for the report")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(json.loads(options.work))
        return
    with tempfile.TemporaryDirectory() as folder:
        files = {"as written": options.file}
        for name in ("gzip", "none"):
            files[f"repacked, {name}"] = os.path.join(folder, f"{name}.h5")
            repack.repack(options.file, files[f"repacked, {name}"], filter_name=name)
        cases = make_cases(len(os.sched_getaffinity(0)), files)
        if options.larcv_python:
            measured = cases
        else:
            measured = [case for case in cases if case["what"] != "larcv3"]
        loads = [os.getloadavg()[0]]
        for case in cases:
            case["rates"] = []
        for _ in range(options.repeats):
            for case in measured:
                rate = measure(case, options.seconds, options.larcv_python)
                case["rates"].append(rate)
            loads.append(os.getloadavg()[0])
    num_cpus = len(os.sched_getaffinity(0))
    stages = profile(options.file, num_cpus, 2 * options.seconds)
    for case in cases:
        case["file"] = os.path.basename(case["file"])
        case["images_per_s"] = (
            statistics.median(case["rates"]) if case["rates"] else None
        )
    command = (
        f"python -m benchmarks.io --file {os.path.basename(options.file)} "
        + ("--larcv-python PATH " if options.larcv_python else "")
        + f"--repeats {options.repeats} --seconds {options.seconds:g}"
    )
    machine = {
        **describe_machine(),
        "words": options.machine,
        "command": command,
        "load_averages": loads,
    }
    io_report.write(cases, stages, machine, pathlib.Path(options.output))


if __name__ == "__main__":
    main()
