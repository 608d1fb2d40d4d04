"""Joins the processes of a run through jax's own runtime."""

import atexit
import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

import ctjax
from ctjax.base.errors import ConfigError
from ctjax.config import dotted, fields
from ctjax.config.fields import ComputeMode, Config, ModeName
from ctjax.processes import liveness
from ctjax.processes.coordinator import (
    DistributedError,
    bypass_proxies,
    find_address,
)
from ctjax.processes.launchers import Launch, local_device_ids

MAX_NAMED = 4
"""Differences between processes that a message names."""

HEARTBEAT_TIMEOUT_S = 90
"""After which jaxlib takes a process that says nothing for dead and aborts the others:
a last resort, should `liveness` not have ended them. jaxlib counts from the last of the
heartbeats, which come at half of this: the abort may come after 45 s of silence."""


@dataclasses.dataclass(frozen=True)
class Processes:
    """Says which of the processes of a run this one is.

    Attributes:
      index: its number, from 0; the first one writes what a run leaves behind.
      count: of the run.
    """

    index: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Tells whether this process writes log, tables and summaries."""
        return self.index == 0


SINGLE_PROCESS = Processes()


def start(config: Config, launch: Launch | None) -> Processes:
    """Joins the other processes of a run; to be called before any other use of jax.

    Args:
      config: of the run, to be the same everywhere.
      launch: see `launchers.find`.

    Returns:
      This process among the others.

    Raises:
      DistributedError: the others do not answer, or have another configuration.
    """
    if launch is None or launch.count == 1:
        return SINGLE_PROCESS
    address = find_address(launch, os.environ)
    # Before jax is imported, and so run after what jax does at the end.
    atexit.register(liveness.join)
    import jax  # late: an IO test of one process needs none

    bypass_proxies(address.rpartition(":")[0])
    # The service would catch SIGTERM, by which launchers end what is left of a job.
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_check_proxy_envs", False)
    if config.run.compute_mode is ComputeMode.CPU or config.mode.name is (
        ModeName.IOTEST
    ):
        jax.config.update("jax_platforms", "cpu")
    with _end_if_late(launch, address, config.run.start_timeout):
        jax.distributed.initialize(
            address,
            launch.count,
            launch.index,
            local_device_ids(launch, os.environ),
            cluster_detection_method="deactivate",
            # Never reached: jaxlib's way to end a process is to abort it.
            initialization_timeout=2 * config.run.start_timeout + 10,
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_S,
        )
        _check_configurations(config)
    liveness.watch(launch.index, launch.count)
    return Processes(launch.index, launch.count)


def find_local_devices() -> list[Any]:
    """Finds the devices of this process.

    Returns:
      jax's.

    Raises:
      ConfigError: JAX_PLATFORMS names a kind that is not there.
    """
    import jax

    try:
        return jax.local_devices()
    # An assertion of jax's own where the package for GPUs is not installed at all.
    except (RuntimeError, AssertionError) as error:
        words = " ".join(str(error).split())[:300] or "no package for it"
        raise ConfigError(
            f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS')}: found no such device "
            f"({words}); expected it unset, or run.compute_mode=CPU"
        ) from error


@contextlib.contextmanager
def _end_if_late(launch: Launch, address: str, timeout_s: int) -> Iterator[None]:
    """Ends the process with a line unless the block is left in time."""

    def end() -> None:
        words = "it does not answer" if launch.index else "not all of them came"
        liveness.say(
            launch.index,
            f"expected {launch.count} processes to meet at rank 0, {address}, within "
            f"{timeout_s} s (run.start_timeout): {words}",
        )
        liveness.end(0)

    timer = threading.Timer(timeout_s, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def wait_for_all(name: str) -> None:
    """Returns when all processes have come here; `name` tells such places apart."""
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices(name)


def gather(values: np.ndarray) -> np.ndarray:
    """Collects arrays [...] of one shape from all processes: [processes, ...]."""
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(values))


def _check_configurations(config: Config) -> None:
    """Raises DistributedError unless all processes have the same configuration."""
    check_alike(
        {
            "ctjax": ctjax.__version__,
            "jax": importlib.metadata.version("jax"),
            "devices": len(find_local_devices()),
            **dotted.flatten(fields.to_dict(config)),
        }
    )


def check_alike(ours: Mapping[str, Any]) -> None:
    """Compares what the processes found, each for itself; all of them must call this.

    Args:
      ours: what this process found, by name; values that JSON can hold.

    Raises:
      DistributedError: in every process, where one differs from the first; the message
        names the rank and what differs.
    """
    text = json.dumps(ours, sort_keys=True).encode()
    digests = gather(np.frombuffer(hashlib.sha256(text).digest(), np.uint8))
    if (digests == digests[0]).all():
        return
    longest = int(gather(np.asarray(len(text))).max())
    texts = gather(np.frombuffer(text.ljust(longest), np.uint8))
    first = json.loads(texts[0].tobytes())
    rank = int(np.flatnonzero((digests != digests[0]).any(axis=1))[0])
    other = json.loads(texts[rank].tobytes())
    different = [
        f"{name} is {other.get(name)!r}, expected {first.get(name)!r}"
        for name in sorted(first.keys() | other.keys())
        if first.get(name) != other.get(name)
    ]
    more = len(different) - MAX_NAMED
    named = "; ".join(different[:MAX_NAMED]) + (f"; and {more} more" * (more > 0))
    raise DistributedError(f"rank {rank} differs from rank 0: {named}")
