"""What each lever of the computation gains: with and without it, by turns in one run.

A step of each kind is compiled with all levers (`all`) and with one of them taken away,
then they take turns; a ratio is the median over the turns of the time without a lever
over the time with it, so that other work on the machine meets both alike.

    python -m benchmarks.levers --network scc21_master --turns 15
"""

import argparse
import collections
import contextlib
import importlib.util
import json
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from benchmarks import machine
from ctjax.config import fields, resolve
from ctjax.learning import compiled as learning_compiled
from ctjax.learning import losses, sharding, steps
from ctjax.learning.minibatch import DenseMinibatch, make_input
from ctjax.learning.precision import POLICIES
from ctjax.learning.state import TrainState, init_variables, make_state
from ctjax.learning.steps import StepOptions
from ctjax.models import UResNet, layers, normalization, uresnet
from ctjax.models.kernels import activation, convolution, cpu

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"
LEARNING_RATE = 3e-4
OVER_EVENTS = sharding.over_events
NORMALIZE = normalization.BatchNorm.__call__
LOOP_STEPS = 8
RESULTS_LATE = 1
"""Steps that a training is ahead of the results it reads; of the kind "loop" alone."""


def _same_everywhere(on_cpu: Callable, elsewhere: Callable) -> Callable:
    return elsewhere


def _resize(x: jax.Array) -> jax.Array:
    n, height, width, features = x.shape
    return jax.image.resize(x, (n, 2 * height, 2 * width, features), "bilinear")


def _pool(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (2, 2), (2, 2))


class _UpsampleFirst(uresnet.InterpolationUpsample):
    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = layers.upsample_bilinear(x)
        return self.block(kernel_size=1, name="bottleneck")(x, train)


def _not_donated(
    function: Callable, mesh: Mesh, in_specs: Any, out_specs: Any, donate: bool = False
) -> Callable:
    del donate
    return OVER_EVENTS(function, mesh, in_specs, out_specs)


def _biased(
    norm: normalization.BatchNorm,
    x: jax.Array,
    bias: jax.Array | None,
    slope: float = 1.0,
) -> jax.Array:
    return NORMALIZE(
        norm, x if bias is None else x + bias[None, None, None], None, slope
    )


def _together(parts: Sequence[jax.Array], kernel: jax.Array) -> jax.Array:
    return convolution.convolve(jnp.concatenate(parts, -1), kernel)


LEVERS: dict[str, tuple[object, str, object]] = {
    "libraries": (sharding, "_compiler_options", lambda platform: {}),
    "kernels in C": (cpu, "are_usable", lambda: False),
    "wide vectors": (cpu, "vector_lanes", lambda: cpu.LANES),
    "pairs": (cpu, "bfloat16_products", lambda: cpu.BFLOAT16),
    "epilogue": (convolution, "takes_bias", lambda x, kernel: False),
    "convolution": (convolution, "on_cpu", _same_everywhere),
    "activation": (activation, "leaky_relu", jax.nn.leaky_relu),
    "slices": (layers, "upsample_bilinear", _resize),
    "1 x 1 first": (uresnet, "InterpolationUpsample", _UpsampleFirst),
    "max-pool": (layers, "max_pool", _pool),
    "dead biases": (normalization.BatchNorm, "__call__", _biased),
    "donation": (sharding, "over_events", _not_donated),
    "split": (convolution, "convolve_parts", _together),
    "normalize": (normalization, "normalize", normalization.normalize.fun),
    "late results": (sys.modules[__name__], "RESULTS_LATE", 0),
}
"""By name: what replaces which attribute of what to take the lever away."""


def read_config(name: str) -> fields.Config:
    """Returns the configuration of a file in `configs/`."""
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return resolve.resolve(module.get_config())


@contextlib.contextmanager
def without(names: tuple[str, ...]) -> Iterator[None]:
    """Takes levers away while programs are traced."""
    with contextlib.ExitStack() as stack:
        for name in names:
            owner, attribute, replacement = LEVERS[name]
            stack.enter_context(mock.patch.object(owner, attribute, replacement))
        jax.clear_caches()
        yield
    jax.clear_caches()


def make_call(
    config: fields.Config, shape: tuple[int, int], kind: str
) -> tuple[Callable[[], None], dict[str, int]]:
    """Compiles one step of a kind.

    Args:
      config: of the network, the loss and the number format.
      shape: (H, W) of the images.
      kind: "train", "inference" or "loop": training steps one after the other, each
        with its minibatch from the host and its results back there.

    Returns:
      A function that runs it once to its end, and its memory in bytes.
    """
    dtype = POLICIES[config.run.precision].compute_type
    axis = sharding.EVENT_AXIS
    mesh = sharding.make_mesh(jax.devices()[:1])
    model = UResNet(config.network, dtype, axis, config.run.remat)
    variables = init_variables(model, 0)
    options = step_options(config, shape)
    arrays = draw_minibatch(config.run.minibatch_size, shape)
    minibatch = sharding.distribute(arrays, mesh)
    if kind == "inference":
        step = steps.make_eval_step(model=model, options=options, with_scores=False)
        state = sharding.replicate(variables, mesh)
        program = learning_compiled.compile_eval_step(step, mesh)
        compiled = program.lower(state, minibatch).compile()

        def call() -> None:
            jax.block_until_ready(compiled(state, minibatch))
    else:
        step, state = make_training(model, variables, options)
        states = [sharding.replicate(state, mesh)]
        never = np.zeros(config.run.minibatch_size, np.float32)
        stop = sharding.distribute(never, mesh)
        program = learning_compiled.compile_train_step(step, mesh)
        compiled = program.lower(states[0], minibatch, stop).compile()

        def one_step() -> None:
            states[0], results = compiled(states[0], minibatch, stop)
            jax.block_until_ready((states[0], results))

        def loop() -> None:
            run_loop(compiled, states, (arrays, never), mesh, late)

        late = RESULTS_LATE
        call = loop if kind == "loop" else one_step

    memory = compiled.memory_analysis()
    return call, {"temporary": memory.temp_size_in_bytes}


def make_training(
    model: UResNet, variables: Any, options: StepOptions
) -> tuple[Callable, TrainState]:
    """Returns a training step by Adam at one learning rate, and its first state."""
    rule = optax.adam(LEARNING_RATE)
    step = steps.make_train_step(
        model=model, optimizer=rule, schedule=lambda _: LEARNING_RATE, options=options
    )
    return step, make_state(variables, rule)


def step_options(config: fields.Config, shape: tuple[int, int]) -> StepOptions:
    """What the steps compute: the configuration's loss, and nothing special."""
    scheme, axis = config.mode.optimizer.loss_balance_scheme, sharding.EVENT_AXIS
    return StepOptions(
        loss_fn=losses.make_loss(scheme, axis_name=axis),
        network_input=make_input(shape, False),
        mask_empty_pixels=False,
        axis_name=axis,
        accumulation=1,
        bfloat16_gradients=False,
        skip_nonfinite=False,
        is_scaled=False,
    )


def draw_minibatch(size: int, shape: tuple[int, int]) -> DenseMinibatch:
    """Draws events that are mostly empty."""
    random = np.random.default_rng(0)
    planes = (size, 3, *shape)
    label = random.choice(3, planes, p=(0.99, 0.007, 0.003)).astype(np.uint8)
    image = (label * random.uniform(1, 3, planes)).astype(np.float32)
    return DenseMinibatch(image, label, np.ones(size, np.float32))


def run_loop(
    compiled: Callable, states: list, arrays: tuple, mesh: Mesh, late: int
) -> None:
    """Runs some steps as a training does, so many ahead of the results it fetches."""
    waiting: collections.deque = collections.deque()
    for _ in range(LOOP_STEPS):
        given = sharding.distribute(arrays, mesh)
        states[0], results = compiled(states[0], *given)
        waiting.append(results)
        if len(waiting) > late:
            jax.device_get(waiting.popleft())
    jax.block_until_ready((states[0], waiting))


def take_turns(calls: dict[str, Callable[[], None]], turns: int) -> dict[str, list]:
    """Seconds of every call in every turn, in another order each turn."""
    seconds: dict[str, list] = {name: [] for name in calls}
    order = list(calls)
    for call in calls.values():
        call()
    for _ in range(turns):
        order = order[1:] + order[:1]
        for name in order:
            start = time.perf_counter()
            calls[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def summarize(seconds: dict[str, list], memory: dict[str, dict]) -> dict[str, dict]:
    """Median seconds, quartiles of the ratio to `all`, and memory of every call."""
    base = np.array(seconds["all"])
    return {
        name: {
            "median_s": float(np.median(times)),
            "fastest_s": float(np.min(times)),
            "ratio": np.percentile(np.array(times) / base, (25, 50, 75)).tolist(),
            **memory[name],
        }
        for name, times in seconds.items()
    }


def main(arguments: list[str]) -> None:
    """Measures and prints one table line a lever, and all as JSON where asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--network", default="scc21_master", help="name of a file in configs/"
    )
    parser.add_argument(
        "--kind", choices=("train", "inference", "loop"), default="train"
    )
    parser.add_argument("--shape", type=int, nargs=2, default=(320, 512))
    parser.add_argument("--minibatch", type=int, default=1)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--levers", nargs="*", default=list(LEVERS))
    parser.add_argument("--output", help="JSON file")
    options = parser.parse_args(arguments)
    config = read_config(options.network)
    run = fields.Run(
        minibatch_size=options.minibatch,
        precision=fields.Precision(options.precision),
    )
    config = fields.Config(
        run=run, data=config.data, network=config.network, mode=config.mode
    )
    calls, memory = {}, {}
    for name in ("all", *options.levers):
        with without(() if name == "all" else (name,)):
            calls[name], memory[name] = make_call(
                config, tuple(options.shape), options.kind
            )
    result = {
        "options": vars(options),
        "machine": machine.describe("jax", "jaxlib"),
        "calls": summarize(take_turns(calls, options.turns), memory),
    }
    write = sys.stdout.write
    write(machine.words(result["machine"]) + "\n")
    write(
        "| without | median s | without / with: median (quartiles) | temporary MB |\n"
    )
    write("|---|---:|---|---:|\n")
    for name, call in result["calls"].items():
        low, middle, high = call["ratio"]
        write(
            f"| {name} | {call['median_s']:.3f} | {middle:.2f} ({low:.2f}-{high:.2f}) "
            f"| {call['temporary'] / 1e6:.0f} |\n"
        )
    if options.output:
        pathlib.Path(options.output).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
