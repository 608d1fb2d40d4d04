"""Reads what launchers tell a process, and counts the CPUs that it may use.

No other module knows a launcher's variables.
"""

import dataclasses
import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from ctjax.base.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Launch:
    """Holds what a launcher tells a process about itself.

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


class Launcher(NamedTuple):
    """Names the environment variables through which a launcher describes a process.

    Attributes:
      name: as in `Launch`.
      rank: of the process in the run.
      size: number of processes of the run; empty where no variable says it.
      local_rank: of the process on its host; the first variable that is set counts.
      local_size: number of processes on its host, likewise.
    """

    name: str
    rank: str
    size: str
    local_rank: tuple[str, ...] = ()
    local_size: tuple[str, ...] = ()


LAUNCHERS = (
    Launcher(
        "JAX",
        "JAX_PROCESS_ID",
        "JAX_NUM_PROCESSES",
        ("JAX_LOCAL_PROCESS_ID",),
        ("JAX_NUM_LOCAL_PROCESSES",),
    ),
    Launcher(  # Open MPI
        "mpirun",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        ("OMPI_COMM_WORLD_LOCAL_RANK",),
        ("OMPI_COMM_WORLD_LOCAL_SIZE",),
    ),
    Launcher(  # MVAPICH2
        "mpirun",
        "MV2_COMM_WORLD_RANK",
        "MV2_COMM_WORLD_SIZE",
        ("MV2_COMM_WORLD_LOCAL_RANK",),
        ("MV2_COMM_WORLD_LOCAL_SIZE",),
    ),
    Launcher(  # HPE Cray's PALS, which sets no size of its own
        "mpirun",
        "PALS_RANKID",
        "PMI_SIZE",
        ("PALS_LOCAL_RANKID",),
        ("PALS_LOCAL_SIZE",),
    ),
    Launcher(
        # PMI says nothing about the host: MPICH's and Intel MPI's Hydra add the first
        # pair, Cray's PMI the second, and under `srun --mpi=pmi2` there is Slurm's.
        "mpirun",
        "PMI_RANK",
        "PMI_SIZE",
        ("MPI_LOCALRANKID", "PMI_LOCAL_RANK", "SLURM_LOCALID"),
        ("MPI_LOCALNRANKS", "PMI_LOCAL_SIZE", "SLURM_STEP_TASKS_PER_NODE"),
    ),
    Launcher(
        # The variables of a step: a batch script has SLURM_PROCID and SLURM_NTASKS
        # too, but is not a process of a run.
        "srun",
        "SLURM_PROCID",
        "SLURM_STEP_NUM_TASKS",
        ("SLURM_LOCALID",),
        ("SLURM_STEP_TASKS_PER_NODE",),
    ),
    # PMIx, which tells the size through its library only. Open MPI's mpirun and
    # `srun --mpi=pmix` set it beside their own variables, PRRTE's prun sets it alone.
    Launcher("mpirun", "PMIX_RANK", ""),
)
"""In order of precedence: an MPI inside a Slurm allocation sees the variables of both,
and those of the MPI are right.

Sources: Open MPI 5.0, "Environment variables set for MPI applications", and what batch
scripts of computing centres read of the others. Open MPI and Slurm have been tried.
"""


def find(environ: Mapping[str, str]) -> Launch | None:
    """Finds out whether a launcher has started this process together with others.

    Args:
      environ: environment variables.

    Returns:
      What the launcher says, or None for a process on its own.

    Raises:
      ConfigError: the variables contradict each other, or do not say how many
        processes there are.
    """
    for launcher in LAUNCHERS:
        launch = _read(launcher, environ)
        if launch is None:
            continue
        if not 0 <= launch.index < launch.count:
            raise ConfigError(
                f"{launcher.rank}={launch.index}: expected less than "
                f"{launcher.size}={launch.count}"
            )
        return launch
    for launcher in LAUNCHERS:
        # Each process would take itself for the only one.
        if not launcher.size and launcher.rank in environ:
            raise ConfigError(
                f"{launcher.rank} is set, but not the number of processes: expected "
                "mpirun, srun, or JAX_PROCESS_ID, JAX_NUM_PROCESSES and "
                "JAX_COORDINATOR_ADDRESS"
            )
    if "JAX_COORDINATOR_ADDRESS" in environ:
        raise ConfigError(
            "JAX_COORDINATOR_ADDRESS is set, but not the number of this process: "
            "expected JAX_PROCESS_ID and JAX_NUM_PROCESSES, or a launcher's variables"
        )
    return None


def is_launched(environ: Mapping[str, str] = os.environ) -> bool:
    """Tells whether a launcher has set a rank, be it that of a batch script.

    Args:
      environ: environment variables.
    """
    return any(launcher.rank in environ for launcher in LAUNCHERS)


def local_processes(environ: Mapping[str, str] = os.environ) -> int:
    """Counts the processes of this run on this host, 1 where no launcher says it.

    Args:
      environ: environment variables.
    """
    launches = (_read(launcher, environ) for launcher in LAUNCHERS)
    return next((launch.local_count for launch in launches if launch), 1)


def usable_cpus() -> int:
    """Counts the CPUs this process may use, which can be fewer than the host has.

    They are those of its affinity mask, as XLA counts them, or all where the system
    has no such mask (macOS). A cgroup's quota limits time, not CPUs, and is not looked
    at.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_io_threads(environ: Mapping[str, str] = os.environ) -> int:
    """Shares the usable CPUs between the processes of this host.

    Args:
      environ: environment variables.

    Returns:
      Number of threads, >= 1.
    """
    usable = usable_cpus()
    processes = local_processes(environ)
    # Launchers that bind each rank to CPUs of its own have shared them out already.
    if usable * processes <= (os.cpu_count() or 1):
        return usable
    return max(1, usable // processes)


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


def first_host(nodelist: str) -> str:
    """Returns the first host of Slurm's list, "node003" of "node[003-007,9],x"."""
    match = re.match(r"([^\[,]+)(?:\[([^\],-]+)[^\]]*\])?", nodelist)
    if match is None:
        raise ConfigError(f"SLURM_STEP_NODELIST={nodelist}: expected a list of hosts")
    return match[1] + (match[2] or "")


def _read(launcher: Launcher, environ: Mapping[str, str]) -> Launch | None:
    """Reads the variables of one launcher; None where rank or size is missing."""
    index = _number(environ, launcher.rank)
    count = _number(environ, launcher.size)
    if index is None or count is None:
        return None
    local_index = _number(environ, *launcher.local_rank)
    local_count = _number(environ, *launcher.local_size)
    return Launch(launcher.name, index, count, local_index or 0, local_count or 1)


def _number(environ: Mapping[str, str], *names: str) -> int | None:
    """Reads the first of the variables that begins with a number.

    SLURM_STEP_TASKS_PER_NODE reads "4(x2),3"; the hosts of a run are taken to be alike.
    """
    for name in names:
        match = re.match(r"\d+", environ.get(name, ""))
        if match:
            return int(match[0])
    return None
