#!/usr/bin/env bash
# Other people's clients, unmodified, through `fabstir proxy` to a real node and model: examples/proxy-clients.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/servers.sh

python=target/proxy-clients
clients=examples/proxy-clients
[ -x "$bin/fabstir" ] && [ -x "$bin/fabstir-llm-node" ] || cargo build --release --locked -p fabstir-llm-node -p fabstir-cli
scripts/venv.sh "$python" -r "$clients/requirements.txt"

export XDG_CONFIG_HOME="$work"
model=$(scripts/fetch-model.sh)
start_node MODEL_PATH="$model" LOG_FORMAT=text
"$bin/fabstir" proxy --anonymous --listen 127.0.0.1:0 --node "ws://$address/v1/ws" --node-key "$node_key" >"$work/proxy.log" 2>&1 &
started+=($!)
until_says "${started[-1]}" "$work/proxy.log" '^http'
place=$(sed -nE 's/^http:\/\/(.*)\/v1$/\1/p' "$work/proxy.log")

# As a user does it, but for the port, which is a free one here.
eval "$("$bin/fabstir" proxy --env --listen "$place")"
MODEL=$(basename "$model" .gguf)
export MODEL LITELLM_LOCAL_MODEL_COST_MAP=True
for client in chat.py messages.py lite.py curl.sh; do
    case $client in
        *.py) "$python/bin/python" "$clients/$client" ;;
        *) "$clients/$client" ;;
    esac && passed=$((passed + 1)) || failed=$((failed + 1))
done
finish
