# shellcheck shell=bash disable=SC2034
# What the scripts of this folder train, a network of seconds, and how they say what they
# saw; sourced by them.
FIELDS=(
    --config.run.compute_mode=CPU
    --config.data.synthetic=True
    --config.data.downsample=5
    --config.network.n_initial_filters=2
    --config.network.depth=2
    --config.network.blocks_per_layer=1
    --config.network.blocks_deepest_layer=1
    --config.network.blocks_final=1
    --config.network.bottleneck_deepest=4
    --config.mode.optimizer.lr_schedule=flat
)
FOLDER=$(mktemp -d)
export JAX_COMPILATION_CACHE_DIR=$FOLDER/compiled

say() { printf '%s: %s\n' "$(basename "$0")" "$*"; }

fail() {
    say "FAILED: $*"
    exit 1
}

# need COMMAND PACKAGES...: installs Debian packages unless the command is there.
need() {
    command -v "$1" >/dev/null && return
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        "${@:2}" >"$FOLDER/apt.log" 2>&1 || fail "no $1: $(tail -n 1 "$FOLDER/apt.log")"
}

# check_training FOLDER STEPS PROCESSES: what a finished training leaves, once.
check_training() {
    local rows words
    rows=$(($(wc -l <"$1/train_metrics.csv") - 1))
    [ "$rows" = "$2" ] || fail "train_metrics.csv has $rows rows, expected $2"
    [ "$(cut -d, -f1 "$1/train_metrics.csv" | tail -n 1)" = $(($2 - 1)) ] ||
        fail "train_metrics.csv does not end with step $(($2 - 1))"
    words="-- CONFIG --"
    [ "$(grep -c -e "$words" "$1/process.log")" = 1 ] ||
        fail "process.log was not written by one process alone"
    grep -q -e "Devices: .* of $3 processes" "$1/process.log" ||
        fail "process.log does not speak of $3 processes"
    [ -d "$1/checkpoints/$2" ] || fail "no checkpoint of step $2"
    say "$rows steps, one process.log of $3 processes, a checkpoint"
}
