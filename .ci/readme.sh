#!/usr/bin/env bash
# Runs the commands of the README's ```sh blocks, in order, in a copy of the repository, with the release binary on PATH.
#
# A block after the comment <!-- not run --> is skipped, and so are the two commands that CI runs by themselves, and the
# build, which is made here in the repository itself.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release
target="$(realpath "${CARGO_TARGET_DIR:-target}")"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
mkdir "$work/repository"
# Not what lies beside the tracked files: whoever tried the README in here has a model already, which no command overwrites.
git ls-files -z --cached | while IFS= read -r -d '' file; do
    [ ! -e "$file" ] || printf '%s\0' "$file"
done | xargs -0 cp --parents -t "$work/repository"

awk '
    /^[ \t]*```/ && inside { inside = 0; skip = 0; next }
    /^[ \t]*```/ { inside = 1; run = ($1 == "```sh") && !skip; next }
    inside && run && /^[ \t]*cargo test --workspace[ \t]*$/ { next }
    inside && run && /^[ \t]*cargo build --release[ \t]*$/ { next }
    inside && run && /^[ \t]*cargo xtask bench[ \t]*$/ { next }
    inside && run { print; next }
    inside { next }
    /<!-- not run -->/ { skip = 1; next }
    NF { skip = 0 }
' README.md >"$work/commands.sh"
[ -s "$work/commands.sh" ] || { echo "README.md shows no command"; exit 1; }

cd "$work/repository"
# What is built is shared with the real repository; what a command would install goes with the copy.
export PATH="$target/release:$PATH" CARGO_TARGET_DIR="$target" CARGO_INSTALL_ROOT="$work/installed"
PS4='+ ' bash -euxo pipefail "$work/commands.sh"
echo "README.md: all commands ran"
