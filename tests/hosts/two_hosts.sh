#!/usr/bin/env bash
# Two hosts of their own names and addresses on this machine (network namespaces, joined by
# a cable of two virtual ends), and launch/openmpi.sh across them with two CPU processes
# each. They train; then the second host disappears under way, in two manners, and all that
# is left has to end within a minute and say which ranks it lost.
#
#   sudo --preserve-env=PATH tests/hosts/two_hosts.sh
#
# As root, with ctjax's Python and Open MPI first in PATH, on Debian or Ubuntu; iproute2 is
# installed where absent. Ends with "passed", or in status 1 with a line.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/hosts/tiny.sh

A=ctjax-a
B=ctjax-b

tear_down() {
    for host in $A $B; do
        # shellcheck disable=SC2046
        kill -KILL $(ip netns pids "$host" 2>/dev/null) 2>/dev/null || true
        ip netns delete "$host" 2>/dev/null || true
    done
    rm -rf "$FOLDER"
}
trap tear_down EXIT

[ "$(id -u)" = 0 ] || fail "expected to run as root"
need ip iproute2
command -v mpirun >/dev/null || fail "expected mpirun in PATH, of ctjax[mpi] for example"

# Commands as they would run on a host: `on HOST COMMAND...`, and for mpirun, which starts
# its daemon on the other one by it, in place of ssh: `agent HOST COMMAND-LINE`.
cat >"$FOLDER/on" <<END
#!/bin/sh
host=\$1
shift
exec ip netns exec "\$host" unshare --uts -- sh -c '
    hostname "\$0" && mount --bind $FOLDER/hosts /etc/hosts && exec "\$@"' "\$host" "\$@"
END
cat >"$FOLDER/agent" <<END
#!/bin/sh
host=\$1
shift
exec $FOLDER/on "\$host" sh -c "\$*"
END
chmod +x "$FOLDER/on" "$FOLDER/agent"
printf '%s\n' '127.0.0.1 localhost' "10.75.0.1 $A" "10.75.0.2 $B" >"$FOLDER/hosts"
printf '%s slots=2\n' $A $B >"$FOLDER/hostfile"

ip netns add $A
ip netns add $B
ip -netns $A link add cable type veth peer name cable netns $B
ip -netns $A address add 10.75.0.1/24 dev cable
ip -netns $B address add 10.75.0.2/24 dev cable
for host in $A $B; do
    ip -netns "$host" link set lo up
    ip -netns "$host" link set cable up
done
"$FOLDER/on" $A ping -c 1 -W 5 $B >/dev/null 2>&1 || true

# launch NAME STEPS: starts a training on both hosts, in the background, as $job.
launch() {
    PRTE_MCA_plm_ssh_agent=$FOLDER/agent OMPI_ALLOW_RUN_AS_ROOT=1 \
        OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 HOSTFILE=$FOLDER/hostfile RANKS_PER_HOST=2 \
        "$FOLDER/on" $A launch/openmpi.sh configs/default.py "${FIELDS[@]}" \
        --config.run.minibatch_size=4 --config.run.iterations="$2" \
        --config.output_dir="$FOLDER/$1" >"$FOLDER/$1.log" 2>&1 &
    job=$!
}

launch together 6
wait $job || fail "mpirun ended with $?: $(tail -n 5 "$FOLDER/together.log")"
check_training "$FOLDER/together" 6 4
cat "$FOLDER/together.log"
