"""The largest minibatch for a device's memory, counted, and what `run.remat` saves.

Counted without running anything: a training step is traced on shapes alone, and the
arrays that it keeps from the forward for the backward pass are summed. The largest
piece of what is computed twice, two of the largest array for what is under way and the
training state come on top. Measured on the device that is there: the memory of compiled
steps, and their time, by turns.

    python -m benchmarks.memory --output docs/benchmarks/memory.md
"""

import argparse
import dataclasses
import functools
import math
import pathlib
import shlex
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import levers, machine
from ctjax.base.detector import COSMIC_TAGGER
from ctjax.config.fields import Network, Normalization, Precision, Remat, Run
from ctjax.learning.precision import POLICIES
from ctjax.models import UResNet, blocks

NUM_PLANES = COSMIC_TAGGER.num_planes

NETWORKS = ("uresnet", "scc21_master", "a21")
SHAPES = ((1280, 2048), (640, 1024), (320, 512))
PRECISIONS = (Precision.FLOAT32, Precision.BFLOAT16)
DEVICES_GB = (16, 40, 80, 141)
USABLE = 0.9  # of a device's memory; the rest is the compiler's and the driver's
ADAM_COPIES = 4  # parameters, two moments, gradients; float32


def num_bytes(tree: Any) -> int:
    """Bytes of all arrays, or shapes of arrays, of a tree."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def kept_bytes(function: Callable, variables: Any, x: Any) -> int:
    """Bytes that the gradient of a function keeps, apart from its variables.

    Args:
      function: of variables and an array.
      variables: shapes.
      x: shape.

    Returns:
      Bytes of the arrays between its forward and its backward pass, each once.
    """

    def kept(variables, x):
        _, pullback = jax.vjp(function, variables, x)
        given = {id(leaf) for leaf in jax.tree.leaves(variables)}
        arrays = {id(leaf): leaf for leaf in jax.tree.leaves(pullback)}
        return [leaf for key, leaf in arrays.items() if key not in given]

    return num_bytes(jax.eval_shape(kept, variables, x))


def event_bytes(
    network: Network, shape: tuple[int, int], precision: Precision, remat: Remat
) -> int:
    """Bytes of a training step for every event of its minibatch."""
    dtype = POLICIES[precision].compute_type
    image = jax.ShapeDtypeStruct((1, NUM_PLANES, *shape), jnp.float32)
    model = UResNet(network, dtype, remat=remat)

    def logits(variables, image):
        return model.apply(variables, image, train=True, mutable=["batch_stats"])[0]

    kept = kept_bytes(logits, variables_of(network), image)
    features = network.n_initial_filters
    largest = NUM_PLANES * math.prod(shape) * features * jnp.dtype(dtype).itemsize
    return kept + twice_bytes(network, shape, dtype, remat) + 2 * largest


def twice_bytes(
    network: Network, shape: tuple[int, int], dtype: Any, remat: Remat
) -> int:
    """Bytes of the largest piece that is computed twice, per event."""
    if remat is Remat.NONE:
        return 0
    features = network.n_initial_filters
    block = functools.partial(
        blocks.Block,
        features=features,
        kernel_size=3,
        bias=network.bias,
        normalization=network.normalization,
        num_planes=NUM_PLANES,
        dtype=dtype,
    )
    length = max(network.blocks_per_layer, network.blocks_final)
    series = blocks.BlockSeries(
        block, length if remat is Remat.STAGE else 1, network.residual
    )
    x = jax.ShapeDtypeStruct((NUM_PLANES, *shape, features), dtype)
    variables = jax.eval_shape(
        functools.partial(series.init, train=True), jax.random.key(0), x
    )

    def apply(variables, x):
        return series.apply(variables, x, True, mutable=["batch_stats"])[0]

    return kept_bytes(apply, variables, x)


@functools.cache
def variables_of(network: Network) -> Any:
    """Shapes of a network's variables; they do not depend on the image."""
    side = 2**network.depth
    image = jax.ShapeDtypeStruct((1, NUM_PLANES, side, side), jnp.float32)
    return jax.eval_shape(UResNet(network).init, jax.random.key(0), image)


def state_bytes(network: Network) -> int:
    """Bytes of the training state with Adam, and of the gradients."""
    return ADAM_COPIES * num_bytes(variables_of(network)["params"])


def largest_minibatch(state: int, event: int, device_gb: int) -> int:
    """Events that fit into a device."""
    return max(0, int((USABLE * device_gb * 1e9 - state) // event))


def table(network: Network) -> list[str]:
    """Lines of one network."""
    state = state_bytes(network)
    columns = " | ".join(f"{size} GB" for size in DEVICES_GB)
    lines = [
        f"| image | precision | remat | GB an event | {columns} |",
        "|---|---|---|---:" + "|---:" * len(DEVICES_GB) + "|",
    ]
    for shape in SHAPES:
        for precision in PRECISIONS:
            for remat in Remat:
                event = event_bytes(network, shape, precision, remat)
                cells = [
                    f"{shape[0]} x {shape[1]}",
                    precision.value,
                    remat.value,
                    f"{event / 1e9:.2f}",
                    *(str(largest_minibatch(state, event, d)) for d in DEVICES_GB),
                ]
                lines.append("| " + " | ".join(cells) + " |")
    return lines


def measured_table(
    names: list[str], shape: tuple[int, int], precision: Precision, turns: int
) -> list[str]:
    """Lines of the compiled training steps of networks with each kind of remat."""
    lines = [
        "| network | remat | GB counted | GB compiled | time over none | quartiles |",
        "|---|---|---:|---:|---:|---|",
    ]
    for name in names:
        config = levers.read_config(name)
        calls, compiled, counted = {}, {}, {}
        for remat in Remat:
            run = Run(minibatch_size=1, precision=precision, remat=remat)
            calls[remat], memory = levers.make_call(
                dataclasses.replace(config, run=run), shape, "train"
            )
            compiled[remat] = memory["temporary"]
            counted[remat] = event_bytes(config.network, shape, precision, remat)
        seconds = levers.take_turns(calls, turns)
        base = np.array(seconds[Remat.NONE])
        for remat in Remat:
            low, middle, high = np.percentile(seconds[remat] / base, (25, 50, 75))
            lines.append(
                f"| {name} | {remat.value} | {counted[remat] / 1e9:.2f} "
                f"| {compiled[remat] / 1e9:.2f} | {middle:.2f} "
                f"| {low:.2f} to {high:.2f} |"
            )
    return lines


PREFACE = """\
# Memory: the largest minibatch of a device

- Command: `{command}`
- Machine: {machine}
"""

MEASURED = """\

## Measured: what `run.remat` saves

The temporary memory of the compiled training step ({device}, {shape}, {precision}, one
event), which holds all that it keeps and works on, and what is counted for it
below; a step's time over that of `none`, by turns, {turns} of them.
"""

COUNTED = """\

## Counted

**Not measured, and not on a GPU.** A training step is traced on shapes alone and what
it keeps from the forward for the backward pass is summed, for no backend in
particular; the compiler may keep less (it fuses and computes cheap things anew) or
more (workspaces, other layouts), as above. Included: the arrays kept, the largest
piece that `run.remat` computes twice, two arrays of the first level under way, and
{copies} float32 copies of the parameters (Adam). {usable:.0%} of a device's memory are
taken as usable. 0: not even one event fits.
"""


def main(arguments: list[str]) -> None:
    """Writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--shape", type=int, nargs=2, default=SHAPES[-1])
    parser.add_argument("--precision", type=Precision, default=Precision.FLOAT32)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--output", help="markdown file; otherwise standard output")
    options = parser.parse_args(arguments)
    lines = [
        PREFACE.format(
            command=f"python -m benchmarks.memory {shlex.join(arguments)}".strip(),
            machine=machine.words(machine.describe("jax", "jaxlib", "flax")),
        )
        + MEASURED.format(
            device=jax.devices()[0].device_kind,
            shape=" x ".join(map(str, options.shape)),
            precision=options.precision.value,
            turns=options.turns,
        ),
        *measured_table(
            options.networks, tuple(options.shape), options.precision, options.turns
        ),
        COUNTED.format(copies=ADAM_COPIES, usable=USABLE),
    ]
    for name in options.networks:
        network = levers.read_config(name).network
        words = "without" if network.normalization is Normalization.NONE else "with"
        lines += [f"### {name} ({words} normalization)", "", *table(network), ""]
    text = "\n".join(lines)
    if options.output:
        pathlib.Path(options.output).write_text(text)
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main(sys.argv[1:])
