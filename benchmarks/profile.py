"""Where the device's time goes in a step, kernel by kernel.

    python -m benchmarks.profile --device gpu --case task3 --output profiles

Runs the step of a case of benchmarks/compute.py, some of them under the profiler, and
joins each kernel's time with the bytes that the compiled program says it moves
(benchmarks/program.py). Writes CASE.profile.json, CASE.profile.md and the program,
CASE.program.gz.
"""

import argparse
import collections
import gzip
import json
import os
import pathlib
import shlex
import sys
import tempfile
import time

import jax

from benchmarks import compute_jobs, compute_worker, machine
from benchmarks import program as compiled_program
from benchmarks.compute_cases import CASES

WARM_UP = 3  # steps before the first that is timed
REPEATS = 4  # groups of steps that are timed
SHOWN = 40  # kernels of the page


def main() -> int:
    """Profiles one case."""
    options = parse()
    case = {case.name: case for case in CASES[options.device]}[options.case]
    config = compute_jobs.configure(case, options)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            job = compute_jobs.write_arrays(config, folder)
        job |= {"training": case.training, "device": options.device}
        side = compute_worker.ctjax_side(job)
    side.step()
    side.wait()
    first_s = time.perf_counter() - start
    seconds = timed(side, options.steps)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(options.steps):
                side.step()
            side.wait()
        events = read_trace(pathlib.Path(folder))
    result = {
        "command": f"python -m benchmarks.profile {shlex.join(sys.argv[1:])}",
        "machine": machine.describe("jax", "jaxlib", "flax", "triton", "numpy"),
        "device": side.more["device"],
        "case": case.name,
        "words": case.words,
        "precision": config.run.precision.value,
        "minibatch_size": config.run.minibatch_size,
        "first_s": first_s,
        "step_s": seconds,
        "images_per_s": config.run.minibatch_size / min(seconds),
        "peak_bytes": side.peak(),
        "kernels": kernels_of(events, options.steps, side.program or ""),
    }
    write(result, side.program or "", options.output)
    return 0


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.profile",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", choices=("cpu", "gpu"), default="gpu")
    parser.add_argument("--case", required=True, help="of benchmarks.compute")
    parser.add_argument("--steps", type=int, default=4, help="that are profiled")
    parser.add_argument(
        "--fields", type=json.loads, default={}, help="as of benchmarks.compute"
    )
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("profiles"))
    options = parser.parse_args()
    names = [case.name for case in CASES[options.device]]
    if options.case not in names:
        parser.error(f"--case: expected one of {', '.join(names)}")
    options.cpus = sorted(os.sched_getaffinity(0))
    return options


def timed(side: compute_worker.Side, steps: int) -> list[float]:
    """Seconds of a step, of some groups of steps."""
    for _ in range(WARM_UP):
        side.step()
    side.wait()
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        for _ in range(steps):
            side.step()
        side.wait()
        seconds.append((time.perf_counter() - start) / steps)
    return seconds


def read_trace(folder: pathlib.Path) -> list[dict]:
    """The events that the profiler has written into a folder."""
    (path,) = folder.rglob("*.trace.json.gz")
    with gzip.open(path) as file:
        return json.load(file)["traceEvents"]


def kernels_of(events: list[dict], steps: int, text: str) -> list[dict]:
    """Sums a trace over its kernels.

    Args:
      events: of the profiler. On a GPU those of its streams count, elsewhere those that
        name an operation of the program.
      steps: that were profiled.
      text: of the program; "" for none.

    Returns:
      "name", "operation" of the program, "source" in JAX, "launches" and "ms" a step,
      and "bytes" that all launches of a step move, None where the program does not
      say; the longest first.
    """
    names: dict = collections.defaultdict(str)
    for event in events:
        if event.get("name") in ("process_name", "thread_name"):
            thread = event.get("tid") if event["name"] == "thread_name" else None
            names[event["pid"], thread] = event["args"]["name"]
    moved = {}
    if text:
        program = compiled_program.parse(text)
        moved = {kernel.name: kernel for kernel in compiled_program.kernels(program)}
    sums: dict = collections.defaultdict(lambda: [0, 0.0])
    is_gpu = any("GPU" in name for name in names.values())
    for event in events:
        if event.get("ph") != "X":
            continue
        operation = event.get("args", {}).get("hlo_op", "")
        on_stream = "Stream" in names[event["pid"], event.get("tid")]
        if on_stream if is_gpu else operation:
            total = sums[event["name"], operation]
            total[0] += 1
            total[1] += event["dur"]
    rows = []
    for (name, operation), (launches, microseconds) in sums.items():
        kernel = moved.get(operation)
        bytes_ = (kernel.read + kernel.written) * kernel.launches if kernel else None
        rows.append(
            {
                "name": name,
                "operation": operation,
                "source": kernel.source if kernel else "",
                "launches": launches / steps,
                "ms": microseconds / steps / 1e3,
                "bytes": bytes_,
            }
        )
    return sorted(rows, key=lambda row: -row["ms"])


def page(result: dict) -> list[str]:
    """The lines of a profile."""
    rows = result["kernels"]
    total = sum(row["ms"] for row in rows)
    lines = [
        f"# {result['words']}, {result['precision']}, minibatch "
        f"{result['minibatch_size']}",
        "",
        f"- Command: `{result['command']}`",
        f"- Machine: {result['device']}; {machine.words(result['machine'])}",
        f"- {result['images_per_s']:.3g} images/s, "
        f"{1e3 * min(result['step_s']):.2f} ms a step; of the kernels {total:.2f} ms, "
        f"{sum(row['launches'] for row in rows):.0f} launches",
        f"- First step after {result['first_s']:.0f} s; peak memory "
        f"{result['peak_bytes'] / 1e9:.2f} GB",
        "",
        "| kernel | operation | launches | ms | GB/s | of |",
        "|---|---|---:|---:|---:|---|",
    ]
    for row in rows[:SHOWN]:
        rate = ""
        if row["bytes"] and row["ms"]:
            rate = f"{row['bytes'] / row['ms'] / 1e6:.0f}"
        lines.append(
            f"| {row['name'][:80]} | {row['operation']} | {row['launches']:.0f} | "
            f"{row['ms']:.3f} | {rate} | {row['source'][-80:]} |"
        )
    rest = sum(row["ms"] for row in rows[SHOWN:])
    return [*lines, f"| {len(rows[SHOWN:])} more | | | {rest:.3f} | | |", ""]


def write(result: dict, text: str, folder: pathlib.Path) -> None:
    """Writes the profile, its page and the program."""
    folder.mkdir(parents=True, exist_ok=True)
    name = result["case"]
    content = json.dumps(result, indent=1) + "\n"
    (folder / f"{name}.profile.json").write_text(content)
    (folder / f"{name}.profile.md").write_text("\n".join(page(result)))
    with gzip.open(folder / f"{name}.program.gz", "wt") as file:
        file.write(text)
    sys.stdout.write("\n".join(page(result)))


if __name__ == "__main__":
    sys.exit(main())
