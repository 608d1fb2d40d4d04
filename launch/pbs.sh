#!/usr/bin/env bash
# One process for each GPU of the hosts of a PBS job, by the mpiexec of HPE Cray's PALS.
# Inside of a job, of a batch script as of `qsub -I`:
#   #PBS -l select=2:system=polaris -l place=scatter -l walltime=1:00:00
#   cd "$PBS_O_WORKDIR" && . venv/bin/activate
#   launch/pbs.sh configs/scc21.py --config.run.minibatch_size=64
# --dry-run as the first word prints the command, with counts and binding, instead of running
# it, outside of a job as for one of this host alone; --help prints this. Where PBS comes with
# Open MPI: HOSTFILE=$PBS_NODEFILE launch/openmpi.sh.
#
# What a site wants besides, as Polaris does:
#   #PBS -A PROJECT -q QUEUE -l filesystems=home:eagle
#
# RANKS_PER_HOST  default: the GPUs of this host, or 1. With 1, a process takes all GPUs of
#                 its host. CPU processes: one for each NUMA domain, with the field
#                 --config.run.compute_mode=CPU.
# CPUS_PER_RANK   default: the hardware threads of this host shared out over its processes.
#
# A GPU is chosen by ctjax, from the number of the process on its host, among those of
# CUDA_VISIBLE_DEVICES: on Polaris, whose first cores are next to the last GPU, export
# CUDA_VISIBLE_DEVICES=3,2,1,0.
#
# ROCm and XPU are not tried: only NVIDIA's GPUs and CPUs have been.
set -euo pipefail
cd "$(dirname "$0")/.."
script=launch/pbs.sh
. launch/arguments.sh
run=(exec)
if [ -n "$dry" ]; then run=(printf '%q '); fi
if [ -f "${PBS_NODEFILE:-}" ]; then
    hosts=$(sort -u "$PBS_NODEFILE" | wc -l)
    first=$(head -n 1 "$PBS_NODEFILE")
elif [ -n "$dry" ]; then
    hosts=1 first=$(hostname)
else
    echo "launch/pbs.sh: expected to run in a PBS job, where PBS_NODEFILE lists its hosts" >&2
    exit 1
fi
. launch/environment.sh

gpus=$(nvidia-smi --list-gpus 2>/dev/null | grep -c '^GPU' || true)
ranks=${RANKS_PER_HOST:-$((gpus > 0 ? gpus : 1))}
cpus=${CPUS_PER_RANK:-$(($(nproc) / ranks))}
# The first process is on the first host. A meeting place that is known needs no MPI, and
# so no mpi4py built for this one; the port is the job's own, as others may share the host.
job=${PBS_JOBID:-0}
job=${job%%[!0-9]*}
port=${JAX_COORDINATOR_PORT:-$((49152 + 10#$job % 16384))}
settings+=("JAX_COORDINATOR_ADDRESS=$first:$port")

command=(mpiexec --envall -n $((hosts * ranks)) --ppn "$ranks")
binding="not bound"
if [ "$cpus" -gt 0 ]; then
    # Each process has hardware threads of its own, side by side: XLA starts threads for all
    # that a process may use, and memory stays near them.
    command+=(--depth "$cpus" --cpu-bind depth)
    binding="bound to $cpus hardware threads each"
fi
describe "$hosts hosts: $ranks processes a host, $gpus GPUs a host, $binding"
"${run[@]}" env "${settings[@]}" "${command[@]}" python -m ctjax.main --config "$configuration" "$@"
echo # ends the line of a dry run
