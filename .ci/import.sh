#!/usr/bin/env bash
# A checkpoint of GIB GiB, as safetensors and as a snapshot (parts of 1048576 rows, as MLPerf publishes its weights), is
# imported, killed in the middle, and gone on with: there is no half model, the memory stays bounded, and what comes out is
# the same to the byte.
#
#     .ci/import.sh [GIB] [FORMAT...]     1 and both by default; needs python3, and 2 GIB of disk where TMPDIR points
#
# With ROWS=int8 in the environment (or another row format), rows are brought into that, and the result is compared with
# that of an import that nobody killed: less disk, more work.
set -euo pipefail
cd "$(dirname "$0")/.."
gib="${1:-1}"
formats=("${@:2}")
[ "${#formats[@]}" -gt 0 ] || formats=(safetensors snapshot)
cargo build --release --quiet
slackline="$(realpath "${CARGO_TARGET_DIR:-target}/release/slackline")"
work="$(mktemp -d)"
command=""
cleanup() {
    [ -z "$command" ] || kill -KILL "$command" 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT
cd "$work"

say() { printf '\n--- %s\n' "$*"; }
fail() { echo "FAILED: $*"; exit 1; }

# The command, with its time and the most memory that it had; fails above 1 GiB.
measured() {
    python3 - "$@" <<'PYTHON'
import resource, subprocess, sys, time
begin = time.monotonic()
code = subprocess.run(sys.argv[1:]).returncode
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
print(f"took {time.monotonic() - begin:.0f} s, peak memory {peak:.0f} MiB", flush=True)
sys.exit(code or peak > 1024)
PYTHON
}

# KiB that the import has written.
written() { { du -sk .model.partial 2>/dev/null || echo 0; } | cut -f1; }

say "a checkpoint of $gib GiB: four large tables, 22 small ones, 128 columns"
python3 - "$gib" >config.json <<'PYTHON'
import json, sys
large = int(float(sys.argv[1]) * 2**30 / 512 * 0.9998 / 4)
print(json.dumps({
    "arch_sparse_feature_size": 128, "arch_embedding_size": [large + 7 * n for n in range(4)] + [100 * n + 1 for n in range(22)],
    "arch_mlp_bot": "13-512-256-128", "arch_mlp_top": "1024-512-256-1",
}))
PYTHON
"$slackline" init --config config.json --seed 1 --output source --shards 4
# The same bytes as a snapshot: a manifest that names ranges of them.
python3 <<'PYTHON'
import glob, json, struct
manifest, rank = {}, 0
for path in sorted(glob.glob("source/*.safetensors")):
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    header.pop("__metadata__")
    for name, entry in header.items():
        shape, begin = entry["shape"], 8 + length + entry["data_offsets"][0]
        row_bytes = 4 if len(shape) == 1 else 4 * shape[1]
        def part(first, rows):
            return {"type": "Tensor", "location": path.split("/")[1], "serializer": "buffer_protocol",
                    "dtype": "torch.float32", "shape": [rows] + shape[1:], "replicated": False,
                    "byte_range": [begin + first * row_bytes, begin + (first + rows) * row_bytes]}
        pieces = [(first, min(1 << 20, shape[0] - first)) for first in range(0, shape[0], 1 << 20)]
        shards = [{"offsets": [first] + [0] * (len(shape) - 1), "sizes": [rows] + shape[1:], "tensor": part(first, rows)}
                  for first, rows in pieces]
        # Half of the parts are those of another rank.
        for rank in range(2):
            manifest[f"{rank}/model/{name}"] = {"type": "ShardedTensor", "shards": shards[rank::2]}
with open("source/.snapshot_metadata", "w") as file:
    json.dump({"version": "0.1.0", "world_size": 2, "manifest": manifest}, file)
PYTHON

for format in "${formats[@]}"; do
    case "$format" in
        safetensors) checkpoint=source/model.safetensors.index.json ;;
        snapshot) checkpoint=source ;;
        *) fail "formats are safetensors and snapshot" ;;
    esac
    import=("$slackline" import "$checkpoint" --config config.json --shards 4 --keep-every 64)
    whole=source
    if [ -n "${ROWS:-}" ]; then
        say "$format, rows as $ROWS: not killed"
        import+=(--rows "$ROWS")
        whole=whole
        measured "${import[@]}" --output whole | grep -E "^(took|wrote)"
    fi
    # Where half of what will be written is there.
    half=$(($(python3 -c "print(int(float('$gib') * 2**20))") / 2))
    [ "$whole" = source ] || half=$(($(du -sk whole | cut -f1) / 2))

    say "$format: killed in the middle"
    "${import[@]}" --output model >out 2>err &
    command=$!
    while [ "$(written)" -lt "$half" ]; do
        kill -0 "$command" 2>/dev/null || fail "it ended before it could be killed: $(cat out err)"
        sleep 0.02
    done
    grep VmHWM "/proc/$command/status"
    kill -KILL "$command"
    wait "$command" 2>/dev/null || true
    command=""
    [ ! -e model ] || fail "there is a model"
    du -sh .model.partial

    say "$format: gone on with"
    measured "${import[@]}" --output model | tee out
    grep -q "resumed an import" out || fail "it began anew"
    [ ! -e .model.partial ] || fail "something is left"

    say "$format: the same bytes as in $whole"
    for file in "$whole"/*.safetensors; do
        cmp "$file" "model/$(basename "$file")"
        echo "$(basename "$file") is equal"
    done
    rm -rf model whole
done
