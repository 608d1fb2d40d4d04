#!/usr/bin/env bash
# One process for each GPU of the hosts of a Slurm job, by srun. From the root of ctjax:
#   sbatch --nodes=2 launch/slurm.sh configs/scc21.py --config.run.minibatch_size=64
# with, as needed, --ntasks-per-node and --gpus-per-node (both the number of GPUs of a
# host), and what a site wants: --time, --partition or --qos, --account, on Perlmutter
# --constraint=gpu. --dry-run before the configuration prints the command, with counts and
# binding, in a job or outside of one, instead of running it; --help prints this.
#
# One process a host, with all of its GPUs: --ntasks-per-node=1.
# CPU processes: --gpus-per-node=0 --ntasks-per-node=N, N being the number of NUMA domains,
# and the field --config.run.compute_mode=CPU.
#
# The environment of sbatch is that of the processes: activate Python's before.
#
# ROCm and XPU are not tried: only NVIDIA's GPUs and CPUs have been.
#SBATCH --job-name=ctjax
#SBATCH --output=ctjax-%j.log
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
# Of the host, not of the task: a task that is shown one GPU alone cannot reach the others
# of its host directly. ctjax takes the GPU of the task's number on its host.
#SBATCH --gpus-per-node=4
# All cores of the hosts, to be shared out below.
#SBATCH --exclusive
# Two minutes before the limit of time ctjax is told to save its state. It ends with status
# 75 then, and the job goes back into the queue, to go on in the same log.
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
# sbatch runs a copy of this file from elsewhere.
root=$(dirname "$0")/..
[ -d "$root/ctjax" ] || root=${SLURM_SUBMIT_DIR:-.}
cd "$root"
[ -d ctjax ] || { echo "launch/slurm.sh: expected to be submitted from the root of ctjax, not $PWD" >&2; exit 1; }
script=launch/slurm.sh
. launch/arguments.sh
run=()
if [ -n "$dry" ]; then run=(printf '%q '); fi
. launch/environment.sh

# A task that ends badly leaves it to ctjax to end the others, which say whom they lost;
# srun would kill them at once. A minute after a task has ended, srun ends what is left.
command=(srun --kill-on-bad-exit=0 --wait=60)
# Each process has cores of its own, side by side: XLA starts threads for all cores that a
# process may use, and memory stays near the cores. srun takes no number from sbatch.
tasks=${SLURM_TASKS_PER_NODE:-1}
tasks=${tasks%%[!0-9]*} # of "4(x2)", two hosts of four
cpus=${SLURM_CPUS_PER_TASK:-$((${SLURM_CPUS_ON_NODE:-0} / tasks))}
binding="bound as Slurm does by itself"
if [ "$cpus" -gt 0 ]; then
    command+=(--cpus-per-task="$cpus" --cpu-bind=cores)
    binding="bound to $cpus CPUs each"
fi
if [ -n "${SLURM_JOB_ID:-}" ]; then
    counts="${SLURM_JOB_NUM_NODES:-1} hosts: $tasks processes a host, ${SLURM_GPUS_ON_NODE:-0} GPUs a host"
else
    counts="outside of a job; sbatch takes, unless told otherwise, 4 processes and 4 GPUs a host"
fi
describe "$counts, $binding"
status=0
"${run[@]}" env "${settings[@]}" "${command[@]}" python -m ctjax.main --config "$configuration" "$@" || status=$?
if [ "${#run[@]}" -gt 0 ]; then echo; exit "$status"; fi # a dry run
if [ "$status" -eq 75 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$status"
