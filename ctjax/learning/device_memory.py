"""Compares the memory that a program needs with what its devices have."""

from collections.abc import Collection
from typing import Any

import jax

from ctjax.base import free_memory
from ctjax.base.errors import UserError
from ctjax.base.free_memory import Memory
from ctjax.processes import launchers


def check_fits(
    name: str, compiled: jax.stages.Compiled, devices: Collection[Any]
) -> str:
    """Refuses a program that needs more memory than there is.

    Its arguments are in memory already: it is what it makes of them that counts.

    Args:
      name: of the step.
      compiled: program, not yet started.
      devices: of this process, that it is for.

    Returns:
      What the devices have, in words.

    Raises:
      UserError: in one line, what is needed, what there is and what needs less.
    """
    device = next(iter(devices))
    memory = free_memory_of(device)
    if memory is None:
        return "memory unknown"
    # On CPUs, all devices of all processes share the memory of the host.
    is_shared = device.platform == "cpu"
    copies = len(devices) * launchers.local_processes() if is_shared else 1
    needed = copies * (needed_bytes(compiled) or 0)
    found = (
        f"{memory.free / 1e9:.3g} GB free of {memory.total / 1e9:.3g} GB: "
        f"{memory.place}"
    )
    if needed > memory.free:
        raise UserError(
            f"the compiled {name} step needs {needed / 1e9:.3g} GB, found {found}; "
            "expected a smaller run.minibatch_size, a larger data.downsample or, on a "
            "GPU, run.remat=block or stage"
        )
    return found


def needed_bytes(compiled: jax.stages.Compiled) -> int | None:
    """Counts the bytes that a program takes on each device beside its arguments."""
    memory = compiled.memory_analysis()
    if memory is None:
        return None
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return memory.temp_size_in_bytes + results


def free_memory_of(device: Any) -> Memory | None:
    """Finds what a device has, None where nothing says it."""
    if device.platform == "cpu":
        return free_memory.find()
    stats = device.memory_stats() or {}
    if "bytes_limit" not in stats:
        return None
    total = stats["bytes_limit"]
    return Memory(total - stats.get("bytes_in_use", 0), total, str(device.device_kind))
