#!/usr/bin/env bash
# A Slurm of one node on this machine, and launch/slurm.sh as its batch job with two CPU
# processes: they train, the run is checked, and everything is taken down again.
#
#   sudo --preserve-env=PATH tests/hosts/slurm.sh
#
# As root, with ctjax's Python first in PATH, on Debian or Ubuntu; slurm-wlm and munge are
# installed where absent. Nothing of a Slurm that is already there is touched: ports, keys
# and all files are this script's own. Ends with "passed", or in status 1 with a line.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/hosts/tiny.sh

tear_down() {
    for daemon in slurmd slurmctld munged; do
        [ ! -f "$FOLDER/$daemon.pid" ] || kill "$(cat "$FOLDER/$daemon.pid")" || true
    done
    # They write their last words on the way out.
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        [ -n "$(find "$FOLDER" -name '*.pid')" ] || break
        sleep 0.5
    done
    rm -rf "$FOLDER"
}
trap tear_down EXIT

[ "$(id -u)" = 0 ] || fail "expected to run as root"
need munged munge
need slurmctld slurm-wlm

HOST=$(hostname -s)
export SLURM_CONF=$FOLDER/slurm.conf
cat >"$SLURM_CONF" <<END
ClusterName=ctjax
SlurmctldHost=$HOST(127.0.0.1)
SlurmctldPort=26817
SlurmdPort=26818
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$FOLDER/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
MpiDefault=none
ReturnToService=2
StateSaveLocation=$FOLDER/state
SlurmdSpoolDir=$FOLDER/spool
SlurmctldPidFile=$FOLDER/slurmctld.pid
SlurmdPidFile=$FOLDER/slurmd.pid
SlurmctldLogFile=$FOLDER/slurmctld.log
SlurmdLogFile=$FOLDER/slurmd.log
NodeName=$HOST NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES State=UP
SlurmdParameters=config_overrides
END
chmod 755 "$FOLDER" # munge's socket is for everybody
mkdir "$FOLDER/state" "$FOLDER/spool"
(umask 077 && head -c 1024 /dev/urandom >"$FOLDER/key")
munged --key-file="$FOLDER/key" --socket="$FOLDER/munge.socket" \
    --pid-file="$FOLDER/munged.pid" --log-file="$FOLDER/munged.log" \
    --seed-file="$FOLDER/seed" || fail "munged did not start"
slurmctld || fail "slurmctld did not start"
slurmd || fail "slurmd did not start"
for _ in $(seq 60); do
    [ "$(sinfo --noheader --format=%T 2>/dev/null)" != idle ] || break
    sleep 0.5
done
say "$(sinfo --version), $(sinfo --noheader --format='node %N %T')"

started=$SECONDS
timeout 300 sbatch --wait --quiet --ntasks-per-node=2 --gpus-per-node=0 \
    --output="$FOLDER/job.log" launch/slurm.sh configs/default.py "${FIELDS[@]}" \
    --config.run.iterations=6 --config.output_dir="$FOLDER/run" ||
    fail "sbatch ended with $?: $(tail -n 5 "$FOLDER/job.log")"
say "launch/slurm.sh ran for $((SECONDS - started)) s"
check_training "$FOLDER/run" 6 2
say passed
