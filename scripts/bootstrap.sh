#!/usr/bin/env bash
# Installs what this machine lacks to build and test the project: as root through apt, otherwise as Python
# wheels in target/tools. Says nothing when nothing is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "bootstrap: $*" >&2; }
fail() { say "$*"; exit 1; }
has() { command -v "$1" >/dev/null 2>&1; }
# libclang itself, by the names that bindgen looks for; libclang-cpp, which other packages bring, is another library.
has_libclang() {
    local dir
    for dir in /usr/lib/llvm-*/lib /usr/lib/*-linux-gnu /usr/lib64 /usr/lib /usr/local/lib; do
        compgen -G "$dir/libclang.so*" >/dev/null || compgen -G "$dir/libclang-[0-9]*.so*" >/dev/null && return 0
    done
    return 1
}

if ! has cargo; then
    [ -f "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"
fi
if ! has cargo; then
    has curl || fail "Rust is missing and so is curl: install Rust 1.95 or newer with rustup"
    say "installing Rust with rustup ..."
    curl --proto '=https' --tlsv1.2 -fsS https://sh.rustup.rs | sh -s -- -y --profile minimal -c rustfmt -c clippy >&2
fi

packages=()
has c++ && has make || packages+=(build-essential)
has cmake || packages+=(cmake)
has_libclang || packages+=(libclang-dev)
has python3 && python3 -m pip --version >/dev/null 2>&1 || packages+=(python3-pip)
has curl || packages+=(curl)
has openssl || packages+=(openssl)
has npm || packages+=(nodejs npm)
has patch || packages+=(patch)
# Makes the second build of llama.cpp (release after test, or the other way round) a matter of seconds.
has ccache || packages+=(ccache)
[ "${#packages[@]}" -eq 0 ] && exit 0

if [ "$(id -u)" -eq 0 ] && has apt-get; then
    say "installing ${packages[*]} ..."
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq >&2 || say "apt-get update failed; trying with what is known"
    apt-get install -y -qq --no-install-recommends "${packages[@]}" >&2 || fail "apt-get could not install ${packages[*]}"
    exit 0
fi

has c++ || fail "a C++ compiler is missing: ask an administrator for build-essential"
has python3 || fail "python3 is missing: ask an administrator for python3-pip and python3-venv"
if ! has cmake || ! has_libclang; then
    tools=target/tools
    if [ ! -x "$tools/bin/cmake" ]; then
        say "installing cmake and libclang into $tools ..."
        python3 -m venv "$tools" >&2 || fail "python3 -m venv failed: ask an administrator for python3-venv"
        "$tools/bin/pip" -q --disable-pip-version-check install cmake==3.31.6 libclang==18.1.1 >&2 \
            || fail "pip could not install cmake and libclang"
    fi
fi
