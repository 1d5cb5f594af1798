#!/usr/bin/env bash
# A program outside of the workspace on each crate alone: the crate's own example, with that crate as its only dependency
# (but for a temporary folder), by path, and with no feature but those that it needs. It has to build and run, and the crate
# may bring no more crates, itself included, than the number of its line: who adds a dependency sees here who pays for it.
#
#   .ci/outside.sh             all of them
#   .ci/outside.sh slackline-embedding
set -euo pipefail
cd "$(dirname "$0")/.."
root="$PWD"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
fail() { echo "FAILED: $*"; exit 1; }

# outside CRATE EXAMPLE FEATURES MOST [ARGUMENT]...
outside() {
    local crate=$1 example=$2 features=$3 most=$4 program="$work/$1-$2" list="" folder=""
    [ -z "$only" ] || [ "$only" = "$crate" ] || return 0
    mkdir -p "$program/src"
    cp "crates/$crate/examples/$example.rs" "$program/src/main.rs"
    cp Cargo.lock "$program/Cargo.lock"
    ! grep -q 'tempfile::' "$program/src/main.rs" || folder='tempfile = "3"'
    [ -z "$features" ] || list="\"${features//,/\", \"}\""
    cat >"$program/Cargo.toml" <<END
[package]
name = "outside-${crate#slackline-}-${example//_/-}"
edition = "2024"

[dependencies]
$crate = { path = "$root/crates/$crate", features = [$list] }
$folder

[workspace]

[profile.dev]
opt-level = 1
debug = "line-tables-only"
END
    printf '\n--- %s, features [%s]: examples/%s.rs\n' "$crate" "$features" "$example"
    (cd "$program" && cargo run --quiet --target-dir "$target" -- "${@:5}" >"$work/log" 2>&1) || { cat "$work/log"; fail "$crate"; }
    tail -n 3 "$work/log"
    local crates
    crates=$(cd "$program" && cargo tree --package "$crate" --edges normal,build --prefix none | sed 's/ (\*)//' | sort -u | wc -l)
    echo "$crates crates (at most $most)"
    [ "$crates" -le "$most" ] || fail "$crate with features [$features] pulls in $crates crates"
}

only="${1:-}"
# Shared with the repository, so that what does not depend on features is built once.
target="$(realpath -m "${CARGO_TARGET_DIR:-target}")"

outside slackline-transport ring_threads "" 12
outside slackline-transport ring_processes launch 16
outside slackline-collective lag_threads "" 13
outside slackline-checkpoint tensors "" 12 "$root/crates/slackline-checkpoint/tests/golden/fields.pt"
outside slackline-data criteo "" 8
outside slackline-data generate generate 27
outside slackline-embedding shard "" 23
outside slackline-embedding own_table "" 23
outside slackline-dlrm predict "" 46
outside slackline-dlrm distributed distributed 49
outside slackline click_log "" 76
