"""Compares the speed of two checkouts of ctjax: training, inference and reading.

    python -m benchmarks.checkouts --before FOLDER --after FOLDER --file events.h5

Each case is a plain run of either checkout (`python -m ctjax.main`), the two by turns,
with the C library's own allocator on both sides. What is compared is the time of a
step as the run itself notes it in `profiles/*_timings.npy`, without the first ones. A
ratio is that of the median steps of two neighbouring runs, before over after; the table
gives the median of the ratios and their quartiles.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

from benchmarks import machine

COMMON = ["--config.run.compute_mode=CPU", "--config.run.minibatch_size=1"]
STEPS = ["--config.data.synthetic=True", "--config.data.downsample=2", *COMMON]
READING = ["--config.mode.name=iotest", "--config.run.minibatch_size=10"]

CASES = {
    "training, 320 x 512": (
        ["--config.mode.name=train", "--config.run.iterations=10", *STEPS],
        "train",
    ),
    "inference, 320 x 512": (
        ["--config.mode.name=inference", "--config.run.iterations=20", *STEPS],
        "inference",
    ),
    "reading, 1280 x 2048": (
        [*READING, "--config.run.iterations=60", "--config.data.downsample=0"],
        "io",
    ),
    "reading, 320 x 512": (
        [*READING, "--config.run.iterations=120", "--config.data.downsample=2"],
        "io",
    ),
}
"""Fields of each case, and the name of its file of timings."""

LEFT_OUT = 2
"""First steps of a run that are not counted: compilation, empty caches."""


def main() -> int:
    """Runs all cases; prints a table and, with --output, writes the ratios as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=pathlib.Path, required=True)
    parser.add_argument("--after", type=pathlib.Path, required=True)
    parser.add_argument("--file", type=pathlib.Path, required=True)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--cases", default=";".join(CASES), help="separated by ;")
    parser.add_argument("--output", type=pathlib.Path)
    options = parser.parse_args()
    sides = {"before": options.before.resolve(), "after": options.after.resolve()}
    file = options.file.resolve()
    wanted = [case for case in CASES if case in options.cases.split(";")]
    ratios: dict[str, list[float]] = {case: [] for case in wanted}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(-1, options.turns):
            for case in wanted:
                # By turns which one is first: the machine drifts.
                order = list(sides) if turn % 2 else list(sides)[::-1]
                found = {
                    side: median_step_s(case, sides[side], file, f"{folder}/{side}")
                    for side in order
                }
                if turn >= 0:  # the first turn fills the caches of compiled programs
                    ratios[case].append(found["before"] / found["after"])
                    sys.stderr.write(f"{case}: {found}\n")
    write_table(ratios)
    if options.output is not None:
        record = {"machine": machine.describe(), "ratios": ratios}
        options.output.write_text(json.dumps(record, indent=1) + "\n")
    return 0


def median_step_s(case: str, checkout: pathlib.Path, file: pathlib.Path, cache: str):
    """Runs a case by a checkout; returns the median of its steps' seconds."""
    fields, timings = CASES[case]
    # Early versions have the same network under the competition's name.
    name = "configs/scc21_master.py"
    name = name if (checkout / name).exists() else "configs/scc21.py"
    with tempfile.TemporaryDirectory() as output:
        command = [
            *(sys.executable, "-m", "ctjax.main", "--config", name),
            *(*fields, f"--config.data.file={file}", f"--config.output_dir={output}"),
        ]
        environment = {
            **os.environ,
            "PYTHONPATH": str(checkout),
            "JAX_COMPILATION_CACHE_DIR": cache,
            # Set, be it to nothing, keeps early versions from setting them.
            "LD_PRELOAD": "",
            "GLIBC_TUNABLES": "glibc.malloc.hugetlb=0",
        }
        subprocess.run(
            command,
            cwd=checkout,
            env=environment,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        steps = np.load(os.path.join(output, "profiles", f"{timings}_timings.npy"))
        return float(np.median(steps["step_s"][LEFT_OUT:]))


def write_table(ratios: dict[str, list[float]]) -> None:
    """Writes the table to the terminal."""
    rows = ["| case | before / after | quartiles | turns |", "|---|---|---|---|"]
    for case, values in ratios.items():
        low, middle, high = np.percentile(values, [25, 50, 75])
        rows.append(f"| {case} | {middle:.3f} | {low:.3f}-{high:.3f} | {len(values)} |")
    sys.stdout.write("\n".join(rows) + "\n")


if __name__ == "__main__":
    sys.exit(main())
