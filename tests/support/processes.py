"""Starts runs as processes of their own, alone or several together."""

import os
import shutil
import socket
import subprocess
import sys

import pytest

from tests.support import ROOT, tiny

CONFIGURATION = ["--config", str(ROOT / "configs" / "default.py")]
MPIRUN = shutil.which("mpirun", path=os.path.dirname(sys.executable)) or shutil.which(
    "mpirun"
)

needs_mpirun = pytest.mark.skipif(
    MPIRUN is None, reason="no mpirun: install ctjax[mpi]"
)
one_at_a_time = pytest.mark.xdist_group("processes")
"""Of tests each of which starts several processes."""


def environment(**changes):
    """Of one device a process, whatever this one has."""
    values = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        **changes,
    }
    if os.geteuid() == 0:
        values |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return values


def command(*fields):
    return [sys.executable, "-m", "ctjax.main", *CONFIGURATION, *fields]


def run(folder, **fields):
    """Runs the tiny configuration from the command line; returns what it prints."""
    result = subprocess.run(
        command(*tiny.flags(folder, **fields)),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def mpirun(count, *fields, timeout=300, **variables):
    return subprocess.run(
        [MPIRUN, "-n", str(count), "--bind-to", "none", *command(*fields)],
        env=environment(**variables),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def start_ranks(folder, count, port, **fields):
    """Processes without any launcher, which would end the others itself."""
    processes = []
    for rank in range(count):
        variables = {
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
            "JAX_PROCESS_ID": str(rank),
            "JAX_NUM_PROCESSES": str(count),
        }
        with open(folder / f"rank{rank}.err", "w") as errors:
            processes.append(
                subprocess.Popen(
                    command(*tiny.flags(folder / "run", **fields)),
                    env=environment(**variables),
                    cwd=ROOT,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                )
            )
    return processes


def free_port():
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
