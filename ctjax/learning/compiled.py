"""Compiles steps for the devices of a mesh."""

import logging
import time
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from ctjax.base import free_memory
from ctjax.config.heads import NO_HEADS, ActiveHeads
from ctjax.learning import device_memory, sharding
from ctjax.learning.head_steps import result_names
from ctjax.learning.sharding import BY_EVENT, REPLICATED

logger = logging.getLogger("ctjax")


def compile_train_step(step: Callable, mesh: Mesh) -> Callable:
    """Compiles `make_train_step`'s for the devices of a mesh; its state is donated."""
    arguments, results = (REPLICATED, BY_EVENT, BY_EVENT), (REPLICATED, REPLICATED)
    return sharding.over_events(step, mesh, arguments, results, donate=True)


def compile_eval_step(
    step: Callable,
    mesh: Mesh,
    with_scores: bool = False,
    with_loss: bool = True,
    heads: ActiveHeads = NO_HEADS,
) -> Callable:
    """Compiles `make_eval_step`'s for the devices of a mesh."""
    by_event = ("prediction", "label", *(("image", "score") if with_scores else ()))
    specs = dict.fromkeys(by_event, BY_EVENT)
    same = "metrics", "confusion", "counted", "is_finite", *result_names(heads)
    losses = ("loss", *(("loss_parts",) if heads else ())) if with_loss else ()
    common = dict.fromkeys((*same, *losses), REPLICATED)
    return sharding.over_events(step, mesh, (REPLICATED, BY_EVENT), specs | common)


def compile_ahead(
    name: str, step: Callable, *arguments: Any
) -> tuple[Callable, jax.stages.Compiled]:
    """Compiles a step before its first call, if its memory is there.

    Args:
      name: of the step, for the log: "training".
      step: under `jax.jit`.
      arguments: of its first call, left as they are.

    Returns:
      The step, which compiles once more for arguments of other shapes (sparse
      minibatches may grow), and the program.

    Raises:
      UserError: the program needs more memory than the devices have.
    """
    logger.info("Compiling the %s step …", name)
    start = time.perf_counter()
    compiled = step.lower(*arguments).compile()
    free_memory.give_back()  # what the compiler worked in, half a gigabyte or more
    seconds = time.perf_counter() - start
    devices = jax.tree.leaves(arguments)[0].sharding.addressable_devices
    found = device_memory.check_fits(name, compiled, devices)
    words = "Compiled the %s step in %.1f s; each device: %s; %s"
    logger.info(words, name, seconds, describe_program(compiled), found)

    def call(*arguments: Any) -> Any:
        try:
            return compiled(*arguments)
        except TypeError:  # which tells of other shapes, before anything is done
            return step(*arguments)

    return call, compiled


def describe_program(compiled: jax.stages.Compiled) -> str:
    """Says what a compiled program needs on each device, in one line.

    Args:
      compiled: program of one device or many.

    Returns:
      Arithmetic and memory, "41.2 GFLOP, 3.10 GB at most (...)"; the arithmetic is
      left out where the compiler does not count it.
    """
    costs, memory = compiled.cost_analysis() or {}, compiled.memory_analysis()
    words = [f"{costs['flops'] / 1e9:.4g} GFLOP"] if "flops" in costs else []
    if memory is not None:
        sizes = {
            "arguments": memory.argument_size_in_bytes,
            "results": memory.output_size_in_bytes - memory.alias_size_in_bytes,
            "in between": memory.temp_size_in_bytes,
        }
        parts = ", ".join(f"{name} {size / 1e9:.3g}" for name, size in sizes.items())
        words.append(f"{sum(sizes.values()) / 1e9:.3g} GB at most ({parts})")
    return ", ".join(words)
