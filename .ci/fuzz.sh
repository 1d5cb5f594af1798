#!/usr/bin/env bash
# Every fuzz target for some seconds each, beginning with seeds made of the test data; stops at the first that fails.
#   bash .ci/fuzz.sh [SECONDS] [TARGET]...
# By hand and not in CI: it takes cargo-fuzz, a C++ compiler, and minutes of building. What is found interesting is kept in
# SLACKLINE_FUZZ_CORPUS (default: slackline-fuzz in the user's cache folder), so that the next run begins where this one ended.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds="${1:-60}"
shift || true
corpus="${SLACKLINE_FUZZ_CORPUS:-${XDG_CACHE_HOME:-$HOME/.cache}/slackline-fuzz}"
# Sanitizers are unstable options of rustc; this lets the stable compiler take them.
export RUSTC_BOOTSTRAP=1

if ! cargo fuzz --version >/dev/null 2>&1; then
    cargo install cargo-fuzz --locked
fi
target="${CARGO_TARGET_DIR:-$PWD/fuzz/target}/fuzz"
fuzz=(--fuzz-dir fuzz --target-dir "$target")
cargo fuzz build "${fuzz[@]}"
if [ "$#" -eq 0 ]; then
    mapfile -t targets < <(cargo fuzz list --fuzz-dir fuzz)
else
    targets=("$@")
fi
for name in "${targets[@]}"; do
    mkdir -p "$corpus/$name"
    printf '=== %s\n' "$name"
    # An input takes milliseconds: 10 s are a hang, and 2 GiB an allocation that believes a claimed length.
    SLACKLINE_FUZZ_SEEDS="$corpus/$name" cargo fuzz run "${fuzz[@]}" "$name" "$corpus/$name" -- \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=65536 -print_final_stats=1 -verbosity=1
done
