"""The processes of a run: found from the launcher, joined by jax's own runtime.

Only this module knows launchers, and only it imports mpi4py, where an mpirun has
started the process: to learn the address of the first one. All further communication
is jax's.
"""

import atexit
import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

import ctjax
from ctjax import config as ctjax_config
from ctjax import liveness
from ctjax.config import ComputeMode, Config, ConfigError, ModeName

HEARTBEAT_TIMEOUT_S = 90
"""After which jaxlib takes a process that says nothing for dead and aborts the others:
a last resort, should `liveness` not have ended them. jaxlib counts from the last of the
heartbeats, which come at half of this: the abort may come after 45 s of silence."""

FIRST_PORT = 49152  # of the range that is nobody's by registration
NUM_PORTS = 16384


class DistributedError(ValueError):
    """Processes that cannot work together; the message names the rank."""


@dataclasses.dataclass(frozen=True)
class Processes:
    """This process among those of a run.

    Attributes:
      index: its number, from 0; the first one writes what a run leaves behind.
      count: of the run.
    """

    index: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes log, tables and summaries."""
        return self.index == 0


ALONE = Processes()


@dataclasses.dataclass(frozen=True)
class Launch:
    """What a launcher tells a process about itself.

    Attributes:
      launcher: "JAX" (an explicit coordinator), "mpirun" or "srun".
      index: of the process in the run.
      count: of processes in the run.
      local_index: of the process on its host.
      local_count: of processes on its host.
    """

    launcher: str
    index: int
    count: int
    local_index: int
    local_count: int


_VARIABLES = (
    # launcher, rank, size, local rank, local size. An MPI inside of a Slurm allocation
    # sees the variables of both, and those of MPI are right.
    (
        "JAX",
        "JAX_PROCESS_ID",
        "JAX_NUM_PROCESSES",
        "JAX_LOCAL_PROCESS_ID",
        "JAX_NUM_LOCAL_PROCESSES",
    ),
    (
        "mpirun",  # Open MPI
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    (
        "mpirun",  # HPE Cray's PALS, which has no size of its own
        "PALS_RANKID",
        "PMI_SIZE",
        "PALS_LOCAL_RANKID",
        "PALS_LOCAL_SIZE",
    ),
    (
        "mpirun",  # MPICH, Intel MPI
        "PMI_RANK",
        "PMI_SIZE",
        "MPI_LOCALRANKID",
        "MPI_LOCALNRANKS",
    ),
    (
        # Of the step, not of the job: a batch script itself has SLURM_PROCID and
        # SLURM_NTASKS too, but is no process of a run.
        "srun",
        "SLURM_PROCID",
        "SLURM_STEP_NUM_TASKS",
        "SLURM_LOCALID",
        "SLURM_STEP_TASKS_PER_NODE",
    ),
)


def find(environ: Mapping[str, str]) -> Launch | None:
    """Finds out whether a launcher has started this process together with others.

    Args:
      environ: environment variables.

    Returns:
      What the launcher says, or None for a process of its own.

    Raises:
      ConfigError: the variables contradict each other.
    """
    for launcher, *names in _VARIABLES:
        # SLURM_STEP_TASKS_PER_NODE reads "4(x2),3"; hosts of one run are alike.
        numbers = [re.match(r"\d+", environ.get(name, "")) for name in names]
        if numbers[0] is None or numbers[1] is None:
            continue
        index, count, local_index, local_count = (
            int(number[0]) if number else default
            for number, default in zip(numbers, (0, 1, 0, 1), strict=True)
        )
        if not 0 <= index < count:
            raise ConfigError(
                f"{names[0]}={index}: expected less than {names[1]}={count}"
            )
        return Launch(launcher, index, count, local_index, local_count)
    if "JAX_COORDINATOR_ADDRESS" in environ:
        raise ConfigError(
            "JAX_COORDINATOR_ADDRESS is set, but not the number of this process: "
            "expected JAX_PROCESS_ID and JAX_NUM_PROCESSES, or a launcher's variables"
        )
    return None


def start(config: Config, launch: Launch | None) -> Processes:
    """Joins the other processes of a run; to be called before any other use of jax.

    Args:
      config: of the run, to be the same everywhere.
      launch: see `find`.

    Returns:
      This process among the others.

    Raises:
      DistributedError: the others do not answer, or have another configuration.
    """
    if launch is None or launch.count == 1:
        return ALONE
    address = _coordinator_address(launch, os.environ)
    # Before jax is imported, and so run after what jax does at the end.
    atexit.register(liveness.join)
    import jax  # late: an IO test of one process needs none

    _bypass_proxies(address.rpartition(":")[0])
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
        _check_alike(config)
    liveness.watch(launch.index, launch.count)
    return Processes(launch.index, launch.count)


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


def local_device_ids(launch: Launch, environ: Mapping[str, str]) -> list[int] | None:
    """Chooses the GPUs of a process.

    Args:
      launch: of the process.
      environ: environment variables.

    Returns:
      All GPUs (None) for the only process of its host. Else one for each: the first
      where the launcher shows this process a single one, and else the one of its
      local number.
    """
    if launch.local_count == 1:
        return None
    shown = environ.get("CUDA_VISIBLE_DEVICES")
    if shown and "," not in shown:
        return [0]
    return [launch.local_index]


def _coordinator_address(launch: Launch, environ: Mapping[str, str]) -> str:
    """Host and port at which the first process listens."""
    port = environ.get("JAX_COORDINATOR_PORT")
    address = environ.get("JAX_COORDINATOR_ADDRESS")
    if address:
        if re.search(r":\d+$", address):
            return address
        return f"{address}:{port or FIRST_PORT}"
    if launch.launcher == "mpirun":
        return _address_by_mpi(launch, port)
    if launch.launcher == "srun":
        host = first_host(environ["SLURM_STEP_NODELIST"])
        # Steps of a job may share a host.
        step = 1000 * int(environ["SLURM_JOB_ID"]) + int(environ["SLURM_STEP_ID"])
        return f"{host}:{port or FIRST_PORT + step % NUM_PORTS}"
    raise ConfigError(
        "JAX_PROCESS_ID is set, but not where to meet: expected "
        "JAX_COORDINATOR_ADDRESS=host:port"
    )


def first_host(nodelist: str) -> str:
    """Returns the first host of Slurm's list, "node003" of "node[003-007,9],x"."""
    match = re.match(r"([^\[,]+)(?:\[([^\],-]+)[^\]]*\])?", nodelist)
    if match is None:
        raise ConfigError(f"SLURM_STEP_NODELIST={nodelist}: expected a list of hosts")
    return match[1] + (match[2] or "")


def _address_by_mpi(launch: Launch, port: str | None) -> str:
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise DistributedError(
            f"expected mpi4py of the MPI that started these {launch.count} processes: "
            f"{error}; or set JAX_COORDINATOR_ADDRESS=host:port"
        ) from error
    world = MPI.COMM_WORLD
    if world.Get_size() != launch.count:
        raise DistributedError(
            f"mpirun started {launch.count} processes, but mpi4py sees "
            f"{world.Get_size()}: expected mpi4py of the same MPI as mpirun"
        )
    host = _own_address() if launch.index == 0 else ""
    hosts = set(world.allgather(socket.gethostname()))
    if launch.index == 0:
        if len(hosts) == 1 and launch.local_count == launch.count:
            host = "127.0.0.1"
        port = port or str(_free_port())
    return world.bcast(f"{host}:{port}", root=0)


def _own_address() -> str:
    """An address by which other hosts reach this one, a number: names may not be known.

    Distributions let the host's own name stand for a loopback address.
    """
    name = socket.gethostname()
    try:
        found = socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)
    except OSError:
        found = []
    numbers = [str(entry[4][0]) for entry in found]
    for number in numbers:
        if not number.startswith("127."):
            return number
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing; finds the route out
            return str(probe.getsockname()[0])
        except OSError:
            return name


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def _bypass_proxies(host: str) -> None:
    """Keeps the runtime's connections off a web proxy, which would let them hang."""
    for name in ("no_proxy", "no_grpc_proxy"):
        hosts = [h for h in os.environ.get(name, "").split(",") if h]
        os.environ[name] = ",".join([*hosts, host])


def _check_alike(config: Config) -> None:
    """Raises DistributedError unless all processes have the same run in mind."""
    import jax

    ours = {
        "ctjax": ctjax.__version__,
        "jax": importlib.metadata.version("jax"),
        "devices": jax.local_device_count(),
        **_flat(ctjax_config.to_dict(config), ""),
    }
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
    raise DistributedError(f"rank {rank} differs from rank 0: {'; '.join(different)}")


def _flat(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    flat = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
