#!/usr/bin/env bash
# The ring counters, the sleep and wake-up protocol, and the registry of guarded mappings under loom: every interleaving up
# to a number of preemptions.
set -euo pipefail
cd "$(dirname "$0")/.."
export RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS="${LOOM_MAX_PREEMPTIONS:-2}"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/loom"
set -x
cargo test --release --package slackline-transport --test suite
cargo test --release --package slackline-embedding --lib checked
