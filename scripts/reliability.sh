#!/usr/bin/env bash
# The reliability suite in its long form; `SHORT=1` in the short one, arguments name rows (see `fabstir-reliability list`).
# Results of this commit are kept: a run that was broken off goes on (FRESH=1 begins anew). docs/reliability.md is written from them.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/fetch-model.sh
conformance=target/python-kosoku
[ -x "$conformance/bin/kosoku" ] || { python3 -m venv "$conformance" && "$conformance/bin/pip" -q --disable-pip-version-check install kosoku==0.1.0; }
cargo build --release --locked -p fabstir-llm-node -p fabstir-reliability
cargo build --release --locked -p fabstir-llm-node --example echo_ws

model=${XDG_CACHE_HOME:-$HOME/.cache}/fabstir/models/SmolLM2-135M-Instruct.Q4_1.gguf
flags=(--node target/release/fabstir-llm-node --model "$model" --echo-server target/release/examples/echo_ws
    --conformance "$conformance/bin/kosoku")
[ -z "${SHORT:-}" ] || flags+=(--short)
[ -z "${FRESH:-}" ] || flags+=(--fresh)
exec target/release/fabstir-reliability run "${flags[@]}" "$@"
