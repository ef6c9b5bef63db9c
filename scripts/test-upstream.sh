#!/usr/bin/env bash
# The node in front of real servers: two llama-servers, one of which is killed. Not part of `make test`: it installs
# llama-server first, which takes minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh
. scripts/servers.sh

server=$(scripts/peer.sh)
model=$(scripts/fetch-model.sh)
cargo build --release --locked --package fabstir-llm-node --package fabstir-cli

llama() {
    "$server" --model "$model" --host 127.0.0.1 --port "$1" --ctx-size 2048 --parallel 2 --no-kv-unified --threads 1 --jinja \
        --log-disable >/dev/null 2>&1 &
    started+=($!)
}
one=$(free_port) two=$(free_port)
llama "$one" && first=$! && llama "$two"
until_answers "http://127.0.0.1:$one/health" && until_answers "http://127.0.0.1:$two/health"
start_node ENGINE_URL="http://127.0.0.1:$one/v1,http://127.0.0.1:$two/v1"

check "a question is answered" 'ask "What is the capital of France?" | grep -qi paris'
check "the usage is the server's own" 'ask_json "What is the capital of France?" | grep -q "\"completion_tokens\":[1-9]"'
check "the model is the server's" 'curl -fsS "http://$address/v1/models" | grep -q "\"engine\":\"upstream\""'
check "four questions at once" 'for i in 1 2 3 4; do ask "Say hello." >"$work/$i" & done; wait_for 4'
kill -9 "$first"
for i in 1 2 3 4; do
    check "question $i after one server was killed" 'ask "What is the capital of France?" | grep -qi paris'
done
check "the node still says that it is ready" 'curl -fsS "http://$address/ready" | grep -q "\"status\":\"ready\""'
check "a prompt that is too long is refused by name" '! ask "$(printf "word %.0s" $(seq 4000))" 2>"$work/err" && grep -q TOKEN_LIMIT "$work/err"'
finish
