#!/usr/bin/env bash
# One process on all devices of this machine, with a configuration and any fields:
#   launch/local.sh configs/scc21.py --config.run.minibatch_size=8
# --dry-run as the first word prints the command, and on how many devices it runs, instead
# of running it; --help prints this.
#
# KEEP_MEMORY  on a CPU: who keeps the memory of a step for the next one (glibc, jemalloc),
#              see host_memory.sh. Default: the C library as it is.
#
# ROCm and XPU are not tried: only NVIDIA's GPUs and CPUs have been.
set -euo pipefail
cd "$(dirname "$0")/.."
script=launch/local.sh
. launch/arguments.sh
. launch/host_memory.sh
run=(exec)
if [ -n "$dry" ]; then run=(printf '%q '); fi
gpus=$(nvidia-smi --list-gpus 2>/dev/null | grep -c '^GPU' || true)
describe "1 process on $gpus GPUs and $(nproc 2>/dev/null || echo all) hardware threads, not bound"
"${run[@]}" env ${settings[@]+"${settings[@]}"} python -m ctjax.main --config "$configuration" "$@"
echo # ends the line of a dry run
