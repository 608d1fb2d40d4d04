#!/usr/bin/env bash
# One process on all devices of this machine, with a configuration and any fields:
#   launch/local.sh configs/scc21.py --config.run.minibatch_size=8
# --dry-run as the first word prints the command instead of running it.
#
# KEEP_MEMORY  on a CPU: who keeps the memory of a step for the next one (glibc, jemalloc),
#              see host_memory.sh. Default: the C library as it is.
set -euo pipefail
cd "$(dirname "$0")/.."
run=(exec)
if [ "${1:-}" = --dry-run ]; then run=(printf '%q '); shift; fi
configuration=${1:?usage: launch/local.sh [--dry-run] CONFIGURATION [FIELDS...]}
shift
. launch/host_memory.sh
"${run[@]}" env ${settings[@]+"${settings[@]}"} python -m ctjax.main --config "$configuration" "$@"
echo # ends the line of a dry run
