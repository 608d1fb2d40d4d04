"""Finds how much memory this process may still take of its machine; gives some back."""

import ctypes
import os
import sys
from typing import NamedTuple


class Memory(NamedTuple):
    """Holds what there is of memory, in bytes.

    Attributes:
      free: what can be had now, what files keep in memory included.
      total: free or not.
      place: in words, whose memory it is.
    """

    free: int
    total: int
    place: str


def find(root: str = "/") -> Memory | None:
    """Finds the least of the machine's free memory and that of its control groups.

    Args:
      root: folder that holds Linux's `proc` and `sys`.

    Returns:
      The least, or None on a system that does not say it.
    """
    machine = _of_machine(os.path.join(root, "proc/meminfo"))
    found = [*([machine] if machine else []), *_of_groups(root)]
    return min(found, default=None)


def give_back() -> None:
    """Returns to the system what this process has freed, where glibc kept it."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:  # other C libraries have none
            trim(ctypes.c_size_t(0))


def _of_machine(path: str) -> Memory | None:
    """Reads /proc/meminfo; swap counts, as the kernel ends nobody before it is full."""
    sizes = _read_table(path)
    if "MemAvailable:" not in sizes:
        return None
    swap_free, swap = sizes.get("SwapFree:", 0), sizes.get("SwapTotal:", 0)
    free, total = sizes["MemAvailable:"] + swap_free, sizes["MemTotal:"] + swap
    return Memory(1024 * free, 1024 * total, "this machine")


FILES = {
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""Files of limit and usage, and what memory.stat calls files that need not be kept in
memory, by the name of the controller: the second version of control groups has none."""


def _of_groups(root: str) -> list[Memory]:
    """Reads the limits of the control groups that this process is in."""
    found = []
    for line in _read_lines(os.path.join(root, "proc/self/cgroup")):
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        name = "memory" if "memory" in controllers.split(",") else controllers
        if name not in FILES:
            continue
        mount = os.path.join(root, "sys/fs/cgroup", name)
        parts = group.strip("/").split("/")
        # A container may see its own group as the root.
        for length in range(len(parts), -1, -1):
            memory = _of_group(os.path.join(mount, *parts[:length]), FILES[name])
            if memory is not None:
                found.append(memory)
    return found


def _of_group(folder: str, files: tuple[str, str, str]) -> Memory | None:
    """Reads one group's limit, None where it has none."""
    limit_file, usage_file, inactive = files
    limit = _read_number(os.path.join(folder, limit_file))
    usage = _read_number(os.path.join(folder, usage_file))
    if limit is None or usage is None:
        return None
    reclaimable = _read_table(os.path.join(folder, "memory.stat")).get(inactive, 0)
    free = max(0, limit - max(0, usage - reclaimable))
    return Memory(free, limit, "the control group of this process (cgroup)")


def _read_number(path: str) -> int | None:
    lines = _read_lines(path)
    return int(lines[0]) if lines and lines[0].strip().isdigit() else None


def _read_table(path: str) -> dict[str, int]:
    """Reads lines of a name and a number."""
    words = [line.split() for line in _read_lines(path)]
    return {w[0]: int(w[1]) for w in words if len(w) > 1 and w[1].isdigit()}


def _read_lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readlines()
    except OSError:
        return []
