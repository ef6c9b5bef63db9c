# Sourced by the tests that run the node in front of other servers: a node, questions, a tally, and an end for whatever
# was started.

. scripts/processes.sh
bin=${CARGO_TARGET_DIR:-target}/release
work=$(mktemp -d)
started=()
passed=0 failed=0

stop_all() {
    for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${started[@]}"; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$work"
}
trap stop_all EXIT

# Starts a node with the settings given as NAME=value; sets $address and $node_key.
start_node() {
    env HOST_PRIVATE_KEY="0x$(openssl rand -hex 32)" LISTEN_ADDR=127.0.0.1:0 "$@" "$bin/fabstir-llm-node" >"$work/node.log" 2>&1 &
    started+=($!)
    until_listens "${started[-1]}" "$work/node.log"
    "$bin/fabstir" keys new --out "$work/client.key" >/dev/null
}

ask_with() {
    "$bin/fabstir" ask --node "ws://$address/v1/ws" --node-key "$node_key" --key-file "$work/client.key" \
        --known-nodes "$work/known_nodes" --temperature 0 --max-tokens 24 "$@"
}
ask() { ask_with --system "You are a helpful assistant." "$1"; }
ask_json() { ask_with --json --system "You are a helpful assistant." "$1"; }

# Waits for the last $1 background jobs and fails if any of them did.
wait_for() {
    local pid status=0
    for pid in $(jobs -p | tail -n "$1"); do wait "$pid" || status=1; done
    return "$status"
}

check() {
    if eval "$2"; then
        echo "ok    $1" && passed=$((passed + 1))
    else
        echo "FAILED $1" && failed=$((failed + 1))
        tail -5 "$work/node.log" | sed 's/^/    /'
    fi
}

finish() {
    echo "$passed passed, $failed failed"
    [ "$failed" = 0 ]
}
