"""Images a second of ctjax's steps beside PyTorch's: same network, data, precision.

    python -m benchmarks.compute --device cpu --output docs/benchmarks

Tasks 2, 3 and 4 of the competition guide and the a21 network at 640 x 1024; on a CPU
those that fit, at sizes that fit, and the networks beside UResNet, which have neither
a peer in PyTorch nor a roofline. Each contender is a process of its own. It starts
beside ctjax's, both get the same minibatch and weights, and blocks of steps of the two
alternate: a row is the median of the blocks, a ratio that of neighbouring blocks. The
memory's bandwidth and the rate of matrix products are measured in the same run, by both
frameworks, and the better counts. Writes compute_cpu.json or compute_gpu.json, and
compute.md of what is there of both.
"""

import argparse
import dataclasses
import importlib.util
import json
import math
import os
import pathlib
import runpy
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from benchmarks import compute_report, machine, roofline
from ctjax.config import fields as config_fields
from ctjax.config import resolve
from ctjax.models import torch_weights
from ctjax.models.kernels import cpu
from ctjax.runs import parts

ROOT = pathlib.Path(__file__).parent.parent
MOST_STEPS = 100  # of a block
GPU_LIMIT_S = 480.0
BLOCK_S = {"gpu": 0.3, "cpu": 1.0}
GRACE_S = 30.0  # for ctjax's process, which is to outlive all that it is compared with


@dataclasses.dataclass(frozen=True)
class Case:
    """A network, what is done with it, and on how much at a time.

    Attributes:
      name: short, for the command line.
      words: for the table.
      network: the file of configs/ that has it.
      training: whether it trains, else it predicts.
      precision: a value of run.precision.
      downsample: halvings of 1280 x 2048.
      minibatch_size: events.
      share: weight of this case when the time left is divided among the cases left.
    """

    name: str
    words: str
    network: str
    training: bool
    precision: str
    downsample: int
    minibatch_size: int
    share: float = 1.0


CASES = {
    "gpu": (
        Case("task2", "Task 2: training", "scc21", True, "float32", 2, 8, 3),
        Case("task3", "Task 3: training", "scc21", True, "bfloat16", 0, 1, 4),
        Case("task4", "Task 4: inference", "scc21", False, "bfloat16", 0, 2, 3),
        Case("a21-inference", "a21: inference", "a21", False, "float32", 1, 8),
        Case("a21", "a21: training", "a21", True, "float32", 1, 8),
    ),
    "cpu": (
        Case("task2", "Task 2: training", "scc21", True, "float32", 2, 1),
        Case("task4", "Task 4, smaller: inference", "scc21", False, "float32", 2, 1),
        Case("a21", "a21: training", "a21", True, "float32", 1, 1),
        Case("a21-inference", "a21: inference", "a21", False, "float32", 1, 1),
        Case("uresnet3d", "uresnet3d: training", "uresnet3d", True, "float32", 2, 1),
        Case("segformer", "segformer: training", "segformer", True, "float32", 2, 1),
        Case("cvt", "cvt: training", "cvt", True, "float32", 3, 1),
    ),
}


@dataclasses.dataclass(frozen=True)
class Contender:
    """What ctjax is compared with.

    Attributes:
      options: of PyTorch; None for ctjax itself, otherwise set up.
      environment: of its process, beside this one's.
      fields: changes to the configuration.
    """

    options: dict[str, bool] | None
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    fields: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)


EAGER = {"channels_last": False, "compile": False}
CHANNELS_LAST = {"channels_last": True, "compile": False}

CONV_FUSION = "--xla_gpu_experimental_enable_conv_fusion=true"

CONTENDERS = {
    "channels-last": Contender(CHANNELS_LAST),
    "compile": Contender({"channels_last": True, "compile": True}),
    "eager": Contender(EAGER),
    "fused": Contender(None, fields={"network": {"kernels": "fused"}}),
    "conv-fusion": Contender(
        None, {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {CONV_FUSION}"}
    ),
}

USUAL = {
    "cpu": ["channels-last", "compile", "eager"],
    "gpu": ["channels-last", "fused", "eager", "compile", "conv-fusion"],
}
"""Those of a run that names none; the last are left out where time runs out."""


class WorkerError(RuntimeError):
    """A process that ended or had to be ended; the message says why."""


class Worker:
    """A process of benchmarks/compute_worker.py."""

    def __init__(
        self,
        job: dict,
        folder: str,
        deadline: float,
        changes: Mapping[str, str] = types.MappingProxyType({}),
    ):
        """Starts it; past the deadline (of time.monotonic) it is ended."""
        self._deadline = deadline
        environment = os.environ | {
            # Each side compiles anew, and takes the memory that it needs.
            "JAX_COMPILATION_CACHE_DIR": os.path.join(folder, "jax"),
            "TORCHINDUCTOR_CACHE_DIR": os.path.join(folder, "inductor"),
            "TRITON_CACHE_DIR": os.path.join(folder, "triton"),
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            **changes,
        }
        self._log = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.compute_worker", json.dumps(job)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> "Worker":
        """Nothing to do."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Ends the process and what it started."""
        self._end()
        self._process.wait()
        for channel in (self._process.stdin, self._process.stdout, self._log):
            try:
                channel.close()
            except BrokenPipeError:
                continue

    def _end(self) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def tell(self, word: object) -> dict:
        """Sends a line and returns the answer."""
        try:
            self._process.stdin.write(f"{word}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer says it
        return self.answer()

    def answer(self) -> dict:
        """Waits for one line."""
        timer = threading.Timer(
            max(0.0, min(self._deadline - time.monotonic(), 1e6)), self._end
        )
        timer.daemon = True
        timer.start()
        line = self._process.stdout.readline()
        timer.cancel()
        if line:
            return json.loads(line)
        if time.monotonic() > self._deadline:
            raise WorkerError("ended: the time for this case was over")
        self._log.seek(0)
        lines = [line for line in self._log.read().splitlines() if line.strip()]
        raise WorkerError(lines[-1].strip() if lines else "ended without a word")


def main() -> int:
    """Runs the cases and writes the report."""
    options = parse()
    # This process makes data and weights alone; the device is the workers'.
    jax.config.update("jax_platforms", "cpu")
    deadline = math.inf
    if options.limit_s > 0:
        deadline = time.monotonic() + options.limit_s
    cases = [
        (case, configure(case, options))
        for case in CASES[options.device]
        if not options.cases or case.name in options.cases
    ]
    precisions = {config.run.precision.value for _, config in cases}
    packages = ("jax", "jaxlib", "flax", "optax", "torch", "numpy")
    packages = [name for name in packages if importlib.util.find_spec(name)]
    result = {
        "command": f"python -m benchmarks.compute {shlex.join(sys.argv[1:])}".strip(),
        "machine": machine.describe(*packages),
        "device": options.device,
        "threads": len(options.cpus),
        "convolutions": (
            f"C, vectors of {cpu.vector_lanes()}" if cpu.are_usable() else "XLA"
        ),
        "repeats": options.repeats,
        "limits": measure_limits(options, precisions, deadline),
        "cases": [],
    }
    for number, (case, config) in enumerate(cases):
        # What a case does not use of its share, those behind it may.
        until = deadline
        if deadline < math.inf:
            now = time.monotonic()
            shares = sum(later.share for later, _ in cases[number:])
            until = now + (deadline - now) * case.share / shares
        found = run_case(case, config, options, result["limits"], until)
        result["cases"].append(found)
        sys.stdout.write("\n".join(compute_report.rows_of(found)) + "\n")
        sys.stdout.flush()
        # After each: what is done stays, whatever happens to the next.
        compute_report.write(result, options.output)
    sys.stdout.write(f"Results: {options.output.resolve() / 'compute.md'}\n")
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
        "--cases",
        type=words,
        help="some of task2,task3,task4,a21,a21-inference,uresnet3d,segformer,cvt",
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
        "--fields",
        type=json.loads,
        default={},
        help='changes to every configuration, {"data": {"downsample": 4}}',
    )
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("compute"))
    options = parser.parse_args()
    if options.limit_s is None:
        options.limit_s = GPU_LIMIT_S if options.device == "gpu" else 0.0
    if options.block_s is None:
        options.block_s = BLOCK_S[options.device]
    if options.contenders is None:
        options.contenders = USUAL[options.device]
    cpus = sorted(os.sched_getaffinity(0))
    options.cpus = cpus[: options.threads or None]
    return options


def configure(case: Case, options: argparse.Namespace) -> config_fields.Config:
    """The configuration of a case."""
    path = ROOT / "configs" / f"{case.network}.py"
    config = runpy.run_path(str(path))["get_config"]()
    config.run.minibatch_size = case.minibatch_size
    config.run.precision = case.precision
    config.run.compute_mode = options.device.upper()
    config.data.synthetic = True
    config.data.downsample = case.downsample
    # What the peer has: Adam at one learning rate.
    config.mode.optimizer.lr_schedule = "flat"
    config.update(options.fields)
    return resolve.resolve(config)


def write_arrays(config: config_fields.Config, folder: str) -> dict[str, Any]:
    """Writes a minibatch and initial weights; returns the part of a job about them."""
    size = config.run.minibatch_size
    with parts.open_events(config.data, "", require_label=True) as source:
        with parts.read_events(config.data, source, [np.arange(size)]) as reader:
            arrays = parts.step_arrays(next(reader))._asdict()
            np.savez(os.path.join(folder, "minibatch.npz"), **arrays)
        image_shape = source.image_shape
    _, variables = parts.make_network(config, image_shape)
    weights = torch_weights.from_variables(variables)
    np.savez(os.path.join(folder, "weights.npz"), **weights)
    return {
        "minibatch": os.path.join(folder, "minibatch.npz"),
        "weights": os.path.join(folder, "weights.npz"),
        "config": config_fields.to_dict(config),
        "image_shape": list(image_shape),
        "parameters": sum(
            array.size for name, array in weights.items() if ".running_" not in name
        ),
    }


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
) -> dict:
    """All contenders of a case."""
    precision = config.run.precision.value
    loads = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as folder:
        job = write_arrays(config, folder) | {
            "training": case.training,
            "device": options.device,
            "cpus": options.cpus,
        }
        if not isinstance(config.network, config_fields.Network):
            # Neither a roofline nor a peer.
            least_s = {}
            options = argparse.Namespace(**vars(options) | {"contenders": []})
        else:
            least_s = roofline.seconds(
                config.network,
                tuple(job["image_shape"]),
                case.training,
                4 if precision == "float32" else 2,
                limits["best"]["bytes"],
                limits["best"][precision],
            )
        found = dataclasses.asdict(case) | {
            "precision": precision,
            "downsample": config.data.downsample,
            "minibatch_size": config.run.minibatch_size,
            "image_shape": job["image_shape"],
            "parameters": job["parameters"],
            "least_s": least_s,
        }
        found["rows"] = measure(job, options, folder, deadline)
    found["load_averages"] = [*loads, os.getloadavg()[0]]
    for row in found["rows"]:
        compute_report.summarize(row, found)
    return found


def measure(
    job: dict,
    options: argparse.Namespace,
    folder: str,
    deadline: float,
    contenders: Mapping[str, Contender] = types.MappingProxyType(CONTENDERS),
) -> list[dict]:
    """Rows of ctjax and of the contenders, each measured beside ctjax."""
    ours: dict[str, Any] = {"contender": "ctjax", "seconds": [], "processor_s": []}
    rows = [ours]
    our_job = job | {"framework": "ctjax", "contender": None}
    # Each in a folder of its own: none finds what another has compiled.
    with Worker(our_job, os.path.join(folder, "ctjax"), deadline + GRACE_S) as a:
        try:
            ours |= a.answer()
        except WorkerError as error:
            ours["failed"] = str(error)
        for name in options.contenders:
            row: dict[str, Any] = {"contender": name, "seconds": [], "processor_s": []}
            rows.append(row)
            if time.monotonic() > deadline:
                row["failed"] = "left out: the time for this case was over"
                continue
            contender = contenders[name]
            theirs = job | {
                "framework": "ctjax" if contender.options is None else "torch",
                "contender": contender.options,
                "config": job["config"]
                | {
                    section: job["config"][section] | changes
                    for section, changes in contender.fields.items()
                },
            }
            where, environment = os.path.join(folder, name), contender.environment
            with Worker(theirs, where, deadline, environment) as b:
                try:
                    row |= b.answer()
                    alternate(a, b, ours, row, options)
                    row |= b.tell("end")
                except WorkerError as error:
                    row["failed"] = str(error)
        if not ours["seconds"]:
            for _ in range(options.repeats):
                attempt(a, ours, options)
        if "failed" not in ours:
            try:
                ours |= a.tell("end")
            except WorkerError as error:
                ours["failed"] = str(error)
    return rows


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
