"""Who keeps the memory of a step for the next one best: ways of KEEP_MEMORY, by turns.

    python -m benchmarks.allocators --output docs/benchmarks/allocators.md

Steps of a network on a CPU, each contender in a process of its own with the
environment that launch/host_memory.sh gives it. Blocks of steps of the plain process,
in which glibc is as it is, alternate with those of a contender; a ratio is that of
neighbouring blocks. A contender whose library is not installed is named and left out.
"""

import argparse
import json
import math
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile

import jax
import numpy as np

from benchmarks import compute, compute_jobs, compute_process, machine
from benchmarks.compute_cases import Case, Contender

PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
WORDS = {
    "ctjax": "plain",
    "pages": "glibc, huge pages alone",
    "glibc": "glibc, huge pages and memory kept",
    "jemalloc": "jemalloc",
}
WAYS = [name for name in WORDS if name not in ("ctjax", "pages")]
"""Values of KEEP_MEMORY."""

REPORT = """\
# Memory kept from step to step on a CPU

- Command: `{command}`
- Machine: {machine}
- Load average before and after: {loads}

{network}, {shape}, float32, a minibatch of one event. "Time" and "processor time": a
step's, over that of the plain process beside it; median and quartiles of {repeats}
pairs of blocks. "Page faults": of a step, median. "Memory": the most resident.

| step | contender | seconds | time | processor time | page faults | memory, GB |
|---|---|---:|---|---|---:|---:|
"""


def environment_of(way: str) -> dict[str, str]:
    """Returns what launch/host_memory.sh sets for a value of KEEP_MEMORY.

    Raises:
      RuntimeError: it refuses; the message is its line.
    """
    script = ". launch/host_memory.sh && printf '%s\\0' \"${settings[@]}\""
    result = subprocess.run(
        ["bash", "-euc", script],
        cwd=compute_process.ROOT,
        env=os.environ | {"KEEP_MEMORY": way},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise RuntimeError(result.stderr.strip())
    words = result.stdout.split("\0")[:-1]
    return dict(word.split("=", 1) for word in words)


def find_contenders() -> dict[str, Contender]:
    """Returns those that this machine has, and names the others."""
    found = {"pages": Contender(None, PAGES)}
    for way in WAYS:
        try:
            found[way] = Contender(None, environment_of(way))
        except RuntimeError as error:
            sys.stderr.write(f"left out: {error}\n")
    return found


def quartiles(pairs: list[list[float]]) -> str:
    """Returns the words for the ratios of pairs, contender over plain."""
    if not pairs:
        return ""
    ratios = [theirs / ours for ours, theirs in pairs]
    low, middle, high = np.percentile(ratios, (25, 50, 75))
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def line(step: str, row: dict) -> str:
    """Returns the line of the table for a contender."""
    words = WORDS[row["contender"]]
    if "failed" in row:
        return f"| {step} | {words} | {row['failed']} | | | | |\n"
    cells = [
        step,
        words,
        f"{np.median(row['seconds']):.3f}",
        quartiles(row.get("pairs", [])),
        quartiles(row.get("processor_pairs", [])),
        f"{np.median(row['faults']):.0f}",
        f"{row['peak_bytes'] / 1e9:.2f}",
    ]
    return "| " + " | ".join(cells) + " |\n"


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.allocators",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--network", default="scc21_master", help="name of a file in configs/"
    )
    parser.add_argument("--downsample", type=int, default=2, help="2: 320 x 512")
    parser.add_argument("--repeats", type=int, default=9, help="pairs of blocks")
    parser.add_argument("--block-s", type=float, default=5.0, help="least of a block")
    parser.add_argument(
        "--fields", type=json.loads, default={}, help="changes to the configuration"
    )
    parser.add_argument("--output", type=pathlib.Path, help="markdown file")
    options = parser.parse_args()
    options.device = "cpu"
    options.cpus = sorted(os.sched_getaffinity(0))
    return options


def main() -> int:
    """Measures, and writes the table."""
    options = parse()
    if set(os.environ) & {"LD_PRELOAD", "GLIBC_TUNABLES"}:
        sys.stderr.write("expected LD_PRELOAD and GLIBC_TUNABLES to be unset\n")
        return 2
    jax.config.update("jax_platforms", "cpu")  # the steps are the workers'
    contenders = find_contenders()
    options.keep = None
    loads = [os.getloadavg()[0]]
    lines, shape = [], ""
    for step, training in (("training", True), ("inference", False)):
        case = Case(
            *(step, step, options.network, training, "float32", options.downsample, 1)
        )
        config = compute_jobs.configure(case, options)
        with tempfile.TemporaryDirectory() as folder:
            job = compute_jobs.write_arrays(config, folder) | {
                "training": training,
                "device": "cpu",
                "cpus": options.cpus,
            }
            shape = " x ".join(map(str, job["image_shape"]))
            rows = compute.measure(
                *(job, options, folder, math.inf, list(contenders)),
                contenders=contenders,
            )
        lines += [line(step, row) for row in rows]
    loads.append(os.getloadavg()[0])
    text = REPORT.format(
        command=f"python -m benchmarks.allocators {shlex.join(sys.argv[1:])}".strip(),
        machine=machine.words(machine.describe("jax", "jaxlib")),
        loads=" and ".join(f"{load:.1f}" for load in loads),
        network=options.network,
        shape=shape,
        repeats=options.repeats,
    ) + "".join(lines)
    sys.stdout.write(text)
    if options.output:
        options.output.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
