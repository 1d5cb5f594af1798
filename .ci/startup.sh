#!/usr/bin/env bash
# Start and end of large groups on this machine: 100 rows on many ranks over shared memory, where every rank sends to every
# other, and a ring of processes, where each sends to one.
#
#   .ci/startup.sh [RANKS...]       64 128 256 512 if none are given
#
# Time and processor time are of one run. Memory (MiB) is of a second run, whose ranks rest before each of two batches: the
# proportional set size of all ranks, the rings' part of it, and page tables.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release --quiet --package slackline-cli
cargo build --release --quiet --package slackline-transport --features launch --example ring_processes
target="$(realpath "${CARGO_TARGET_DIR:-target}")/release"
config="$PWD/examples/kaggle-small.json"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
"$target/slackline" init --config "$config" --seed 1 --output model >/dev/null
"$target/slackline" generate --config "$config" --rows 100 --seed 1 --output rows.tsv >/dev/null
infer=("$target/slackline" infer model --input rows.tsv --transport shm --ranks)

# seconds and processor seconds of a command
timed() {
    local TIMEFORMAT='%R %U %S'
    { time "$@" >out 2>err || { cat err >&2; exit 1; }; } 2>&1 | awk '{ printf "%.2f %.2f", $1, $2 + $3 }'
}

# MiB of the children of a process
memory() {
    local child
    for child in $(cat "/proc/$1/task/$1/children" 2>/dev/null); do
        cat "/proc/$child/smaps_rollup" "/proc/$child/status" 2>/dev/null || true
    done | awk '/^Pss:/ { all += $2 } /^Pss_Shmem:/ { rings += $2 } /^VmPTE:/ { tables += $2 }
        END { printf "%d %d %d\n", all / 1024, rings / 1024, tables / 1024 }'
}

printf '%-6s %6s %9s %9s %9s %9s %9s\n' what ranks seconds CPU PSS rings tables
for ranks in ${*:-64 128 256 512}; do
    times="$(timed "${infer[@]}" "$ranks")"
    read -r seconds processor <<<"$times"
    "${infer[@]}" "$ranks" --batch 50 --delay random:1..1.1 --delay-unit $((2000 + 25 * ranks)) >out 2>err &
    command=$!
    most=0 rings=0 tables=0
    while kill -0 "$command" 2>/dev/null; do
        read -r all shared mapped <<<"$(memory "$command")"
        [ "$all" -le "$most" ] || { most=$all rings=$shared tables=$mapped; }
        sleep 1
    done
    wait "$command"
    printf '%-6s %6d %9s %9s %9d %9d %9d\n' infer "$ranks" "$seconds" "$processor" "$most" "$rings" "$tables"
done
for ranks in ${*:-64 128 256 512}; do
    times="$(timed "$target/examples/ring_processes" "$ranks")"
    read -r seconds processor <<<"$times"
    printf '%-6s %6d %9s %9s\n' ring "$ranks" "$seconds" "$processor"
done
