"""Where the time of a thread goes while it reads one image.

    python -m benchmarks.io_stages --file cosmic_tagging_light.h5 --downsample 0

Prints one JSON line; benchmarks/io.py makes a table of several. Times are those that
the processor spent on the thread (or on the process), without what stages called by a
stage take, and without waiting.
"""

import argparse
import collections
import functools
import json
import sys
import threading
import time
from collections.abc import Callable

from ctjax.data import images, pipeline, sources
from ctjax.data.larcv import chunks, file
from ctjax.data.order import wrapped_entries

STAGES = {
    "fetch": (chunks.RowReader, "_fetch"),
    "inflate": (chunks.RowReader, "_decode"),
    "split and check": (file.LarcvFile, "_read"),
    "compare": (file.LarcvFile, "read_event"),
    "pool": (sources, "pool"),
    "write": (images, "fill"),
    "clear": (images, "clear"),
    "rest of the thread": (pipeline.MinibatchReader, "_fill"),
}
"""What is timed, and where it is called: each without those that it calls."""


def timed(
    stage: str,
    function: Callable,
    seconds: collections.Counter,
    inner: threading.local,
) -> Callable:
    """The function, adding the processor time that it takes itself to its stage.

    Args:
      stage: name.
      function: to be called.
      seconds: of all stages and threads.
      inner: keeps what the stages inside of this one have taken.
    """

    @functools.wraps(function)
    def call(*arguments, **options):
        outer, inner.seconds = getattr(inner, "seconds", 0.0), 0.0
        begin = time.thread_time()
        try:
            return function(*arguments, **options)
        finally:
            whole = time.thread_time() - begin
            seconds[stage] += whole - inner.seconds
            inner.seconds = outer + whole

    return call


def measure(path: str, downsample: int, threads: int, seconds: float) -> dict:
    """Milliseconds per image of each stage, of the rest of the process, and of all."""
    taken, inner = collections.Counter(), threading.local()
    for stage, (owner, name) in STAGES.items():
        setattr(owner, name, timed(stage, getattr(owner, name), taken, inner))
    size = 2
    with sources.open_source(file=path, downsample=downsample) as source:
        entries = wrapped_entries(source.num_events, size)
        with pipeline.minibatches(source, entries, io_threads=threads) as reader:
            for _ in range(20):
                reader.release(next(reader))
            taken.clear()
            process, begin = time.process_time(), time.perf_counter()
            count = 0
            while time.perf_counter() - begin < seconds:
                reader.release(next(reader))
                count += size
            whole = time.process_time() - process
            found = {stage: taken[stage] for stage in STAGES}
            found["rest of the process"] = whole - sum(found.values())
            found["all"] = whole
            found["by the clock"] = time.perf_counter() - begin
    return {stage: 1e3 * value / count for stage, value in found.items()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.io_stages")
    parser.add_argument("--file", required=True, help="larcv3 file")
    parser.add_argument("--downsample", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    found = measure(options.file, options.downsample, options.threads, options.seconds)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
