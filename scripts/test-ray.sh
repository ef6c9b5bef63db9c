#!/usr/bin/env bash
# The node in front of a Ray Serve application of two replicas with llama.cpp inside, one of which is killed while questions
# are being answered. Not part of `make test`: it installs Ray and llama-server first.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh
. scripts/servers.sh

server=$(scripts/peer.sh)
model=$(scripts/fetch-model.sh)
ray=target/ray
scripts/venv.sh "$ray" -r examples/ray-serve/requirements.txt
cargo build --release --locked --package fabstir-llm-node --package fabstir-cli

port=$(free_port)
env RAY_USAGE_STATS_ENABLED=0 RAY_DEDUP_LOGS=0 RAY_ENABLE_UV_RUN_RUNTIME_ENV=0 LLAMA_SERVER="$server" MODEL_PATH="$model" PORT="$port" \
    "$ray/bin/python" examples/ray-serve/app.py >"$work/ray.log" 2>&1 &
started+=($!)
until_answers "http://127.0.0.1:$port/v1/models" || { tail -20 "$work/ray.log"; exit 1; }
start_node ENGINE_URL="http://127.0.0.1:$port/v1"

# The process of each replica, as its answers name it: several questions at once find them all.
replicas() {
    local i
    for i in $(seq 8); do
        curl -sS -m 60 -D - -o /dev/null "http://127.0.0.1:$port/v1/chat/completions" -H 'content-type: application/json' \
            -d '{"messages":[{"role":"user","content":"hi"}],"max_tokens":8,"stream":true}' 2>/dev/null &
    done | tr -d '\r' | sed -n 's/^x-replica-pid: //Ip' | sort -u
}
check "a question is answered" 'ask "What is the capital of France?" | grep -qi paris'
check "there are two replicas" 'replicas >"$work/replicas"; [ "$(wc -l <"$work/replicas")" = 2 ]'
# Eight questions, and in the middle of them one replica dies with the llama-server inside it.
for i in $(seq 8); do
    (timeout 60 "$bin/fabstir" ask --node "ws://$address/v1/ws" --node-key "$node_key" --key-file "$work/client.key" \
        --known-nodes "$work/known_nodes" --temperature 0 --max-tokens 200 "Tell a long story of fox number $i." \
        >"$work/$i.out" 2>"$work/$i.err" && echo 0 >"$work/$i.rc" || echo $? >"$work/$i.rc") &
    asked[$i]=$!
done
sleep 1.5
victim=$(head -1 "$work/replicas")
pkill -9 -P "$victim" || true
kill -9 "$victim"
answered=0 told=0
for i in $(seq 8); do
    wait "${asked[$i]}" || true
    if [ "$(cat "$work/$i.rc")" = 0 ] && [ -s "$work/$i.out" ]; then
        answered=$((answered + 1))
    elif grep -q ENGINE_FAILED "$work/$i.err"; then
        told=$((told + 1))
    else
        echo "      question $i: exit $(cat "$work/$i.rc"): $(cat "$work/$i.err")"
    fi
done
echo "      of eight questions $answered were answered, and $told told that the engine failed after their first words"
check "every question has an answer or a reason" '[ $((answered + told)) = 8 ] && [ "$answered" -ge 3 ]'
check "questions after it are answered" 'for i in 1 2 3; do ask "What is the capital of France?" | grep -qi paris || exit 1; done'
replaced() { local i; for i in $(seq 60); do [ "$(replicas | grep -cvx "$victim")" -ge 2 ] && return; sleep 1; done; return 1; }
check "the dead replica is replaced" replaced
finish
