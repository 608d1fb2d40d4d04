#!/usr/bin/env bash
# The GPU tests and the benchmark beside PyTorch, in under ten minutes, by one command:
#   benchmarks/gpu.sh [WHEELS_FOLDER [OUTPUT_FOLDER [ARGUMENT...]]]
# Needs a Python with jax (CUDA), flax, optax, orbax, h5py and torch (CUDA). What else is
# missing, all pure Python, comes from the wheels of WHEELS_FOLDER, made elsewhere by
#   python -m pip download --only-binary :all: --no-deps -d WHEELS_FOLDER PACKAGES
# and goes to a temporary folder; nothing is installed. mpi4py is not needed.
# Results go to OUTPUT_FOLDER, else to docs/benchmarks. ARGUMENTs are those of
# benchmarks.compute (--cases task3 --contenders compile, for what a first run left out);
# with any, the tests do not run. PYTHON names another interpreter than python3.
set -euo pipefail

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"; }
case ${1:-} in -h | --help) usage; exit 0 ;; esac

ALL_S=550 TESTS_S=120
wheels=${1:+$(realpath -- "$1")}
output=$(realpath -m -- "${2:-$(dirname "$0")/../docs/benchmarks}")
shift $(($# < 2 ? $# : 2))
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
has() { "$python" -c "import importlib.util as u, sys; sys.exit(not u.find_spec('$1'))"; }

for module in jax flax optax orbax h5py torch numpy yaml; do
    has "$module" || { echo "gpu.sh: $python has no $module" >&2; exit 1; }
done
missing=()
for pair in absl:absl-py ml_collections:ml_collections rich:rich \
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

# Without conftest.py, which wants more packages and sets four CPU devices up.
status=0
if [ $# -eq 0 ]; then
    timeout "$TESTS_S" "$python" -m pytest -q --noconftest -p no:cacheprovider \
        -o addopts= -o filterwarnings=default -m gpu -rs tests/whole/test_gpu.py || status=$?
fi
if [ "$status" -ne 0 ]; then echo "gpu.sh: tests ended with status $status" >&2; fi

"$python" -m benchmarks.compute --device gpu --limit-s $((ALL_S - SECONDS)) \
    --output "$output" "$@" || status=$?
if [ -f "$output/compute_gpu.json" ]; then
    sed -n '/^## GPU/,/^## CPU/{/^## CPU/d;p;}' "$output/compute.md"
    echo "Results: $output/compute_gpu.json, $output/compute.md"
fi
exit "$status"
