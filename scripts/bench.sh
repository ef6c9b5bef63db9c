#!/usr/bin/env bash
# What the protocol costs, and what a session feels like: prints tables, writes nothing. docs/performance.md has
# the figures of one run.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo bench --locked -p fabstir-protocol --bench v1
cargo build --release --locked -p fabstir-llm-node -p fabstir-cli
bin="${CARGO_TARGET_DIR:-target}/release"
model=$(scripts/fetch-model.sh)
work=$(mktemp -d)
node_pid=""
cleanup() {
    if [ -n "$node_pid" ]; then kill -TERM "$node_pid" 2>/dev/null || true; fi
    rm -rf "$work"
}
trap cleanup EXIT
env HOST_PRIVATE_KEY="0x$(openssl rand -hex 32)" MODEL_PATH="$model" LISTEN_ADDR=127.0.0.1:0 MAX_SEQUENCES=16 \
    CONTEXT_TOKENS=1024 "$bin/fabstir-llm-node" >"$work/node.log" 2>&1 &
node_pid=$!
for _ in $(seq 300); do grep -qs ' listening' "$work/node.log" && break; sleep 0.1; done
address=$(sed -nE 's/.* listening address=([0-9.:]+).*/\1/p' "$work/node.log" | head -1)
node_key=$(sed -nE 's/.*public_key=([0-9a-f]{66}).*/\1/p' "$work/node.log" | head -1)

ask() {
    "$bin/fabstir" ask --node "ws://$address/v1/ws" --node-key "$node_key" --key-file "$work/client.key" \
        --known-nodes "$work/known_nodes" --json --temperature 0.7 --seed "$1" --max-tokens 200 \
        "Write a very long story about a fox." | tail -1
}
"$bin/fabstir" keys new --out "$work/client.key" >/dev/null
ask 1 >/dev/null
for streams in 1 4 16; do
    for seed in $(seq "$streams"); do ask "$seed" >"$work/$streams.$seed.json" & pids[seed]=$!; done
    for seed in $(seq "$streams"); do wait "${pids[seed]}"; done
    python3 - "$streams" "$work"/"$streams".*.json <<'PYTHON'
import json, statistics, sys
runs = [json.load(open(path)) for path in sys.argv[2:]]
ttft = statistics.median(run["ttft_ms"] for run in runs)
rate = sum(run["tokens_per_second"] for run in runs)
print(f"{sys.argv[1]:>3} streams: time to first token {ttft:.0f} ms (median), {rate:.0f} tokens/s in all")
PYTHON
done
