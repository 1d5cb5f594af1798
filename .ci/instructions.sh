#!/usr/bin/env bash
# Counts the instructions of each layer's unit of work under valgrind, which is installed where it is missing, and compares
# them with benches/instructions.json.
set -euo pipefail
cd "$(dirname "$0")/.."
step() { printf '+ %s\n' "$*"; "$@"; }
if ! command -v valgrind >/dev/null; then
    { command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; } || { echo "valgrind is missing: apt-get install valgrind"; exit 1; }
    step apt-get update -qq
    step apt-get install -y -qq --no-install-recommends valgrind
fi
step cargo xtask instructions
