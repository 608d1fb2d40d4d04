"""Compiles steps for the devices of a mesh."""

from collections.abc import Callable

import jax
from jax.sharding import Mesh

from ctjax.learning import sharding
from ctjax.learning.sharding import BY_EVENT, REPLICATED


def compile_train_step(step: Callable, mesh: Mesh) -> Callable:
    """Compiles `make_train_step`'s for the devices of a mesh; its state is donated."""
    arguments, results = (REPLICATED, BY_EVENT, BY_EVENT), (REPLICATED, REPLICATED)
    return sharding.over_events(step, mesh, arguments, results, donate=True)


def compile_eval_step(
    step: Callable, mesh: Mesh, with_scores: bool = False, with_loss: bool = True
) -> Callable:
    """Compiles `make_eval_step`'s for the devices of a mesh."""
    by_event = ("prediction", "label", *(("image", "score") if with_scores else ()))
    specs = dict.fromkeys(by_event, BY_EVENT)
    same = ("metrics", "confusion", "is_finite", *(("loss",) if with_loss else ()))
    common = dict.fromkeys(same, REPLICATED)
    return sharding.over_events(step, mesh, (REPLICATED, BY_EVENT), specs | common)


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
