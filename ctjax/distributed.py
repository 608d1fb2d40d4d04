"""The processes of a run. For now there is one."""

from collections.abc import Mapping

from ctjax.config import ConfigError

SIZE_VARIABLES = (
    "OMPI_COMM_WORLD_SIZE",
    "PMI_SIZE",
    "PALS_SIZE",
    "SLURM_NTASKS",
)
"""Where launchers (Open MPI, MPICH, PALS, srun) write the number of processes."""


def check(distributed: bool, environ: Mapping[str, str]) -> None:
    """Refuses to start several processes that would write into one folder.

    Args:
      distributed: `run.distributed`; false starts each process for itself.
      environ: environment variables.

    Raises:
      ConfigError: a launcher started more than one process.
    """
    for name in SIZE_VARIABLES:
        size = environ.get(name, "")
        # A Slurm allocation without srun sets SLURM_NTASKS, but not the rank.
        is_started = name != "SLURM_NTASKS" or "SLURM_PROCID" in environ
        if distributed and is_started and size.isdigit() and int(size) > 1:
            raise ConfigError(
                f"run.distributed: {name}={size}, but training on several processes "
                "is not supported yet: expected one process"
            )
