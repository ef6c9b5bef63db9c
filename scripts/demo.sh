#!/usr/bin/env bash
# One encrypted question to a real model, with nothing but this repository: build, fetch the model, start a
# node with a key made up on the spot, ask, show what an outsider saw, stop. Fails if the answer is empty, or
# if anything of it travelled in the clear.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/processes.sh

question="What is the capital of France?"
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
fail() { echo "demo: $*" >&2; exit 1; }
[ -t 1 ] || say() { printf '\n%s\n' "$*"; }

say "1. Building (the first time compiles llama.cpp, a few minutes)"
cargo build --release --locked --package fabstir-llm-node --package fabstir-cli
bin="${CARGO_TARGET_DIR:-target}/release"

say "2. The model"
model=$(scripts/fetch-model.sh)
echo "$model"

work=$(mktemp -d)
node_pid=""
cleanup() {
    if [ -n "$node_pid" ] && kill -0 "$node_pid" 2>/dev/null; then kill -9 "$node_pid" 2>/dev/null || true; fi
    rm -rf "$work"
}
trap cleanup EXIT

say "3. A node with a throw-away key, on a free port"
# From the environment of this one process; never in a file or an argument.
env HOST_PRIVATE_KEY="0x$(openssl rand -hex 32)" MODEL_PATH="$model" LISTEN_ADDR=127.0.0.1:0 LOG_FORMAT=text \
    "$bin/fabstir-llm-node" >"$work/node.log" 2>&1 &
node_pid=$!
until_listens "$node_pid" "$work/node.log"
echo "listening on $address, public key $node_key"
curl -fsS "http://$address/v1/models"
echo

say "4. Asking over an encrypted session: $question"
"$bin/fabstir" keys new --out "$work/client.key"
"$bin/fabstir" ask --node "ws://$address/v1/ws" --node-key "$node_key" --key-file "$work/client.key" \
    --known-nodes "$work/known_nodes" --system "You are a helpful assistant." --temperature 0 --max-tokens 48 \
    --capture "$work/wire.jsonl" --stats "$question" | tee "$work/answer.txt"

say "5. What travelled, as anybody on the way saw it"
"$bin/fabstir" inspect "$work/wire.jsonl"
# Records of channel v2 begin with 02 06; which of them asks or answers does not show.
sealed() { grep "\"$1\"" "$work/wire.jsonl" | sed -nE 's/.*"bytes":"0206([0-9a-f]{1,64}).*/\1/p'; }
printf '\n%-10s %s\n%-10s %s…\n' "was asked" "$question" "travelled" "$(sealed sent | head -1)"
printf '%-10s %s\n%-10s %s… and %s records more\n' "was said" "$(head -1 "$work/answer.txt")" "travelled" \
    "$(sealed received | sed -n 2p)" "$(($(sealed received | wc -l) - 2))"

say "6. Checking"
answer=$(tr -d '\n' <"$work/answer.txt")
[ -n "${answer// /}" ] || fail "the answer is empty"
[ "$(sealed received | wc -l)" -gt 1 ] || fail "the answer did not come sealed"
# Of text frames there is one: what the node says of itself when somebody connects.
[ "$(grep -c '"frame"' "$work/wire.jsonl")" = 1 ] || fail "something was sent in the clear"
# Padded: every record is 2 + 16 bytes more than a bucket.
odd=$(grep -oE '"bytes":"0206[0-9a-f]*' "$work/wire.jsonl" | awk '{n = (length($0) - 9) / 2 - 18; while (n > 32 && n % 2 == 0) n /= 2; if (n != 32 && n != 24) print n}' | head -1)
[ -z "$odd" ] || fail "a record shows its length"
grep -qF "${question:0:20}" "$work/wire.jsonl" && fail "the question was readable on the wire"
grep -qF "${answer:0:20}" "$work/wire.jsonl" && fail "the answer was readable on the wire"
grep -qF "${question:0:20}" "$work/node.log" && fail "the question is in the node's log"
curl -fsS "http://$address/v1/models" | grep -q '"engine":"llama.cpp"' || fail "no model answered"
echo "the answer came from the model, sealed; neither it nor the question was readable on the wire or in the log"

say "7. Stopping"
kill -TERM "$node_pid"
wait "$node_pid" || fail "the node did not stop cleanly"
node_pid=""
tail -1 "$work/node.log"
