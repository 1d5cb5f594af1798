#!/usr/bin/env bash
# Ranks that are killed, stopped, interrupted and starved of memory, with real processes: what the survivors say, how soon
# all have ended, and that nothing is left behind.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release --quiet
slackline="$(realpath "${CARGO_TARGET_DIR:-target}/release/slackline")"
work="$(mktemp -d)"
command=""
cleanup() {
    [ -z "$command" ] || kill -KILL "$command" 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT
config="$PWD/examples/kaggle-small.json"
cd "$work"

say() { printf '\n--- %s\n' "$*"; }
fail() { echo "FAILED: $*"; exit 1; }
now() { date +%s%3N; }

say "a model and rows"
"$slackline" init --config "$config" --seed 1 --output model --shards 2
"$slackline" generate --config "$config" --rows 20000 --seed 1 --output rows.tsv
"$slackline" generate --config "$config" --rows 100 --seed 1 --output few.tsv
ls -A >before

# The processes of the ranks, in rank order, once each has joined the group and opened the input.
ranks_of() {
    local parent=$1 rank child found
    for _ in $(seq 300); do
        found=()
        for rank in 0 1 2 3; do
            for child in $(cat "/proc/$parent/task/$parent/children" 2>/dev/null); do
                if tr '\0' '\n' <"/proc/$child/environ" 2>/dev/null | grep -qx "SLACKLINE_RANK=$rank" &&
                    ls -l "/proc/$child/fd" 2>/dev/null | grep -q 'rows.tsv$'; then
                    found+=("$child")
                fi
            done
        done
        if [ "${#found[@]}" = 4 ]; then
            echo "${found[@]}"
            return
        fi
        sleep 0.05
    done
    return 1
}

# Four ranks as processes, 20 ms or more a batch: more than a minute for the whole input.
start() {
    "$slackline" infer model --input rows.tsv --format criteo-tsv --ranks 4 --transport shm --batch 8 --output out.csv \
        --delay random:1..2 --delay-unit 20 "$@" >out 2>err &
    command=$!
    read -ra ranks <<<"$(ranks_of "$command")" || fail "the ranks did not start: $(cat err)"
    [ "${#ranks[@]}" = 4 ] || fail "the ranks did not start: $(cat err)"
    sleep 0.3
}

# Waits for the end, shows what was said, and checks exit code and time.
ended() {
    local expected=$1 most=$2 begin=$3 code=0 took
    wait "$command" || code=$?
    took=$(($(now) - begin))
    command=""
    sed 's/^/    /' err
    echo "    exit code $code, everything ended after $took ms"
    [ "$code" = "$expected" ] || fail "exit code $code instead of $expected"
    [ "$took" -le "$most" ] || fail "took longer than $most ms"
}

nothing_left() {
    local rank
    for rank in "${ranks[@]}"; do
        [ ! -e "/proc/$rank" ] || fail "process $rank is still there"
    done
    [ ! -s out ] || fail "something on standard output: $(cat out)"
    rm -f out err
    # The rows that were predicted, for --resume.
    rm -rf .out.csv.partial
    [ "$(ls -A)" = "$(cat before)" ] || fail "left behind: $(ls -A)"
    ! ls /dev/shm | grep -i slackline || fail "left in /dev/shm"
}

named() {
    local who=$1 rank
    shift
    for rank in "$@"; do
        grep -q "^\[rank $rank\] slackline: error: .*rank $who" err || fail "rank $rank does not name rank $who: $(cat err)"
    done
}

say "SIGKILL to rank 2: the others end within 2 s and name it"
start
begin=$(now)
kill -KILL "${ranks[2]}"
ended 137 2000 "$begin"
named 2 0 1 3
nothing_left

say "SIGSTOP to rank 1 with a deadline of 1 s: the others name it; it is ended after 3 s of grace"
start --deadline 1
begin=$(now)
kill -STOP "${ranks[1]}"
ended 1 6000 "$begin"
named 1 0 2 3
nothing_left

for signal in TERM:143 INT:130; do
    say "SIG${signal%:*} to the command: all ranks end"
    start
    begin=$(now)
    # A shell starts its background jobs deaf to SIGINT; the command listens nevertheless.
    kill "-${signal%:*}" "$command"
    ended "${signal#*:}" 4000 "$begin"
    nothing_left
done

say "SIGKILL to the command: its ranks do not outlive it"
start
kill -KILL "$command"
wait "$command" 2>/dev/null || true
command=""
for _ in $(seq 100); do
    alive=0
    for rank in "${ranks[@]}"; do
        grep -qs '^State:.[^ZX]' "/proc/$rank/status" && alive=1
    done
    [ "$alive" = 1 ] || break
    sleep 0.02
done
[ "$alive" = 0 ] || fail "a rank is still there"
rm -f out err
# The rows that were predicted, for --resume.
rm -rf .out.csv.partial
[ "$(ls -A)" = "$(cat before)" ] || fail "left behind: $(ls -A)"
echo "    no rank is left, and no file but the rows for --resume"

say "a full /dev/shm: the rings are in memory files without a name, which do not need it"
infer_without_shm='
    mount -t tmpfs -o size=1M tmpfs /dev/shm
    head -c 2M /dev/zero >/dev/shm/full 2>/dev/null || true
    df --output=size,avail,target /dev/shm
    exec "$@"'
if [ "$(id -u)" = 0 ] && unshare -m true 2>/dev/null; then
    unshare -m sh -c "$infer_without_shm" sh "$slackline" infer model --input rows.tsv --ranks 4 --transport shm |
        sed 's/^/    /'
else
    echo "    SKIPPED: needs root, to mount a small /dev/shm in a mount namespace of its own"
fi

say "too little address space for the rings: an error, not a crash"
code=0
(
    ulimit -v 400000
    exec "$slackline" infer model --input rows.tsv --ranks 4 --lag 1024 --batch 4096
) >out 2>err || code=$?
sed 's/^/    /' err
echo "    exit code $code"
[ "$code" = 1 ] || fail "exit code $code instead of 1"
grep -q '^slackline: error: ' err || fail "no error in words"
! grep -q panicked err || fail "a panic"

say "512 ranks as threads within 2 GiB, as in a container: it runs, or is refused by name"
# The limit is of a group above the one that the command runs in, whose own limit is "max".
limit=$((2 << 30))
if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
    root=/sys/fs/cgroup limit_file=memory.max
    own="$root$(sed -n 's/^0:://p' /proc/self/cgroup)"
else
    root=/sys/fs/cgroup/memory limit_file=memory.limit_in_bytes
    own="$root$(sed -n 's/^[0-9]*:\([^:]*,\)*memory\(,[^:]*\)*://p' /proc/self/cgroup)"
fi
[ -d "$own" ] || own=$root
container="${own%/}/slackline-faults-$$"
if mkdir -p "$container/inner" 2>/dev/null && echo "$limit" 2>/dev/null >"$container/$limit_file"; then
    for options in "--batch 128" "--batch 4096 --lag 64"; do
        code=0
        # shellcheck disable=SC2086
        (
            echo "$BASHPID" >"$container/inner/cgroup.procs"
            exec "$slackline" infer model --input few.tsv --ranks 512 --transport threads $options
        ) >out 2>err || code=$?
        sed 's/^/    /' err
        echo "    $options: exit code $code"
        if [ "$code" = 1 ]; then
            grep -q 'bytes of memory, and .* are available' err || fail "no error that names the memory"
        else
            [ "$code" = 0 ] || fail "exit code $code: neither run nor refused"
        fi
    done
    # A group is busy for a moment after its last process.
    rmdir "$container/inner" "$container" 2>/dev/null || true
else
    rmdir "$container/inner" "$container" 2>/dev/null || true
    echo "    SKIPPED: this machine does not permit a control group with a limit of memory"
fi

say "all faults ended as they should"
