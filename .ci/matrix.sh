#!/usr/bin/env bash
# Predictions are the same bytes for every number of ranks, transport, lag and delivery.
#
#   .ci/matrix.sh [DIR INPUT]    a model directory and an input file; without them, generated ones
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
model="${1:+$(realpath "$1")}"
input="${2:+$(realpath "$2")}"
cd "$root"
cargo build --release --quiet
slackline="${CARGO_TARGET_DIR:-target}/release/slackline"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

if [ -z "$model" ] || [ -z "$input" ]; then
    model="$work/model" input="$work/rows.csv"
    "$slackline" init --config examples/kaggle-small.json --seed 1 --output "$model" --shards 3
    "$slackline" generate --config examples/kaggle-small.json --rows 1500 --seed 1 --output "$input"
fi
"$slackline" infer "$model" --input "$input" --output "$work/first.csv"
runs=0
for ranks in 1 2 4 8; do
    for transport in threads shm; do
        for lag in 0 1 2 4 8; do
            for delivery in elastic fixed; do
                options=(--ranks "$ranks" --transport "$transport" --lag "$lag" --delivery "$delivery")
                # Delays of up to a millisecond, so that the ranks really come in different orders.
                "$slackline" infer "$model" --input "$input" --output "$work/again.csv" --skip-verify --batch 100 \
                    --delay random:0..1 "${options[@]}" >"$work/log" || { cat "$work/log"; echo "FAILED: ${options[*]}"; exit 1; }
                cmp "$work/first.csv" "$work/again.csv" || { echo "DIFFERENT: ${options[*]}"; exit 1; }
                runs=$((runs + 1))
            done
        done
        echo "$ranks ranks, $transport, lags 0 1 2 4 8, elastic and fixed: the same bytes"
    done
done
# Narrower rows and messages have predictions of their own, which are the same on any number of ranks as well.
for options in "--wire f16" "--wire bf16" "--load copied" "--load prefaulted"; do
    rm -f "$work/one.csv"
    for ranks in 1 3 8; do
        read -ra words <<<"$options"
        "$slackline" infer "$model" --input "$input" --output "$work/again.csv" --ranks "$ranks" --transport shm \
            "${words[@]}" >"$work/log" || { cat "$work/log"; echo "FAILED: $ranks ranks, $options"; exit 1; }
        [ -e "$work/one.csv" ] || cp "$work/again.csv" "$work/one.csv"
        cmp "$work/one.csv" "$work/again.csv" || { echo "DIFFERENT: $ranks ranks, $options"; exit 1; }
    done
    case "$options" in --load*) cmp "$work/first.csv" "$work/one.csv" ;; esac
    echo "$options, 1, 3 and 8 ranks: the same bytes"
done
echo "$runs runs, $(($(wc -l <"$work/first.csv") - 1)) predictions each: all the same bytes"
