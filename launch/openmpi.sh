#!/usr/bin/env bash
# One process for each GPU of one or several hosts, by Open MPI's mpirun:
#   HOSTFILE=hosts.txt launch/openmpi.sh configs/scc21.py --config.run.minibatch_size=64
# --dry-run as the first word prints the command, with counts and binding, instead of running
# it, in a job or outside of one; --help prints this.
#
# HOSTFILE        a host a line, the first of them this one; its name, as that of the
#                 configuration, from the root of ctjax. Without it: this host alone or, in a
#                 job of Slurm or PBS that this Open MPI knows of, the hosts of the job.
# RANKS_PER_HOST  default: the GPUs of this host, or 1. With 1, a process takes all GPUs of
#                 its host. CPU processes: one for each NUMA domain, with the field
#                 --config.run.compute_mode=CPU.
# CORES_PER_RANK  default: the cores of this host shared out over its processes.
#
# Hosts are alike, and have this folder, its data and the Python in use under the same
# names. A GPU is chosen by ctjax, from the number of the process on its host.
#
# ROCm and XPU are not tried: only NVIDIA's GPUs and CPUs have been.
set -euo pipefail
cd "$(dirname "$0")/.."
script=launch/openmpi.sh
. launch/arguments.sh
. launch/environment.sh

gpus=$(nvidia-smi --list-gpus 2>/dev/null | grep -c '^GPU' || true)
ranks=${RANKS_PER_HOST:-$((gpus > 0 ? gpus : 1))}
cores=${CORES_PER_RANK:-$(($(lscpu --parse=CORE,SOCKET | grep -v '^#' | sort -u | wc -l) / ranks))}

# The full name tells mpirun where it is installed on the other hosts.
command=("$(command -v mpirun || echo mpirun)" ${HOSTFILE:+--hostfile "$HOSTFILE"})
# So many on each host, whatever number of slots the hosts are said to have.
mapping=ppr:$ranks:node:oversubscribe
if [ "$cores" -gt 0 ]; then
    # Each process has cores of its own, side by side: XLA starts threads for all cores that
    # a process may use, and memory stays near the cores.
    command+=(--map-by "$mapping:pe=$cores" --bind-to core)
    binding="bound to $cores cores each"
else
    command+=(--map-by "$mapping" --bind-to none)
    binding="not bound"
fi
hosts="this host, or those of the job"
if [ -n "${HOSTFILE:-}" ]; then hosts="the hosts of $HOSTFILE"; fi
describe "$hosts: $ranks processes a host, $gpus GPUs a host, $binding"
# The other hosts get nothing of this environment by themselves.
for name in $(compgen -e | grep -E '^((JAX|XLA|NCCL|FI|UCX)_.*|CUDA_VISIBLE_DEVICES|LD_LIBRARY_PATH|PYTHONPATH)$'); do
    [[ " ${settings[*]}" == *" $name="* ]] || command+=(-x "$name=${!name}")
done
for setting in "${settings[@]}"; do command+=(-x "$setting"); done

program=("$(command -v python || echo python)" -m ctjax.main --config "$configuration" "$@")
if [ -n "$dry" ]; then
    printf '%q ' "${command[@]}" "${program[@]}"
    echo
    exit
fi

# Open MPI 5.0 does not see a job to its end that has lost a host. Where the host is off or
# cut off, ctjax notices within half a minute and ends all other processes, but mpirun goes
# on for the quarter of an hour that TCP takes to give up. Where only its daemon there is
# gone, mpirun ends at once, with status 0, and leaves the processes here to themselves.
launch=$(hostname).$$
processes_left() { grep -qsxz "CTJAX_LAUNCH=$launch" /proc/[0-9]*/environ; }
"${command[@]}" -x "CTJAX_LAUNCH=$launch" "${program[@]}" &
mpirun=$!
trap 'kill -TERM $mpirun' INT TERM
last_seen= # seconds
while kill -0 $mpirun 2>/dev/null; do
    sleep 1
    if processes_left; then
        last_seen=$SECONDS
    elif [ -n "$last_seen" ] && [ $((SECONDS - last_seen)) -ge 10 ]; then
        echo "launch/openmpi.sh: mpirun has lost a host: it is ended" >&2
        kill -KILL $mpirun
        break
    fi
done
status=0
wait $mpirun || status=$?
if [ $status -eq 0 ] && processes_left; then
    echo "launch/openmpi.sh: mpirun has lost a host: waiting for the processes here" >&2
    while processes_left; do sleep 1; done
    status=1
fi
exit $status
