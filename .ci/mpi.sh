#!/usr/bin/env bash
# The transport over MPI: the property suite of the collective, failures, equal predictions, a short benchmark.
#
#   .ci/mpi.sh              on MPICH, then on Open MPI
#   .ci/mpi.sh openmpi      on one of them
#   .ci/mpi.sh mpich
#
# A program belongs to one MPI, so what lies above mpi-sys is built again for each; everything else is built once. Missing
# packages are installed where apt-get and the right to use it are there.
set -euo pipefail
cd "$(dirname "$0")/.."
step() { printf '+ %s\n' "$*"; "$@"; }
fail() { echo "FAILED: $*"; exit 1; }

# install COMMAND PACKAGE...: the packages, if the command is not there.
install() {
    local wanted=$1
    shift
    command -v "$wanted" >/dev/null && return
    { command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; } || fail "$wanted is missing: apt-get install $*"
    step apt-get update -qq
    step apt-get install -y -qq --no-install-recommends "$@"
}

export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_MCA_hwloc_base_binding_policy=none
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

# The real model and rows where they lie beside the repository, else generated ones.
model_and_rows() {
    local slackline=$1 trained="${SLACKLINE_SHARED_DATA:-/nowhere}/criteo-trained"
    [ -d "$work/model" ] && return
    if [ -d "$trained" ]; then
        step "$slackline" import "$trained/kaggle16.pt" --config "$trained/kaggle16.json" --output "$work/model"
        cp "$trained/heldout.csv" "$work/rows.csv"
    else
        step "$slackline" init --config examples/kaggle-small.json --seed 1 --output "$work/model"
        step "$slackline" generate --config examples/kaggle-small.json --rows 1500 --seed 1 --output "$work/rows.csv"
    fi
}

# Predictions under mpirun against those of threads and of shared memory.
matrix() {
    local slackline=$1 mpirun=$2 ranks peers lag runs=0
    model_and_rows "$slackline"
    "$slackline" infer "$work/model" --input "$work/rows.csv" --output "$work/threads.csv" >/dev/null
    "$slackline" infer "$work/model" --input "$work/rows.csv" --output "$work/shm.csv" --ranks 4 --transport shm >/dev/null
    cmp "$work/threads.csv" "$work/shm.csv" || fail "threads and shm differ"
    for ranks in 2 4 8; do
        for peers in mpi auto nodes:2; do
            for lag in 0 4; do
                rm -f "$work/mpi.csv"
                "$mpirun" -n "$ranks" "$slackline" infer "$work/model" --input "$work/rows.csv" --output "$work/mpi.csv" \
                    --transport mpi --peers "$peers" --lag "$lag" --batch 100 --delay random:0..1 >"$work/log" 2>&1 ||
                    { cat "$work/log"; fail "$ranks ranks, peers $peers, lag $lag"; }
                cmp "$work/threads.csv" "$work/mpi.csv" || fail "different: $ranks ranks, peers $peers, lag $lag"
                runs=$((runs + 1))
            done
        done
    done
    echo "$runs runs under $mpirun, $(($(wc -l <"$work/threads.csv") - 1)) predictions each: the bytes of threads and shm"
}

# One error that names what differs, within a minute, and no prediction.
differ() {
    local slackline=$1 mpirun=$2 words=$3 model=$4 rows=$5
    shift 5
    if timeout 60 "$mpirun" -n 1 "$slackline" infer "$work/model" --input "$work/rows.csv" --transport mpi : \
        -n 2 "$slackline" infer "$model" --input "$rows" --transport mpi "$@" >"$work/log" 2>&1; then
        cat "$work/log"
        fail "ranks that differ went well: $words"
    fi
    grep -qF -- "slackline: error: the ranks differ: $words" "$work/log" || { cat "$work/log"; fail "not said: $words"; }
}

# Errors that all ranks find are said once, and those of the job say what to do.
errors() {
    local slackline=$1 mpirun=$2
    if "$mpirun" -n 3 "$slackline" infer "$work/nothing" --input "$work/rows.csv" --transport mpi >"$work/log" 2>&1; then
        fail "a model that is not there went well"
    fi
    [ "$(grep -c 'slackline: error: rank 0: .*nothing' "$work/log")" = 1 ] || { cat "$work/log"; fail "not said once"; }
    if "$mpirun" -n 3 "$slackline" infer "$work/model" --ranks 2 --input "$work/rows.csv" --transport mpi >"$work/log" 2>&1; then
        fail "two ranks in a job of three went well"
    fi
    grep -q 'mpirun -n 2, or --ranks 3' "$work/log" || { cat "$work/log"; fail "no hint"; }
    # Ranks 1 and 2 with something else than rank 0.
    local config=examples/kaggle-small.json
    [ ! -d "${SLACKLINE_SHARED_DATA:-/nowhere}/criteo-trained" ] || config="$SLACKLINE_SHARED_DATA/criteo-trained/kaggle16.json"
    rm -rf "$work/other" && "$slackline" init --config "$config" --seed 2 --output "$work/other" >/dev/null
    awk 'NR == 2 { kept = $0; next } { print } NR == 3 { print kept }' "$work/rows.csv" >"$work/other.csv"
    differ "$slackline" "$mpirun" 'the model (digest) is' "$work/other" "$work/rows.csv"
    differ "$slackline" "$mpirun" 'the input (digest of' "$work/model" "$work/other.csv"
    differ "$slackline" "$mpirun" '--lag is 3 on ranks 1, 2 and 2 on rank 0' "$work/model" "$work/rows.csv" --lag 3
    differ "$slackline" "$mpirun" '--delivery is' "$work/model" "$work/rows.csv" --delivery fixed
    differ "$slackline" "$mpirun" '--batch is' "$work/model" "$work/rows.csv" --batch 77
    differ "$slackline" "$mpirun" '--wire is' "$work/model" "$work/rows.csv" --wire bf16
    differ "$slackline" "$mpirun" '--peers is' "$work/model" "$work/rows.csv" --peers mpi
    echo "errors are said once and with what to do"
}

one() {
    local name=$1 mpicc=$2 mpirun=$3
    printf '\n--- %s\n' "$name"
    export MPICC="$mpicc" MPIRUN="$mpirun"
    .ci/bindings.sh "$mpicc"
    # The whole workspace, so that crates which do not depend on MPI have the features with which they are built already.
    local features=slackline-cli/mpi,slackline-bench/mpi
    if [ "$which" != both ] || [ "$name" = mpich ]; then
        step cargo clippy --workspace --features "$features" --all-targets -- -D warnings
        RUSTDOCFLAGS="-D warnings" step cargo doc --package slackline-mpi --features mpi --no-deps
    fi
    step cargo test --package slackline-mpi --features mpi
    step cargo build --release --features "$features"
    local slackline="$target/release/slackline" bench="$target/release/slackline-bench"
    matrix "$slackline" "$mpirun"
    errors "$slackline" "$mpirun"
    step "$bench" exchange --transport mpi --sizes 1024,65536,1048576 --blocks 3 --turns 1
    step "$bench" run --transport mpi --work slept --baselines --ranks 4 --rounds 30 --reps 1 --lags 0,4 --scenario turn \
        --output "$work/bench" >"$work/log" || { cat "$work/log"; fail "the benchmark"; }
    # The same outputs over bounded lag, the oracle and MPI's three ways, or no table.
    step "$bench" run --transport mpi --peers nodes:2 --baselines --ranks 4 --rounds 30 --reps 1 --lags 0,4 --scenario turn \
        --output "$work/bench" >"$work/log" || { cat "$work/log"; fail "the benchmark"; }
    grep -E '^(│|every output)' "$work/log"
    step "$bench" requests --transport mpi --peers nodes:2 --seconds 1
    step "$mpicc" -O3 -Wall -Werror -o "$work/onesided" crates/slackline-bench/mpi/onesided.c
    step "$mpirun" -n 2 "$work/onesided" 1024 65536
}

target="${CARGO_TARGET_DIR:-target}"
which="${1:-both}"
# Bindings are made from headers, by clang's library and with its own headers.
ls /usr/lib/llvm-*/lib/libclang*.so* /usr/lib/*/libclang*.so* >/dev/null 2>&1 || [ -n "${LIBCLANG_PATH:-}" ] ||
    install libclang-is-missing libclang-dev
case "$which" in openmpi | mpich | both) ;; *) fail "$which is neither openmpi nor mpich" ;; esac
# Open MPI comes last: .ci/hosts.sh uses what was built for it.
if [ "$which" != openmpi ]; then
    install mpicc.mpich libmpich-dev mpich libclang-dev
    one mpich mpicc.mpich mpirun.mpich
fi
if [ "$which" != mpich ]; then
    install mpicc.openmpi libopenmpi-dev openmpi-bin libclang-dev
    one openmpi mpicc.openmpi mpirun.openmpi
fi
