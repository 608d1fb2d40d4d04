"""Finds the address at which the processes of a run meet.

Only this module imports mpi4py, where an mpirun has started the process, and only to
learn the address of the first one. All further communication is jax's.
"""

import os
import re
import socket
from collections.abc import Mapping

from ctjax.base.errors import ConfigError, UserError
from ctjax.processes.launchers import Launch, first_host

FIRST_PORT = 49152  # of the range that is nobody's by registration
NUM_PORTS = 16384


class DistributedError(UserError):
    """Processes that cannot work together; the message names the rank."""


def find_address(launch: Launch, environ: Mapping[str, str]) -> str:
    """Returns the host and port at which the first process listens.

    Args:
      launch: of this process.
      environ: environment variables.

    Raises:
      ConfigError: the variables do not say where to meet.
      DistributedError: mpi4py is missing, or belongs to another MPI than mpirun.
    """
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


def _address_by_mpi(launch: Launch, port: str | None) -> str:
    """Lets the first process choose the address, and tell it to the others by MPI."""
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
    """Returns a numeric address of this host: others may not know its name.

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
    """Asks the system for a port that nobody uses."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def bypass_proxies(host: str) -> None:
    """Keeps the runtime's connections to a host off web proxies, where they would hang.

    Args:
      host: name or address, added to the environment's `no_proxy` and `no_grpc_proxy`.
    """
    for name in ("no_proxy", "no_grpc_proxy"):
        hosts = [h for h in os.environ.get(name, "").split(",") if h]
        os.environ[name] = ",".join([*hosts, host])
