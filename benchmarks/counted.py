"""Counts what the steps move through the memory of an H100, without one.

    python -m benchmarks.counted --cases task3 --output docs/benchmarks

jaxlib's CUDA plugin (`pip install "jax[cuda12]"`) compiles the steps of the cases of
benchmarks/compute.py for a description of the device. The program says which kernels
run and which arrays each reads and writes (benchmarks/program.py); what the same
network must move is benchmarks/roofline.py's. Which of cuDNN's algorithms computes a
convolution is chosen on the device, and does not change these figures. Writes
gpu/counted.json, and gpu.md with it.
"""

import argparse
import contextlib
import json
import pathlib
import shlex
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding

from benchmarks import (
    compute_history,
    compute_jobs,
    compute_worker,
    machine,
    roofline,
)
from benchmarks import program as compiled_program
from benchmarks.compute_cases import CASES
from ctjax.base.detector import COSMIC_TAGGER
from ctjax.config import fields
from ctjax.learning import sharding
from ctjax.learning.precision import POLICIES
from ctjax.runs import parts

NUM_PLANES = COSMIC_TAGGER.num_planes

H100 = """
gpu_device_info {
  name: "NVIDIA H100 80GB HBM3"
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84942979072
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
runtime_version { major: 12 minor: 8 }
dnn_version_info { major: 9 minor: 10 }
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
"""
"""What the compiler asks of a device, from NVIDIA's data sheet and CUDA's own query."""

COMPILER_OPTIONS = {"xla_gpu_autotune_level": 0}  # there is nothing to time on


def main() -> int:
    """Counts the cases and writes the page."""
    options = parse()
    jax.config.update("jax_platforms", "cpu")
    folder = options.output / "gpu"
    here = machine.describe("jax", "jaxlib", "flax", "numpy")
    for case in CASES["gpu"]:
        if options.cases and case.name not in options.cases:
            continue
        if case.network == "sparse":
            continue  # what it moves depends on the event
        for kernels in options.kernels:
            changes = {**options.fields}
            changes["network"] = {**changes.get("network", {}), "kernels": kernels}
            arguments = argparse.Namespace(device="cpu", fields=changes)
            config = compute_jobs.configure(case, arguments)
            found = count(config, case.training)
            found |= {
                "name": case.name,
                "words": case.words,
                "network_kernels": kernels,
            }
            found["command"] = (
                f"python -m benchmarks.counted {shlex.join(sys.argv[1:])}"
            )
            found["machine"] = here
            compute_history.keep_count(found, folder)
            sys.stdout.write("\n".join(compute_history.counted_rows([found])) + "\n")
            sys.stdout.flush()
    compute_history.write_page(options.output)
    return 0


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.counted",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    words = lambda text: text.split(",")  # noqa: E731
    parser.add_argument("--cases", type=words, help="those of benchmarks.compute")
    parser.add_argument(
        "--kernels", type=words, default=["xla", "auto"], help="of network.kernels"
    )
    parser.add_argument(
        "--fields", type=json.loads, default={}, help="as of benchmarks.compute"
    )
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("compute"))
    return parser.parse_args()


def count(config: fields.Config, training: bool) -> dict[str, Any]:
    """Counts a step's kernels and bytes.

    Args:
      config: of the step.
      training: whether it trains, else it predicts.

    Returns:
      What `program.summarize` says, the temporary memory, the bytes of rows A, B and C
      of the same minibatch, and the first over that of row B.
    """
    shape = image_shape(config)
    size = np.dtype(POLICIES[config.run.precision].compute_type).itemsize
    events = config.run.minibatch_size
    compiled = compile_step(config, training)
    image = NUM_PLANES * shape[0] * shape[1] * config.network.n_initial_filters
    found = compiled_program.summarize(
        compiled_program.kernels(compiled_program.parse(compiled.as_text())),
        image * size * events,
    )
    found["temporary_bytes"] = compiled.memory_analysis().temp_size_in_bytes
    elements = roofline.elements(config.network, shape, training)
    found["least_bytes"] = {
        row: number * size * events for row, number in elements.items()
    }
    found["over"] = {
        row: found["bytes"] / least for row, least in found["least_bytes"].items()
    }
    return found | {
        "precision": config.run.precision.value,
        "image_shape": shape,
        "minibatch_size": events,
        "training": training,
    }


def image_shape(config: fields.Config) -> tuple[int, int]:
    """Returns the rows and columns of a configuration's images."""
    with parts.open_events(config.data, "", require_label=True) as source:
        return source.image_shape


def compile_step(config: fields.Config, training: bool) -> Any:
    """Compiles a step for an H100; its text and memory can be read, it cannot run."""
    topology = topologies.get_topology_desc(
        topology_name="H100", platform="cuda", target_config=H100, topology="1x1x1"
    )
    mesh = Mesh(np.asarray(topology.devices), (sharding.EVENT_AXIS,))
    minibatch, shape = compute_worker.read_minibatch(config)
    with as_on_gpu():
        model, variables = parts.make_network(config, shape)
        program, held = compute_worker.make_program(
            training, config, model, {"batch_stats": {}} | variables, shape, mesh
        )
        arguments: tuple = (minibatch,)
        if training:
            arguments += (minibatch.mask,)
        held = _placed(held, NamedSharding(mesh, sharding.REPLICATED))
        arguments = _placed(arguments, NamedSharding(mesh, sharding.BY_EVENT))
        return program.lower(held, *arguments).compile(COMPILER_OPTIONS)


@contextlib.contextmanager
def as_on_gpu() -> Iterator[None]:
    """Lets what is chosen by the backend be chosen as where it is a GPU."""
    default_backend = jax.default_backend
    jax.default_backend = lambda: "gpu"
    try:
        yield
    finally:
        jax.default_backend = default_backend


def _placed(tree: Any, where: NamedSharding) -> Any:
    """Returns the shapes of a tree's arrays, on a device that may not be there."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=where), tree
    )


if __name__ == "__main__":
    sys.exit(main())
