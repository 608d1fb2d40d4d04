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
    "PMIX_RANK": "5",
}
MVAPICH = {
    "MV2_COMM_WORLD_RANK": "6",
    "MV2_COMM_WORLD_SIZE": "9",
    "MV2_COMM_WORLD_LOCAL_RANK": "0",
    "MV2_COMM_WORLD_LOCAL_SIZE": "3",
}
PMI = {"PMI_RANK": "3", "PMI_SIZE": "6"}
HYDRA = PMI | {"MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
CRAY = PMI | {"PMI_LOCAL_RANK": "1", "PMI_LOCAL_SIZE": "2"}
PALS = CRAY | {"PALS_RANKID": "3", "PALS_LOCAL_RANKID": "1", "PALS_LOCAL_SIZE": "2"}
BATCH = {
    "SLURM_JOB_ID": "9",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NTASKS": "4",
    "SLURM_TASKS_PER_NODE": "2(x2)",
    "SLURM_NTASKS_PER_NODE": "2",
}
SRUN = BATCH | {
    "SLURM_PROCID": "2",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
}
BY_HAND = {
    "JAX_COORDINATOR_ADDRESS": "a:1",
    "JAX_PROCESS_ID": "1",
    "JAX_NUM_PROCESSES": "2",
}
ON_ONE_HOST = {"JAX_LOCAL_PROCESS_ID": "1", "JAX_NUM_LOCAL_PROCESSES": "2"}


@pytest.mark.parametrize(
    "environ, expected, is_launched",
    [
        ({}, None, False),
        (OPEN_MPI, Launch("mpirun", 5, 8, 1, 4), True),
        (MVAPICH, Launch("mpirun", 6, 9, 0, 3), True),
        (MVAPICH | PMI, Launch("mpirun", 6, 9, 0, 3), True),
        (PALS, Launch("mpirun", 3, 6, 1, 2), True),
        (HYDRA, Launch("mpirun", 3, 6, 1, 2), True),
        (CRAY, Launch("mpirun", 3, 6, 1, 2), True),
        (PMI, Launch("mpirun", 3, 6, 0, 1), True),
        (SRUN, Launch("srun", 2, 4, 0, 2), True),
        (SRUN | {"SLURM_STEP_TASKS_PER_NODE": "3,1"}, Launch("srun", 2, 4, 0, 3), True),
        # srun --mpi=pmi2 and --mpi=pmix
        (
            SRUN | {"PMI_RANK": "2", "PMI_SIZE": "4"},
            Launch("mpirun", 2, 4, 0, 2),
            True,
        ),
        (SRUN | {"PMIX_RANK": "2"}, Launch("srun", 2, 4, 0, 2), True),
        # An MPI of its own inside a Slurm job looks like both.
        (SRUN | OPEN_MPI, Launch("mpirun", 5, 8, 1, 4), True),
        (BATCH | OPEN_MPI, Launch("mpirun", 5, 8, 1, 4), True),
        (SRUN | MVAPICH, Launch("mpirun", 6, 9, 0, 3), True),
        (SRUN | HYDRA, Launch("mpirun", 3, 6, 1, 2), True),
        # A batch script has a rank, but is not a process of a step.
        (BATCH, None, True),
        (BY_HAND, Launch("JAX", 1, 2, 0, 1), True),
        (BY_HAND | ON_ONE_HOST, Launch("JAX", 1, 2, 1, 2), True),
        (BY_HAND | OPEN_MPI, Launch("JAX", 1, 2, 0, 1), True),
    ],
)
def test_launchers_are_found(environ, expected, is_launched):
    assert launchers.find(environ) == expected
    assert launchers.is_launched(environ) == is_launched
    local = 1 if expected is None else expected.local_count
    assert launchers.local_processes(environ) == local


def test_every_launcher_is_tried_above():
    environments = (BY_HAND, OPEN_MPI, MVAPICH, PALS, HYDRA, CRAY, SRUN)
    tried = {name for environ in (*environments, ON_ONE_HOST) for name in environ}
    named = set()
    for launcher in launchers.LAUNCHERS:
        named |= {launcher.rank, launcher.size}
        named |= {*launcher.local_rank, *launcher.local_size}
    assert named - {""} <= tried


def test_a_rank_without_a_number_of_processes_is_refused():
    with pytest.raises(ConfigError, match="PMIX_RANK is set, but not the number"):
        launchers.find({"PMIX_RANK": "1"})
    assert launchers.is_launched({"PMIX_RANK": "1"})


@pytest.mark.parametrize(
    "usable, cpus, environ, expected",
    [
        (8, 8, {}, 8),
        (8, 8, OPEN_MPI, 2),
        (8, 8, BY_HAND | ON_ONE_HOST, 4),
        (8, 8, SRUN | {"SLURM_STEP_TASKS_PER_NODE": "3(x2),1"}, 2),
        (8, 8, BATCH, 8),
        (2, 8, OPEN_MPI, 2),  # bound to CPUs of its own
        (2, 2, HYDRA | {"MPI_LOCALNRANKS": "16"}, 1),
        (4, 4, HYDRA | {"MPI_LOCALNRANKS": "many"}, 4),
        (4, 4, HYDRA | {"MPI_LOCALNRANKS": "0"}, 4),
    ],
)
def test_processes_of_a_host_share_its_cpus(
    monkeypatch, usable, cpus, environ, expected
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(usable))
    monkeypatch.setattr(os, "cpu_count", lambda: cpus)
    assert launchers.default_io_threads(environ) == expected


def test_all_cpus_are_usable_where_there_is_no_affinity(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert launchers.usable_cpus() == 6
    assert launchers.default_io_threads({}) == 6
    assert launchers.default_io_threads(HYDRA) == 3


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
        coordinator.find_address(launch, environ | {"SLURM_STEP_ID": str(n)})
        for n in range(3)
    }
    assert len(addresses) == 3
    assert all(address.startswith("n1:") for address in addresses)
    explicit = environ | {"SLURM_STEP_ID": "0", "JAX_COORDINATOR_PORT": "1234"}
    assert coordinator.find_address(launch, explicit) == "n1:1234"
    explicit = environ | {"JAX_COORDINATOR_ADDRESS": "10.0.0.1"}
    address = coordinator.find_address(launch, explicit)
    assert address == f"10.0.0.1:{coordinator.FIRST_PORT}"


def test_proxies_are_bypassed_and_others_kept(monkeypatch):
    monkeypatch.setenv("no_proxy", "example.org")
    monkeypatch.delenv("no_grpc_proxy", raising=False)
    coordinator.bypass_proxies("10.0.0.1")
    assert os.environ["no_proxy"] == "example.org,10.0.0.1"
    assert os.environ["no_grpc_proxy"] == "10.0.0.1"
