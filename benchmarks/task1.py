"""Task 1 with the guide's 100 iterations, by ctjax's own command, beside larcv3.

    python -m benchmarks.task1 --file cosmic_tagging_light.h5 --larcv-python PATH

A turn is one run of the command and one measurement of larcv3 for each number of
processes; the best number of each is compared, by the medians of the turns. larcv3 is
read as benchmarks.io reads it, for as long as it takes to be warm and some seconds;
without `--larcv-python` its rates are not measured.
"""

import argparse
import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks import io

THROUGHPUT = re.compile(r"Average Image IO Throughput: ([\d.]+)")


def read_by_ctjax(options: argparse.Namespace, count: int) -> tuple[float, float]:
    """Runs the command; returns the images a second that it logs, and its seconds."""
    launcher = options.launcher.format(n=count) if count > 1 else ""
    with tempfile.TemporaryDirectory() as folder:
        fields = {
            "data.file": os.path.abspath(options.file),
            "data.downsample": 0,
            "run.iterations": options.iterations,
            "run.minibatch_size": options.minibatch,
            "output_dir": folder,
        }
        begin = time.perf_counter()
        result = subprocess.run(
            [*shlex.split(launcher), sys.executable, "-m", "ctjax", "iotest"]
            + [f"--config.{name}={value}" for name, value in fields.items()],
            capture_output=True,
            text=True,
            check=True,
        )
        return find_rate(result.stdout), time.perf_counter() - begin


def find_rate(output: str) -> float:
    """Returns the throughput that a log ends with."""
    found = THROUGHPUT.findall(output)
    if len(found) != 1:
        raise ValueError(f"expected one line with a throughput, found {len(found)}")
    return float(found[0])


def read_by_larcv(options: argparse.Namespace, count: int) -> float:
    """Returns larcv3's images a second, of all processes together."""
    case = {
        "what": "larcv3",
        "processes": count,
        "minibatch_size": max(1, options.minibatch // count),
        "downsample": 0,
        "file": options.file,
        "shape": io.SHAPE,
    }
    return io.measure(case, options.seconds, options.larcv_python)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.task1")
    parser.add_argument("--file", required=True, help="larcv3 file")
    parser.add_argument("--larcv-python", help="interpreter with the package larcv")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--launcher", default="mpirun -n {n}")
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--minibatch", type=int, default=8)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="of larcv3")
    options = parser.parse_args()
    rates: dict[str, dict[int, list[float]]] = {"ctjax": {}, "larcv3": {}}
    for turn in range(options.turns):
        for count in options.processes:
            rate, seconds = read_by_ctjax(options, count)
            rates["ctjax"].setdefault(count, []).append(rate)
            words = f"turn {turn}, {count} processes: ctjax {rate:.1f} images/s"
            words += f", {seconds:.1f} s from start to end"
            if options.larcv_python:
                rate = read_by_larcv(options, count)
                rates["larcv3"].setdefault(count, []).append(rate)
                words += f"; larcv3 {rate:.1f} images/s"
            sys.stdout.write(f"{words}\n")
            sys.stdout.flush()
    best = {
        what: max(statistics.median(values) for values in by_count.values())
        for what, by_count in rates.items()
        if by_count
    }
    for what, rate in best.items():
        sys.stdout.write(f"{what}: {rate:.1f} images/s with its best processes\n")
    if "larcv3" in best:
        sys.stdout.write(f"ratio: {best['ctjax'] / best['larcv3']:.2f}\n")


if __name__ == "__main__":
    main()
