"""What launchers tell, read from their variables alone."""

import os

import pytest

from ctjax.base.errors import ConfigError
from ctjax.processes import coordinator, launchers
from ctjax.processes.launchers import Launch

OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "5",
    "OMPI_COMM_WORLD_SIZE": "8",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
}
PALS = {
    "PALS_RANKID": "3",
    "PALS_LOCAL_RANKID": "1",
    "PALS_LOCAL_SIZE": "2",
    "PMI_RANK": "3",
    "PMI_SIZE": "6",
    "PMI_LOCAL_RANK": "1",
    "PMI_LOCAL_SIZE": "2",
}
SRUN = {
    "SLURM_PROCID": "2",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
}


@pytest.mark.parametrize(
    "environ, expected",
    [
        ({}, None),
        (OPEN_MPI, Launch("mpirun", 5, 8, 1, 4)),
        (SRUN, Launch("srun", 2, 4, 0, 2)),
        # An MPI of its own inside of a Slurm job looks like both.
        (OPEN_MPI | SRUN, Launch("mpirun", 5, 8, 1, 4)),
        (PALS, Launch("mpirun", 3, 6, 1, 2)),
        ({"PMI_RANK": "0", "PMI_SIZE": "2"}, Launch("mpirun", 0, 2, 0, 1)),
        # A batch script is no step.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "9"}, None),
        (
            {
                "JAX_COORDINATOR_ADDRESS": "a:1",
                "JAX_PROCESS_ID": "1",
                "JAX_NUM_PROCESSES": "2",
            },
            Launch("JAX", 1, 2, 0, 1),
        ),
    ],
)
def test_launchers_are_found(environ, expected):
    assert launchers.find(environ) == expected


def test_variables_that_contradict_each_other_are_named():
    with pytest.raises(ConfigError, match="OMPI_COMM_WORLD_RANK=8"):
        launchers.find(OPEN_MPI | {"OMPI_COMM_WORLD_RANK": "8"})
    with pytest.raises(ConfigError, match="JAX_PROCESS_ID"):
        launchers.find({"JAX_COORDINATOR_ADDRESS": "a:1"})


@pytest.mark.parametrize(
    "local_index, local_count, visible, expected",
    [
        (0, 1, None, None),  # one process for all GPUs of its host
        (3, 4, None, [3]),
        (3, 4, "0,1,2,3", [3]),
        (3, 4, "3", [0]),  # the launcher shows each its own
        (3, 4, "GPU-1b2c", [0]),
        (3, 4, "", [3]),
    ],
)
def test_each_process_takes_its_own_gpu(local_index, local_count, visible, expected):
    launch = Launch("mpirun", local_index, local_count, local_index, local_count)
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert launchers.local_device_ids(launch, environ) == expected


@pytest.mark.parametrize(
    "nodelist, host",
    [
        ("node003", "node003"),
        ("node[003-007,9],x", "node003"),
        ("node[3,5-7]", "node3"),
        ("a,b[1-2]", "a"),
    ],
)
def test_first_host_of_slurms_list(nodelist, host):
    assert launchers.first_host(nodelist) == host


def test_steps_of_one_job_meet_at_ports_of_their_own():
    environ = {"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_JOB_ID": "77"}
    launch = Launch("srun", 0, 2, 0, 1)
    addresses = {
        coordinator._coordinator_address(launch, environ | {"SLURM_STEP_ID": str(n)})
        for n in range(3)
    }
    assert len(addresses) == 3
    assert all(address.startswith("n1:") for address in addresses)
    explicit = environ | {"SLURM_STEP_ID": "0", "JAX_COORDINATOR_PORT": "1234"}
    assert coordinator._coordinator_address(launch, explicit) == "n1:1234"
    explicit = environ | {"JAX_COORDINATOR_ADDRESS": "10.0.0.1"}
    address = coordinator._coordinator_address(launch, explicit)
    assert address == f"10.0.0.1:{coordinator.FIRST_PORT}"


def test_proxies_are_bypassed_and_others_kept(monkeypatch):
    monkeypatch.setenv("no_proxy", "example.org")
    monkeypatch.delenv("no_grpc_proxy", raising=False)
    coordinator._bypass_proxies("10.0.0.1")
    assert os.environ["no_proxy"] == "example.org,10.0.0.1"
    assert os.environ["no_grpc_proxy"] == "10.0.0.1"
