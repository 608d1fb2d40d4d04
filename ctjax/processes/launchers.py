"""Reads what launchers tell a process, and which CPUs are its own.

No other module knows a launcher's variables.
"""

import dataclasses
import logging
import os
import re
from collections.abc import Mapping

from ctjax.base.errors import ConfigError


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


logger = logging.getLogger("ctjax")


LAUNCHED_VARIABLES = (
    "OMPI_COMM_WORLD_RANK",
    "PMI_RANK",
    "PMIX_RANK",
    "PALS_RANKID",
    "SLURM_PROCID",
)
"""Where launchers write the rank; some give each rank what looks like a terminal."""


LOCAL_SIZE_VARIABLES = (
    "JAX_NUM_LOCAL_PROCESSES",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
    "MPI_LOCALNRANKS",
    "MV2_COMM_WORLD_LOCAL_SIZE",
    "PALS_LOCAL_SIZE",
    "PMI_LOCAL_SIZE",
    "SLURM_STEP_TASKS_PER_NODE",
)
"""Where launchers write the number of ranks on this host.

Slurm's is that of the step, which srun sets: the job's is also seen by a program that
runs alone in the job's script.
"""


def default_io_threads(environ: Mapping[str, str] = os.environ) -> int:
    """CPUs that this process may use, shared between the ranks of the host.

    Args:
      environ: environment variables of a launcher.

    Returns:
      Number of threads, >= 1.
    """
    usable = len(os.sched_getaffinity(0))
    ranks = _local_ranks(environ)
    # Launchers that bind each rank to CPUs of its own have shared them out already.
    if usable * ranks <= (os.cpu_count() or 1):
        return usable
    return max(1, usable // ranks)


def _local_ranks(environ: Mapping[str, str]) -> int:
    for name in LOCAL_SIZE_VARIABLES:
        # SLURM_STEP_TASKS_PER_NODE reads "4(x2),3".
        digits = environ.get(name, "").split("(")[0].split(",")[0]
        if digits.isdigit() and int(digits) > 0:
            return int(digits)
    return 1
