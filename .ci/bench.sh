#!/usr/bin/env bash
# A short run of every benchmark: outputs are compared, timings are only looked at for being there.
set -euo pipefail
cd "$(dirname "$0")/.."
out="$(mktemp -d)"
trap 'rm -rf "$out"' EXIT
set -x
cargo xtask bench run --ranks 2 --rounds 60 --reps 1 --lags 0,4 --scenario balanced --scenario turn --output "$out"
cargo xtask bench run --ranks 4 --transport threads --work slept --baselines --rounds 40 --reps 1 --lags 0,2 --scenario turn --output "$out"
cargo xtask bench requests --seconds 1
cargo xtask bench exchange --help
cargo xtask bench embedding --rows 20000 --tables 4 --batch 128 --pool 1,20 --turns 1 --lookups 100000
ls -l "$out"
