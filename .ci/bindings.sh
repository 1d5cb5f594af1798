#!/usr/bin/env bash
# Has the bindings to MPI made anew if they were made for another MPI than that of the given compiler wrapper: the crate that
# makes them does not notice.
#
#   .ci/bindings.sh mpicc.openmpi
set -euo pipefail
cd "$(dirname "$0")/.."
mark="${CARGO_TARGET_DIR:-target}/bindings-for"
[ "$(cat "$mark" 2>/dev/null)" = "$1" ] && exit
cargo clean --quiet --package mpi-sys
cargo clean --quiet --package mpi-sys --release
mkdir -p "$(dirname "$mark")"
echo "$1" >"$mark"
