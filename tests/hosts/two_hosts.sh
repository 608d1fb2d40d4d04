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

# Commands as they would run on a host: `on HOST COMMAND...`; and what mpirun starts its
# daemon on the other one by, `agent HOST COMMAND-LINE`, which ends as ssh would: with 255
# when the far side dies, and not at all when there is nobody left to tell it.
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
$FOLDER/on "\$host" sh -c "\$*"
status=\$?
[ \$status -lt 128 ] || status=255
while [ -e $FOLDER/silence ]; do sleep 1; done
exit \$status
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
        --config.mode.checkpoint_iteration=5 \
        --config.output_dir="$FOLDER/$1" >"$FOLDER/$1.log" 2>&1 &
    job=$!
}

# count HOST: prints the number of ctjax's processes there.
count() {
    local number=0
    for process in $(ip netns pids "$1"); do
        if tr '\0' ' ' 2>/dev/null <"/proc/$process/cmdline" |
            grep -q '^[^ ]*python[^ ]* -m ctjax.main '; then number=$((number + 1)); fi
    done
    echo $number
}

# lose NAME COMMAND: starts a training, loses the second host by the command, and checks how
# the rest ends: all of it, in status other than 0, with a line that names the ranks lost.
lose() {
    local log=$FOLDER/$1.log lost ended
    launch "$1" 1000000
    for _ in $(seq 600); do
        grep -q "train Step 12 " "$log" && break
        kill -0 $job 2>/dev/null || fail "mpirun ended early: $(tail -n 5 "$log")"
        sleep 0.5
    done
    [ "$(count $A) $(count $B)" = "2 2" ] ||
        fail "$(count $A) and $(count $B) processes on the hosts, expected 2 and 2"
    lost=$SECONDS
    "$2"
    while [ "$(count $A) $(count $B)" != "0 0" ]; do
        [ $((SECONDS - lost)) -lt 60 ] || fail "$1: processes are left after 60 s"
        sleep 0.5
    done
    ended=$((SECONDS - lost))
    while kill -0 $job 2>/dev/null; do
        [ $((SECONDS - lost)) -lt 60 ] || fail "$1: mpirun is left after 60 s"
        sleep 0.5
    done
    say "$1: processes ended after $ended s, mpirun after $((SECONDS - lost)) s"
    wait $job && fail "$1: mpirun ended with status 0"
    sed -n "/ctjax: error\|^launch/ s/^/    /p" "$log"
    grep -q "ERROR - rank 0: lost rank 2, 3 " "$FOLDER/$1/process.log" ||
        fail "$1: process.log does not name ranks 2 and 3: $(tail -n 3 "$log")"
}

launch train 6
wait $job || fail "mpirun ended with $?: $(tail -n 5 "$FOLDER/train.log")"
check_training "$FOLDER/train" 6 4

kill_host() {
    # shellcheck disable=SC2046
    kill -KILL $(ip netns pids $B) 2>/dev/null || true
}

cut_off() {
    touch "$FOLDER/silence"
    ip -netns $B link set cable down
}

power_off() {
    cut_off
    kill_host
}

bring_back() {
    kill_host
    rm "$FOLDER/silence"
    ip -netns $B link set cable up
}

lose cut-off cut_off
bring_back
lose power-off power_off
bring_back
lose crash kill_host
say passed
