"""The commands that launch/ would run, as its scripts' dry runs print them."""

import os
import pathlib
import shlex
import subprocess
import sys

import pytest

from tests.support import ROOT

CONFIGURATION = "configs/scc21.py"
FIELDS = ["--config.run.id=with space", "--config.run.minibatch_size=8"]

# What a launcher or a user may have set around the tests.
FOREIGN = ("SLURM_", "PBS_", "JAX_", "NCCL_", "XLA_", "RANKS_", "CORES_", "CPUS_")


def launch(script, tmp_path, *arguments, gpus=0, **changes):
    """Runs a script elsewhere, on a host of eight cores and some GPUs."""
    commands = tmp_path / "bin"
    commands.mkdir(exist_ok=True)
    cores = "\n".join(f"{core},0" for core in range(8))
    for name, text in {
        "nvidia-smi": "\n".join(f"GPU {n}: some" for n in range(gpus)),
        "lscpu": f"# CORE,SOCKET\n{cores}",
        "nproc": "16",
        "mpirun": "",
        "python": "",
    }.items():
        (commands / name).write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")
        (commands / name).chmod(0o755)
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(FOREIGN) and name != "HOSTFILE"
    }
    environment["PATH"] = f"{commands}:{environment['PATH']}"
    return subprocess.run(
        [ROOT / "launch" / f"{script}.sh", *arguments],
        cwd=tmp_path,
        env={**environment, **changes},
        capture_output=True,
        text=True,
        timeout=60,
    )


def dry_run(script, tmp_path, **changes):
    """The words of the command that a script prints."""
    result = launch(script, tmp_path, "--dry-run", CONFIGURATION, *FIELDS, **changes)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == 1
    return shlex.split(result.stdout)


def split(words):
    """Options of the launcher, and the program with its own."""
    start = words.index("-m") - 1
    return words[:start], words[start:]


def value(words, option):
    assert words.count(option) == 1
    return words[words.index(option) + 1]


@pytest.fixture
def nodefile(tmp_path):
    path = tmp_path / "nodes"
    path.write_text("first\nfirst\nsecond\nthird\n")
    return str(path)


@pytest.mark.parametrize("script", ["local", "openmpi", "slurm", "pbs"])
def test_configuration_and_fields_reach_the_program(script, tmp_path, nodefile):
    job = {"PBS_NODEFILE": nodefile, "PBS_JOBID": "7.host"}
    words = split(dry_run(script, tmp_path, **job))[1]
    assert pathlib.Path(words[0]).name == "python"
    assert words[1:] == ["-m", "ctjax.main", "--config", CONFIGURATION, *FIELDS]
    if script != "local":
        settings = [w for w in dry_run(script, tmp_path, **job) if "NCCL_DEBUG=" in w]
        assert settings == ["NCCL_DEBUG=WARN"]

    result = launch(script, tmp_path, "--dry-run", **job)
    assert result.returncode != 0 and "usage" in result.stderr


@pytest.mark.parametrize("script", ["openmpi", "slurm", "pbs"])
def test_settings_of_the_user_stay(script, tmp_path, nodefile):
    words = dry_run(
        script,
        tmp_path,
        PBS_NODEFILE=nodefile,
        PBS_JOBID="7.host",
        NCCL_DEBUG="INFO",
        XLA_FLAGS="--xla_gpu_autotune_level=0",
    )
    settings = dict(
        word.split("=", 1) for word in words if word[:4] in ("NCCL", "XLA_")
    )
    assert settings["NCCL_DEBUG"] == "INFO"
    assert settings["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.9"
    first, last = settings["XLA_FLAGS"].split()
    assert first == "--xla_gpu_enable_latency_hiding_scheduler=true"
    assert last == "--xla_gpu_autotune_level=0"


def test_the_flags_of_xla_are_known_to_it(tmp_path):
    words = dry_run("openmpi", tmp_path)
    flags = next(word for word in words if word.startswith("XLA_FLAGS="))
    name, text = flags.split("=", 1)
    subprocess.run(  # an unknown flag ends the process
        [sys.executable, "-c", "import jax; jax.numpy.zeros(1)"],
        env={**os.environ, name: text, "JAX_PLATFORMS": "cpu"},
        check=True,
        timeout=300,
    )


@pytest.mark.parametrize(
    "changes, mapping, binding",
    [
        ({}, "ppr:1:node:oversubscribe:pe=8", "core"),
        ({"gpus": 4}, "ppr:4:node:oversubscribe:pe=2", "core"),
        ({"gpus": 4, "RANKS_PER_HOST": "1"}, "ppr:1:node:oversubscribe:pe=8", "core"),
        ({"CORES_PER_RANK": "3"}, "ppr:1:node:oversubscribe:pe=3", "core"),
        ({"RANKS_PER_HOST": "16"}, "ppr:16:node:oversubscribe", "none"),
    ],
)
def test_open_mpi_shares_out_gpus_and_cores(tmp_path, changes, mapping, binding):
    options = split(dry_run("openmpi", tmp_path, **changes))[0]
    # By its full name, which tells mpirun its place on the other hosts.
    assert options[0] == str(tmp_path / "bin" / "mpirun")
    assert value(options, "--map-by") == mapping
    assert value(options, "--bind-to") == binding
    assert "--hostfile" not in options


def test_open_mpi_passes_the_environment_on_to_other_hosts(tmp_path):
    options = split(
        dry_run(
            "openmpi",
            tmp_path,
            HOSTFILE="hosts.txt",
            NCCL_SOCKET_IFNAME="ib0",
            JAX_COMPILATION_CACHE_DIR="/a b",
            PYTHONPATH="/c",
            XLA_FLAGS="--x",
        )
    )[0]
    assert value(options, "--hostfile") == "hosts.txt"
    exported = [options[i + 1] for i, word in enumerate(options) if word == "-x"]
    assert {
        "NCCL_SOCKET_IFNAME=ib0",
        "JAX_COMPILATION_CACHE_DIR=/a b",
        "PYTHONPATH=/c",
    } <= set(exported)
    names = [word.split("=")[0] for word in exported]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "changes, cpus",
    [
        ({}, None),  # outside of a job
        ({"SLURM_TASKS_PER_NODE": "4(x2)", "SLURM_CPUS_ON_NODE": "64"}, 16),
        ({"SLURM_TASKS_PER_NODE": "1", "SLURM_CPUS_ON_NODE": "64"}, 64),
        (
            {
                "SLURM_TASKS_PER_NODE": "4",
                "SLURM_CPUS_ON_NODE": "64",
                "SLURM_CPUS_PER_TASK": "7",
            },
            7,
        ),
    ],
)
def test_slurm_shares_out_cpus(tmp_path, changes, cpus):
    options = split(dry_run("slurm", tmp_path, **changes))[0]
    srun = options[options.index("srun") :]
    bound = [f"--cpus-per-task={cpus}", "--cpu-bind=cores"] if cpus else []
    assert srun == ["srun", "--kill-on-bad-exit=0", "--wait=60", *bound]


def test_slurm_runs_a_copy_of_the_script(tmp_path):
    copy = tmp_path / "slurm_script"
    copy.write_text((ROOT / "launch" / "slurm.sh").read_text())
    for folder, status in ((ROOT, 0), (tmp_path, 1)):
        result = subprocess.run(
            ["bash", copy, "--dry-run", CONFIGURATION],
            cwd=tmp_path,
            env={**os.environ, "SLURM_SUBMIT_DIR": str(folder)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert result.returncode == status
    assert len(result.stderr.splitlines()) == 1
    assert "expected to be submitted from the root of ctjax" in result.stderr


def test_pbs_names_the_first_host_and_a_port_of_the_job(tmp_path, nodefile):
    job = {"PBS_NODEFILE": nodefile, "PBS_JOBID": "0020000[3].server", "gpus": 4}
    options = split(dry_run("pbs", tmp_path, **job))[0]
    assert value(options, "-n") == "12"
    assert value(options, "--ppn") == "4"
    assert value(options, "--depth") == "4"
    assert value(options, "--cpu-bind") == "depth"
    assert "JAX_COORDINATOR_ADDRESS=first:52768" in options  # 49152 + 20000 % 16384

    one = split(dry_run("pbs", tmp_path, **job, RANKS_PER_HOST="1"))[0]
    assert (value(one, "-n"), value(one, "--depth")) == ("3", "16")
    port = split(dry_run("pbs", tmp_path, **job, JAX_COORDINATOR_PORT="5"))[0]
    assert "JAX_COORDINATOR_ADDRESS=first:5" in port


def test_pbs_outside_of_a_job(tmp_path):
    result = launch("pbs", tmp_path, CONFIGURATION)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert "PBS_NODEFILE" in result.stderr
    options = split(dry_run("pbs", tmp_path, gpus=2))[0]
    assert (value(options, "-n"), value(options, "--ppn")) == ("2", "2")


@pytest.mark.parametrize("script", ["local", "openmpi", "slurm", "pbs"])
def test_help_outside_of_a_job(script, tmp_path):
    result = launch(script, tmp_path, "--help")
    assert result.returncode == 0 and not result.stderr
    usage, empty, *text = result.stdout.splitlines()
    assert usage == f"usage: launch/{script}.sh [--dry-run] CONFIGURATION [FIELDS...]"
    assert not empty and text[0].startswith("One process")
    assert text[-1].startswith("ROCm and XPU are not tried")
    assert not any(line.startswith("#") for line in text)


@pytest.mark.parametrize(
    "script, changes, words",
    [
        ("local", {"gpus": 4}, "1 process on 4 GPUs and 16 hardware threads"),
        ("openmpi", {"gpus": 4}, "4 processes a host, 4 GPUs a host, bound to 2 cores"),
        ("openmpi", {"RANKS_PER_HOST": "16", "HOSTFILE": "h"}, "hosts of h: 16"),
        ("openmpi", {"RANKS_PER_HOST": "16"}, "not bound"),
        ("pbs", {"gpus": 4}, "1 hosts: 4 processes a host, 4 GPUs a host, bound to 4"),
        ("slurm", {}, "outside of a job"),
        (
            "slurm",
            {
                "SLURM_JOB_ID": "1",
                "SLURM_JOB_NUM_NODES": "2",
                "SLURM_TASKS_PER_NODE": "4(x2)",
                "SLURM_CPUS_ON_NODE": "64",
                "SLURM_GPUS_ON_NODE": "4",
            },
            "2 hosts: 4 processes a host, 4 GPUs a host, bound to 16 CPUs each",
        ),
    ],
)
def test_a_dry_run_says_counts_and_binding(script, changes, words, tmp_path):
    result = launch(script, tmp_path, "--dry-run", CONFIGURATION, **changes)
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"launch/{script}.sh: ") and words in line
