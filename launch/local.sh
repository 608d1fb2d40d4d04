#!/usr/bin/env bash
# One process on all devices of this machine, with a configuration and any fields:
#   launch/local.sh configs/scc21.py --config.run.minibatch_size=8
# --dry-run as the first word prints the command instead of running it.
set -euo pipefail
cd "$(dirname "$0")/.."
run=(exec)
if [ "${1:-}" = --dry-run ]; then run=(printf '%q '); shift; fi
configuration=${1:?usage: launch/local.sh [--dry-run] CONFIGURATION [FIELDS...]}
shift
"${run[@]}" python -m ctjax.main --config "$configuration" "$@"
echo # ends the line of a dry run
