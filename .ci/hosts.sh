#!/usr/bin/env bash
# Several hosts on one machine: network namespaces joined by a bridge, each with an address and a name of its own and a
# limit on what it sends. Over TCP between them, under Open MPI's mpirun: the tests of slackline-mpi, equal predictions,
# and lag 0 beside bounded lag.
#
#   .ci/hosts.sh                     all of that on 4 hosts, 1 Gbit/s each
#   .ci/hosts.sh mpirun ARGUMENT...  mpirun on those hosts, of any program
#   HOSTS=2 RATE=200mbit .ci/hosts.sh …
#   ROUNDS=100 REPS=3 LAGS=0,1,2,4,8 .ci/hosts.sh   the table of docs/benchmarks-mpi.md
#
# Needs the right to make namespaces (root); says so and ends well where it may not.
set -euo pipefail
cd "$(dirname "$0")/.."
step() { printf '+ %s\n' "$*"; "$@"; }
fail() { echo "FAILED: $*"; exit 1; }
skip() { echo "SKIPPED, no hosts: $*"; exit 0; }

hosts="${HOSTS:-4}"
rate="${RATE:-1gbit}"
prefix="slackline$$"
net=10.77.0
work="$(mktemp -d)"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_MCA_hwloc_base_binding_policy=none

[ "$(id -u)" = 0 ] || skip "only root may make network namespaces"
if ! command -v ip >/dev/null || ! command -v tc >/dev/null; then
    command -v apt-get >/dev/null || skip "ip and tc are missing: install iproute2"
    step apt-get update -qq
    step apt-get install -y -qq --no-install-recommends iproute2
fi

remove_hosts() {
    local host
    for host in switch $(seq "$hosts"); do
        ip netns delete "$prefix-$host" 2>/dev/null || true
    done
    rm -rf "$work"
}
trap remove_hosts EXIT

# The bridge stands in a namespace of its own, so that the machine's network is not touched.
make_hosts() {
    local host name
    ip netns add "$prefix-switch" 2>"$work/why" || skip "$(cat "$work/why")"
    ip -n "$prefix-switch" link add bridge type bridge 2>"$work/why" || skip "no bridge: $(cat "$work/why")"
    ip -n "$prefix-switch" link set bridge up
    for host in $(seq "$hosts"); do
        name="$prefix-$host"
        ip netns add "$name"
        ip -n "$name" link set lo up
        ip -n "$name" link add eth0 type veth peer name "port$host" netns "$prefix-switch"
        ip -n "$prefix-switch" link set "port$host" master bridge up
        ip -n "$name" address add "$net.$host/24" dev eth0
        ip -n "$name" link set eth0 up
        tc -n "$name" qdisc add dev eth0 root tbf rate "$rate" burst 128kb latency 200ms 2>"$work/why" ||
            skip "no bandwidth limit: $(cat "$work/why")"
    done
    ip netns exec "$prefix-1" unshare --uts true 2>"$work/why" || skip "no host names: $(cat "$work/why")"

    # What stands in for ssh, and an mpirun that starts on host 1 and knows them all.
    cat >"$work/agent" <<END
#!/usr/bin/env bash
host="\$1"; shift
exec ip netns exec "$prefix-\${host##*.}" unshare --uts bash -c "hostname host\${host##*.}; \$*"
END
    local list
    list="$(seq -s, -f "$net.%g:2" "$hosts")"
    cat >"$work/mpirun" <<END
#!/usr/bin/env bash
exec ip netns exec "$prefix-1" unshare --uts bash -c 'hostname host1; exec mpirun.openmpi "\$@"' mpirun \
    --host "$list" --map-by node --mca plm_rsh_agent "$work/agent" --mca btl self,tcp --mca pml ob1 \
    --mca btl_tcp_if_include eth0 --mca oob_tcp_if_include eth0 "\$@"
END
    chmod +x "$work/agent" "$work/mpirun"
    echo "$hosts hosts, $rate each"
}

command -v mpirun.openmpi >/dev/null || skip "Open MPI is missing; .ci/mpi.sh installs it"
make_hosts
if [ "${1:-}" = mpirun ]; then
    shift
    "$work/mpirun" "$@"
    exit
fi

export MPICC=mpicc.openmpi MPIRUN="$work/mpirun"
target="${CARGO_TARGET_DIR:-target}"
.ci/bindings.sh "$MPICC"
step "$MPIRUN" -n "$hosts" hostname
SLACKLINE_CASES="${SLACKLINE_CASES:-20}" step cargo test --package slackline-mpi --features mpi
step cargo build --release --features slackline-cli/mpi,slackline-bench/mpi
slackline="$target/release/slackline"

step "$slackline" init --config examples/kaggle-small.json --seed 1 --output "$work/model"
step "$slackline" generate --config examples/kaggle-small.json --rows 1500 --seed 1 --output "$work/rows.csv"
"$slackline" infer "$work/model" --input "$work/rows.csv" --output "$work/threads.csv" >/dev/null
for ranks in "$hosts" $((2 * hosts)); do
    for lag in 0 4; do
        rm -f "$work/hosts.csv"
        "$MPIRUN" -n "$ranks" "$slackline" infer "$work/model" --input "$work/rows.csv" --output "$work/hosts.csv" \
            --transport mpi --lag "$lag" --batch 100 --delay random:0..1 >"$work/log" 2>&1 ||
            { cat "$work/log"; fail "$ranks ranks, lag $lag"; }
        cmp "$work/threads.csv" "$work/hosts.csv" || fail "different: $ranks ranks on $hosts hosts, lag $lag"
        echo "$ranks ranks on $hosts hosts, lag $lag: the bytes of threads"
    done
done

# A model under delays, and messages that the limit holds up: 3 x 32 KiB a round are 0.8 ms of 1 Gbit/s.
bench=("$target/release/slackline-bench" run --transport mpi --ranks "$hosts" --rounds "${ROUNDS:-40}"
    --reps "${REPS:-1}" --lags "${LAGS:-0,1,4}" --output "$work/bench")
step "${bench[@]}" --scenario turn | grep -E '^(turn|│)'
step "${bench[@]}" --work slept --bytes 32768 --baselines --scenario balanced --scenario turn --scenario random |
    grep -E '^(balanced|turn|random|│)'
