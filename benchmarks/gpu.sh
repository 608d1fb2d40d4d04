#!/usr/bin/env bash
# One case of the benchmark beside PyTorch on a GPU, in four minutes at most:
#   benchmarks/gpu.sh --case CASE [--wheels FOLDER] [--output FOLDER] [-- ARGUMENT...]
# CASE is one of those of benchmarks.compute (task2, task3, task4, a21, a21-inference,
# sparse, sparse-inference), or "tests" for the tests that need a GPU. Results are written after every contender to
# FOLDER/gpu/COMMIT.json and FOLDER/gpu.md, beside those of other cases and commits, else
# to docs/benchmarks; a second run of a case begins with the contenders that have no
# figure yet. What the contenders compile is kept in build/gpu. ARGUMENTs are those of
# benchmarks.compute (--contenders compile).
# Needs a Python with jax (CUDA), flax, optax, orbax, h5py and torch (CUDA); PYTHON names
# another than python3. What else is missing, all pure Python, comes from the wheels of
# --wheels, made elsewhere by
#   python -m pip download --only-binary :all: --no-deps -d FOLDER PACKAGES
# and goes to a temporary folder; nothing is installed. mpi4py is not needed.
set -euo pipefail

CASES="task2 task3 task4 a21 a21-inference sparse sparse-inference tests"
MOST_S=240
ENDING_S=35 # for the last contender to end and for ctjax's process

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"; }
fail() { echo "gpu.sh: $*" >&2; exit 2; }

case= wheels= output=$(dirname "$0")/../docs/benchmarks
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help) usage; exit 0 ;;
    --) shift; break ;;
    --case | --wheels | --output)
        [ $# -ge 2 ] || fail "$1: expected a value, found none"
        declare "${1#--}=$2"
        shift 2 ;;
    *) fail "expected --case, --wheels or --output, found $1" ;;
    esac
done
[ -n "$case" ] || fail "expected --case with one of $CASES"
[[ " $CASES " == *" $case "* ]] || fail "--case: expected one of $CASES, found $case"
if [ -n "$wheels" ]; then
    [ -d "$wheels" ] || fail "--wheels: expected a folder, found $wheels"
    wheels=$(realpath -- "$wheels")
fi
output=$(realpath -m -- "$output")
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
has() { "$python" -c "import importlib.util as u, sys; sys.exit(not u.find_spec('$1'))"; }

for module in jax flax optax orbax h5py torch numpy yaml; do
    has "$module" || { echo "gpu.sh: $python has no $module" >&2; exit 1; }
done
missing=() kernels=()
# The fused kernels; there is no jax-triton for an older Python.
"$python" -c "import sys; sys.exit(sys.version_info < (3, 12))" && kernels=(jax_triton:jax-triton)
for pair in "${kernels[@]}" absl:absl-py ml_collections:ml_collections rich:rich \
    markdown_it:markdown-it-py mdurl:mdurl pygments:Pygments pytest:pytest \
    iniconfig:iniconfig pluggy:pluggy packaging:packaging; do
    has "${pair%%:*}" || missing+=("${pair##*:}")
done
added=$(mktemp -d)
trap 'rm -rf "$added"' EXIT
if [ ${#missing[@]} -gt 0 ]; then
    if [ -z "$wheels" ]; then
        echo "gpu.sh: missing ${missing[*]}; give a folder with their wheels" >&2
        exit 1
    fi
    "$python" -m pip install --quiet --no-index --no-deps --find-links "$wheels" \
        --target "$added" "${missing[@]}"
fi
export PYTHONPATH=$PWD:$added${PYTHONPATH:+:$PYTHONPATH}
export CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES:-0}
export XLA_PYTHON_CLIENT_PREALLOCATE=false

left() { echo $((MOST_S - SECONDS)); }

if [ "$case" = tests ]; then
    # Without conftest.py, which wants more packages and sets four CPU devices up.
    timeout -k 5 "$(left)" "$python" -m pytest -q --noconftest -p no:cacheprovider \
        -o addopts= -o filterwarnings=default -m gpu -rs tests/whole/test_gpu.py
    exit
fi

status=0
timeout -k 5 "$(left)" "$python" -m benchmarks.compute --device gpu --cases "$case" \
    --limit-s $(($(left) - ENDING_S)) --keep build/gpu --output "$output" "$@" || status=$?
if [ -f "$output/gpu.md" ]; then
    sed -n '/^## Measured/,/^## Counted/{/^## Counted/d;p;}' "$output/gpu.md"
    echo "Results: $output/gpu, $output/gpu.md"
fi
exit "$status"
