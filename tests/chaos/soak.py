"""A long training: memory, open files and threads must not grow.

    python -m tests.chaos.soak --steps 2000 --output report.json

Also says how long the step waits for a checkpoint to be copied.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import tempfile
import threading
import time

from ctjax.outputs import checkpoint
from ctjax.runs import train
from tests.support import tiny


def main() -> int:
    """Runs the training; 0 if nothing grew."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--output", type=pathlib.Path)
    options = parser.parse_args()
    report = run(options.steps)
    sys.stdout.write(f"{json.dumps(report)}\n")
    if options.output:
        options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    grown_mb = report["memory_mb"][-1] - report["memory_mb"][1]
    files, threads = growth(report["open_files"]), growth(report["threads"])
    return 0 if grown_mb < 20 and files <= 0 and threads <= 0 else 1


def growth(samples: list[int]) -> int:
    """How much more there is at the end than at the start.

    A sample may be taken while a checkpoint is being written, with files open for it:
    the least of the last ones against the most of the first.
    """
    return min(samples[-4:]) - max(samples[1:4])


def run(steps: int) -> dict:
    """Samples at every tenth of the run, and the seconds of each save."""
    samples: dict[str, list] = {"memory_mb": [], "open_files": [], "threads": []}
    saves: list[float] = []
    save = checkpoint.Saver.save

    def sample(step):
        if (step + 1) % (steps // 10) == 0:
            status = pathlib.Path("/proc/self/statm").read_text("utf-8").split()
            samples["memory_mb"].append(
                int(status[1]) * os.sysconf("SC_PAGE_SIZE") // 10**6
            )
            samples["open_files"].append(len(os.listdir("/proc/self/fd")))
            samples["threads"].append(threading.active_count())

    def saving(self, *arguments):
        start = time.perf_counter()
        save(self, *arguments)
        saves.append(time.perf_counter() - start)

    checkpoint.Saver.save = saving
    with tempfile.TemporaryDirectory() as folder:
        train.run(
            tiny.make(
                folder,
                run__iterations=steps,
                mode__checkpoint_iteration=max(1, steps // 40),
            ),
            on_step=sample,
        )
    return {
        "steps": steps,
        **samples,
        "saves": len(saves),
        "save_s_median": round(statistics.median(saves), 4),
        "save_s_most": round(max(saves), 4),
    }


if __name__ == "__main__":
    sys.exit(main())
