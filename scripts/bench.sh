#!/usr/bin/env bash
# What the protocol costs, and how the node with encryption on does beside llama.cpp's own server in the clear:
# the same model, kernels, threads, prompts and client, in turns. Writes the tables and plots of
# docs/performance.md. Results are kept in target/bench as they come: a run that was broken off goes on, and
# `make bench FRESH=1` begins anew.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
bench=$target/bench
mkdir -p "$bench"
[ -z "${FRESH:-}" ] || rm -f "$bench/results.json"

peer=$(scripts/peer.sh)
cargo build --release --locked -p fabstir-llm-node -p fabstir-bench
if [ -z "${STREAMS_ONLY:-}" ]; then
    cargo bench --locked -p fabstir-protocol --bench v1
    cargo bench --locked -p fabstir-protocol --bench v2
    cargo bench --locked -p fabstir-engine --bench recovery
    # What the kernels can do at most: the same numbers of sequences, in step, without a server.
    "${peer%/*}/llama-batched-bench" -m "$(scripts/fetch-model.sh)" -c 8192 -b 2048 -ub 512 -npp 60 -ntg 96 \
        -npl 1,4,16,32 -t 2 -tb 2 2>/dev/null | grep '^|'
    if command -v valgrind >/dev/null; then scripts/count.sh; fi
fi
exec "$target/release/fabstir-bench" --node "$target/release/fabstir-llm-node" --peer "$peer" \
    --model "$(scripts/fetch-model.sh)" --results "$bench/results.json" --page docs/performance.md "$@"
