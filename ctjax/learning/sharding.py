"""Lays arrays out on the mesh of the devices; the only place that names its axis.

A minibatch is cut along its events; parameters and all else of the state are on every
device. Arrays are cut in the order of `jax.devices()`, process after process.
"""

import functools
import itertools
import math
import re
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Tree = TypeVar("Tree")

EVENT_AXIS = "event"

REPLICATED = PartitionSpec()
BY_EVENT = PartitionSpec(EVENT_AXIS)

CPU_COMPILER_OPTIONS: dict[str, Any] = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"
}
"""Which library computes what; see docs/compute.md. Not oneDNN: programs with its calls
cannot be kept for later runs (jaxlib 0.11 and 0.12)."""


def make_mesh(devices: list[Any] | None = None) -> Mesh:
    """Returns the mesh of some devices, by default all of all processes."""
    # In jax's own order: a topology-aware one could tear the events of a process apart.
    return Mesh(np.asarray(devices or jax.devices()), (EVENT_AXIS,))


def over_events(
    function: Callable, mesh: Mesh, in_specs: Any, out_specs: Any, donate: bool = False
) -> Callable:
    """Compiles a step so that each device works on its own events.

    Args:
      function: of a state, a minibatch and more; sees the events of one device.
      mesh: of the devices.
      in_specs: REPLICATED or BY_EVENT for each argument.
      out_specs: the same for each part of the results.
      donate: whether the memory of the state may be used for the results.

    Returns:
      The function of whole arguments, under `jax.jit`.
    """
    sharded = jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs)
    return jax.jit(
        sharded,
        donate_argnums=0 if donate else (),
        compiler_options=_compiler_options(mesh.devices.flat[0].platform),
    )


@functools.cache
def _compiler_options(platform: str) -> dict[str, Any]:
    """Returns the options above where this platform and version of XLA knows them."""
    if platform != "cpu":
        return {}
    try:
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            jax.jit(jnp.negative).lower(0.0).compile(CPU_COMPILER_OPTIONS)
    except jax.errors.JaxRuntimeError:
        return {}
    return CPU_COMPILER_OPTIONS


def replicate(tree: Any, mesh: Mesh, donated: bool = False) -> Any:
    """Puts arrays, the same in every process, on every device.

    Args:
      tree: of the arrays.
      mesh: of the devices.
      donated: whether a step will take their memory for its results. That of numpy's
        arrays, which CPUs take as it is, no step can.
    """
    where = NamedSharding(mesh, REPLICATED)
    tree = jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(where, np.asarray(x)), tree
    )
    if donated and mesh.devices.flat[0].platform == "cpu":
        copy = functools.partial(jax.tree.map, jnp.copy)
        return jax.jit(copy, out_shardings=where)(tree)
    return tree


def distribute(arrays: Tree, mesh: Mesh) -> Tree:
    """Starts the transfer of this process's events to its devices.

    Args:
      arrays: an array [b, ...] or a tree of them, such as a minibatch; they must stay
        as they are until used.
      mesh: of the devices.

    Returns:
      The same tree of arrays [B, ...] over the events of all processes.
    """
    where = NamedSharding(mesh, BY_EVENT)
    return jax.tree.map(
        lambda array: jax.make_array_from_process_local_data(where, array), arrays
    )


def local(array: jax.Array) -> np.ndarray:
    """Fetches this process's part [b, ...] of an array that is cut along its events."""
    parts = sorted(
        array.addressable_shards, key=lambda shard: shard.index[0].start or 0
    )
    return np.concatenate([np.asarray(part.data) for part in parts])


def varying(tree: Any, axis_name: str | None) -> Any:
    """Marks values, so far the same on all devices, as each device's own.

    Gradients with respect to them are then those of this device's share of the loss,
    for the step to sum in one place.
    """
    if axis_name is None:
        return tree
    return jax.lax.pcast(tree, axis_name, to="varying")


def total(tree: Any, axis_name: str | None) -> Any:
    """Sums over the devices of an axis; None leaves everything as it is."""
    if axis_name is None:
        return tree
    add = functools.partial(jax.lax.psum, axis_name=axis_name)
    if jax.lax.axis_size(axis_name) == 1:
        return add(tree)
    # Between CPU processes every array costs messages of its own, milliseconds each.
    # Elsewhere they are one group of messages anyway, and go while others are computed.
    return jax.lax.platform_dependent(
        tree, cpu=functools.partial(_joined, add), default=add
    )


def _joined(function: Callable[[jax.Array], jax.Array], tree: Any) -> Any:
    """Applies an elementwise function to all arrays of a type at once."""
    leaves, structure = jax.tree.flatten(tree)
    results = list(leaves)
    for dtype in dict.fromkeys(leaf.dtype for leaf in leaves):  # the same order in all
        places = [i for i, leaf in enumerate(leaves) if leaf.dtype == dtype]
        joined = function(jnp.concatenate([leaves[i].ravel() for i in places]))
        ends = itertools.accumulate(leaves[i].size for i in places)
        for place, end in zip(places, ends, strict=True):
            leaf = leaves[place]
            results[place] = joined[end - leaf.size : end].reshape(leaf.shape)
    return jax.tree.unflatten(structure, results)


def gather(array: jax.Array, axis_name: str | None) -> jax.Array:
    """Joins the parts [b, ...] of an array in the order of the devices, on each."""
    if axis_name is None:
        return array
    # A sum of parts set in zeros: unlike those of all_gather, its results are known
    # to be the same on all devices.
    place, count = jax.lax.axis_index(axis_name), jax.lax.axis_size(axis_name)
    parts = jnp.zeros((count, *array.shape), array.dtype).at[place].set(array)
    return jax.lax.psum(parts, axis_name).reshape(-1, *array.shape[1:])


_COLLECTIVE = re.compile(
    r"= (?P<type>.*?) (?P<name>all-reduce|all-gather|reduce-scatter|all-to-all|"
    r"collective-permute|collective-broadcast)(?:-start)?\("
)
_ARRAY = re.compile(r"\b[a-z]+(?P<bits>\d+)\w*\[(?P<shape>[\d,]*)\]")


def collectives(program: str) -> list[tuple[str, int]]:
    """Reads the collective operations off a compiled program.

    Args:
      program: text of `compiled.as_text()`.

    Returns:
      Name and bytes of the result of each, in the order of the text.
    """
    found = []
    for line in program.splitlines():
        operation = _COLLECTIVE.search(line)
        if operation:
            num_bytes = 0
            for array in _ARRAY.finditer(operation["type"]):
                sizes = [int(n) for n in array["shape"].split(",") if n]
                num_bytes += math.prod(sizes) * int(array["bits"]) // 8
            found.append((operation["name"], num_bytes))
    return found
