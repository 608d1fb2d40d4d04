"""Images a second of ctjax's steps beside PyTorch's: same network, data, precision.

    python -m benchmarks.compute --device cpu --output docs/benchmarks

Tasks 2, 3 and 4 of the competition guide and the a21 network at 640 x 1024; on a CPU
those that fit, at sizes that fit, and ctjax's other networks alone. Each contender is a
process of its own. It starts beside ctjax's, both get the same minibatch and weights,
and blocks of steps of the two alternate: a row is the median of the blocks, a ratio
that of neighbouring blocks. The memory's bandwidth and the rate of matrix products are
measured in the same run, by both frameworks, and the better counts. Writes
compute_cpu.json and compute.md; on a GPU gpu/COMMIT.json and gpu.md, which has the
figures of all commits. There every contender has a time of its own, what it compiles
may be kept, results are written after each, and a run adds to those of its commit.
"""

import argparse
import dataclasses
import json
import math
import os
import pathlib
import shlex
import sys
import tempfile
import time
import types
from collections.abc import Callable, Mapping
from typing import Any

import jax

from benchmarks import (
    compute_history,
    compute_jobs,
    compute_report,
    machine,
    roofline,
)
from benchmarks.compute_cases import CASES, CONTENDERS, USUAL, Case, Contender
from benchmarks.compute_process import Worker, WorkerError, has_files
from ctjax.config import fields as config_fields
from ctjax.models.kernels import cpu

MOST_STEPS = 100  # of a block
GPU_LIMIT_S = 480.0
BLOCK_S = {"gpu": 0.3, "cpu": 1.0}
GRACE_S = 30.0  # for ctjax's process, which is to outlive all that it is compared with


def main() -> int:
    """Runs the cases and writes the report."""
    options = parse()
    # This process makes data and weights alone; the device is the workers'.
    jax.config.update("jax_platforms", "cpu")
    deadline = math.inf
    if options.limit_s > 0:
        deadline = time.monotonic() + options.limit_s
    cases = [
        (case, compute_jobs.configure(case, options))
        for case in CASES[options.device]
        if not options.cases or case.name in options.cases
    ]
    precisions = {config.run.precision.value for _, config in cases}
    packages = ("jax", "jaxlib", "flax", "optax", "torch", "triton", "jax-triton")
    result = {
        "command": f"python -m benchmarks.compute {shlex.join(sys.argv[1:])}".strip(),
        "machine": machine.describe(*packages, "numpy"),
        "device": options.device,
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "threads": len(options.cpus),
        "convolutions": (
            f"C, vectors of {cpu.vector_lanes()}" if cpu.are_usable() else "XLA"
        ),
        "repeats": options.repeats,
        "limits": measure_limits(options, precisions, deadline),
        "cases": [],
    }
    before = compute_history.read(result, options.output)
    for number, (case, config) in enumerate(cases):
        # What a case does not use of its part, those behind it may.
        until = deadline
        if deadline < math.inf:
            now = time.monotonic()
            until = now + (deadline - now) / (len(cases) - number)

        def write(found, before=before):
            # After each contender: what is done stays, whatever happens to the next.
            result["cases"] = compute_history.merge(before, found)
            pages = {"cpu": compute_report, "gpu": compute_history}
            pages[options.device].write(result, options.output)

        found = run_case(case, config, options, result["limits"], until, before, write)
        before = result["cases"]
        sys.stdout.write("\n".join(compute_report.rows_of(found)) + "\n")
        sys.stdout.flush()
    page = "compute.md" if options.device == "cpu" else "gpu.md"
    sys.stdout.write(f"Results: {options.output.resolve() / page}\n")
    return 0


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compute",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    words = lambda text: text.split(",")  # noqa: E731
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument(
        "--cases", type=words, help=f"some of {','.join(c.name for c in CASES['cpu'])}"
    )
    parser.add_argument(
        "--contenders",
        type=words,
        help=f"some of {','.join(CONTENDERS)}; unless given {','.join(USUAL['cpu'])}, "
        f"and on a GPU {','.join(USUAL['gpu'])}",
    )
    parser.add_argument("--repeats", type=int, default=7, help="blocks of a contender")
    parser.add_argument(
        "--block-s", type=float, help="least seconds of a block (1; on a GPU 0.3)"
    )
    parser.add_argument("--threads", type=int, default=0, help="0: every CPU")
    parser.add_argument(
        "--limit-s",
        type=float,
        help=f"end the run after so long (0: never; on a GPU {GPU_LIMIT_S:g})",
    )
    parser.add_argument(
        "--keep",
        type=pathlib.Path,
        help="folder where each contender keeps what it compiles for later runs",
    )
    parser.add_argument(
        "--fields",
        type=json.loads,
        default={},
        help='changes to every configuration, {"data": {"downsample": 4}}',
    )
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("compute"))
    options = parser.parse_args()
    options.keep = options.keep and options.keep.resolve()
    if options.limit_s is None:
        options.limit_s = GPU_LIMIT_S if options.device == "gpu" else 0.0
    if options.block_s is None:
        options.block_s = BLOCK_S[options.device]
    if options.contenders is None:
        options.contenders = USUAL[options.device]
    cpus = sorted(os.sched_getaffinity(0))
    options.cpus = cpus[: options.threads or None]
    return options


def measure_limits(
    options: argparse.Namespace, precisions: set[str], deadline: float
) -> dict:
    """Bandwidth and matrix rates, by framework and the better of both."""
    found = {}
    for framework in ("ctjax", "torch"):
        job = {
            "framework": framework,
            "contender": "limits",
            "device": options.device,
            "cpus": options.cpus,
            "precisions": sorted(precisions),
        }
        with (
            tempfile.TemporaryDirectory() as folder,
            Worker(job, folder, deadline) as worker,
        ):
            try:
                found[framework] = worker.answer()
            except WorkerError as error:
                if framework == "ctjax":
                    raise SystemExit(f"benchmarks.compute: {error}") from error
                sys.stderr.write(f"torch: {error}\n")
    best = {key: max(side[key] for side in found.values()) for key in found["ctjax"]}
    return found | {"best": best}


def run_case(
    case: Case,
    config: config_fields.Config,
    options: argparse.Namespace,
    limits: dict,
    deadline: float,
    before: list[dict],
    write: Callable[[dict], None],
) -> dict:
    """Runs all contenders of a case.

    Args:
      case: what to run.
      config: of it, with the changes of the command line.
      options: of the command line.
      limits: of the machine.
      deadline: of time.monotonic.
      before: cases of earlier runs of this commit; contenders that have no row there
        come first.
      write: takes the case with the rows so far, after each contender.

    Returns:
      The case with its rows.
    """
    loads = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as folder:
        job = compute_jobs.write_arrays(config, folder) | {
            "training": case.training,
            "device": options.device,
            "cpus": options.cpus,
        }
        found = describe(case, config, job, limits["best"])

        def add(rows):
            found["rows"] = rows
            found["load_averages"] = [*loads, os.getloadavg()[0]]
            for row in rows:
                compute_report.summarize(row, found)
            write(found)

        names = (
            options.contenders if found["least_s"] else []
        )  # none of another network
        names = list(case.contenders) or names
        names = compute_history.missing_first(before, found, names)
        add(measure(job, options, folder, deadline, names, add))
    return found


def describe(
    case: Case, config: config_fields.Config, job: dict, limits: dict
) -> dict[str, Any]:
    """Returns a case without rows, with the least time of a step.

    Args:
      case: as it is listed.
      config: of it.
      job: see `compute_jobs.write_arrays`.
      limits: of the machine, the best of both frameworks.
    """
    precision = config.run.precision.value
    least_s = roofline.seconds(
        config.network,
        tuple(job["image_shape"]),
        case.training,
        4 if precision == "float32" else 2,
        limits["bytes"],
        limits[precision],
    )
    return dataclasses.asdict(case) | {
        "precision": precision,
        "downsample": config.data.downsample,
        "minibatch_size": config.run.minibatch_size,
        "image_shape": job["image_shape"],
        "parameters": job["parameters"],
        "least_s": least_s,
    }


def measure(
    job: dict,
    options: argparse.Namespace,
    folder: str,
    deadline: float,
    names: list[str],
    add: Callable[[list[dict]], None] = lambda rows: None,
    contenders: Mapping[str, Contender] = types.MappingProxyType(CONTENDERS),
) -> list[dict]:
    """Measures ctjax and the contenders, each beside ctjax.

    Args:
      job: of the workers, but for framework and contender.
      options: of the command line.
      folder: for what is not kept.
      deadline: of time.monotonic.
      names: of the contenders.
      add: takes the rows so far, after each contender.
      contenders: by name.

    Returns:
      The rows, ctjax's first.
    """
    ours: dict[str, Any] = {"contender": "ctjax", "seconds": [], "processor_s": []}
    rows = [ours]
    our_job = job | {"framework": "ctjax", "contender": None}
    # Each in a folder of its own: none finds what another has compiled.
    kept = options.keep or pathlib.Path(folder)
    ours["is_kept"] = has_files(kept / "ctjax")
    with Worker(our_job, str(kept / "ctjax"), deadline + GRACE_S) as a:
        try:
            ours |= a.answer()
        except WorkerError as error:
            ours["failed"] = str(error)
        for name in names:
            row: dict[str, Any] = {"contender": name, "seconds": [], "processor_s": []}
            rows.append(row)
            if time.monotonic() > deadline:
                row["failed"] = "left out: the time for this case was over"
                continue
            contender = contenders[name]
            row["is_kept"] = has_files(kept / name)
            theirs = _job_of(contender, job)
            until = deadline
            if deadline < math.inf:
                until = min(deadline, time.monotonic() + contender.limit_s)
            where, environment = str(kept / name), contender.environment
            with Worker(theirs, where, until, environment) as b:
                try:
                    row |= b.answer()
                    alternate(a, b, ours, row, options)
                    row |= b.tell("end")
                except WorkerError as error:
                    row["failed"] = str(error)
            add(rows)
        _finish(a, ours, options)
    return rows


def _finish(a: Worker, ours: dict, options: argparse.Namespace) -> None:
    """Measures ctjax where no contender did, and ends its worker."""
    if not ours["seconds"]:
        for _ in range(options.repeats):
            attempt(a, ours, options)
    if "failed" not in ours:
        try:
            ours |= a.tell("end")
        except WorkerError as error:
            ours["failed"] = str(error)


def _job_of(contender: Contender, job: dict) -> dict:
    """Returns the job of a contender's worker, with its fields changed."""
    changed = {
        section: job["config"][section] | changes
        for section, changes in contender.fields.items()
    }
    return job | {
        "framework": "ctjax" if contender.options is None else "torch",
        "contender": contender.options,
        "config": job["config"] | changed,
    }


def alternate(
    a: Worker, b: Worker, ours: dict, row: dict, options: argparse.Namespace
) -> None:
    """Blocks of ctjax and of a contender in turn; pairs are (ctjax, contender)."""
    row |= {"pairs": [], "processor_pairs": []}
    for _ in range(options.repeats):
        attempt(a, ours, options)
        block(b, row, options)
        if "failed" not in ours:
            row["pairs"].append([ours["seconds"][-1], row["seconds"][-1]])
            row["processor_pairs"].append(
                [ours["processor_s"][-1], row["processor_s"][-1]]
            )


def attempt(a: Worker, ours: dict, options: argparse.Namespace) -> None:
    """A block of ctjax, whose end is not the contender's."""
    if "failed" in ours:
        return
    try:
        block(a, ours, options)
    except WorkerError as error:
        ours["failed"] = str(error)


def block(worker: Worker, row: dict, options: argparse.Namespace) -> None:
    """Adds the seconds of a step, the mean of a block, by the clock and computed."""
    count = min(MOST_STEPS, max(1, math.ceil(options.block_s / row["one_s"])))
    answer = worker.tell(count)
    row["seconds"].append(answer["seconds"] / count)
    row["processor_s"].append(answer["processor_s"] / count)
    row.setdefault("faults", []).append(answer["faults"] / count)


if __name__ == "__main__":
    sys.exit(main())
