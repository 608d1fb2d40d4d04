"""Task 1 with the guide's 100 iterations, by ctjax's own command, beside larcv3.

    python -m benchmarks.task1 --file cosmic_tagging_light.h5 --larcv-python PATH

A turn is one run of the command and one measurement of larcv3 for each number of
processes, in the other order every second turn. The numbers of processes with the best
medians are compared, turn by turn. larcv3 is read as benchmarks.io reads it, for as
long as it takes to be warm and some seconds; without `--larcv-python` its rates are not
measured.
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

MACHINE = ("processor", "cpus", "python", "numpy", "h5py", "hdf5", "commit", "loops")
"""What `io.describe_machine` knows that is said."""

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
            check=False,
        )
        if result.returncode:
            words = f"ctjax iotest, processes {count}: status {result.returncode}"
            raise RuntimeError(f"{words}\n{result.stdout}{result.stderr}")
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


def compare(rates: dict[str, dict[int, list[float]]]) -> list[str]:
    """Says which number of processes is best for each, and how far apart they are.

    Args:
      rates: of "ctjax" and perhaps "larcv3": images a second of every turn, by number
        of processes.

    Returns:
      Lines; the last one has the ratio of the same turns.
    """
    lines, best = [], {}
    for what, by_count in rates.items():
        count = max(by_count, key=lambda n: statistics.median(by_count[n]))
        best[what] = by_count[count]
        lines.append(
            f"{what}: {statistics.median(best[what]):.1f} images/s "
            f"({min(best[what]):.1f} to {max(best[what]):.1f}), "
            f"best with processes: {count}"
        )
    if "larcv3" in best:
        pairs = zip(best["ctjax"], best["larcv3"], strict=True)
        ratios = [ours / theirs for ours, theirs in pairs]
        lines.append(
            f"ratio: {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}), turns: {len(ratios)}"
        )
    return lines


def take_turns(options: argparse.Namespace) -> dict[str, dict[int, list[float]]]:
    """Measures, and says every number at once; returns the rates for `compare`."""
    rates: dict[str, dict[int, list[float]]] = {}
    names = ["ctjax", "larcv3"] if options.larcv_python else ["ctjax"]
    for turn in range(options.turns):
        for count in options.processes:
            for what in names[:: -1 if turn % 2 else 1]:
                words = f"turn {turn}, processes {count}, {what}: "
                if what == "ctjax":
                    rate, seconds = read_by_ctjax(options, count)
                    words += f"{rate:.1f} images/s, {seconds:.1f} s from start to end"
                else:
                    rate = read_by_larcv(options, count)
                    words += f"{rate:.1f} images/s"
                rates.setdefault(what, {}).setdefault(count, []).append(rate)
                sys.stdout.write(f"{words}\n")
                sys.stdout.flush()
    return rates


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
    machine = io.describe_machine()
    words = (f"{name} {machine[name]}" for name in MACHINE)
    sys.stdout.write(f"{', '.join(words)}\n")
    for line in compare(take_turns(options)):
        sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    main()
