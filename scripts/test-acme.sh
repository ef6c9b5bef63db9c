#!/usr/bin/env bash
# Builds the node with ACME and lets a real ACME server (pebble, of Debian) give it a certificate: order, challenge on the
# node's own port, certificate, and the next start without the server.
set -euo pipefail
cd "$(dirname "$0")/.."
WITH_PEBBLE=1 scripts/bootstrap.sh
. scripts/env.sh

for tool in pebble pebble-challtestsrv; do
    command -v "$tool" >/dev/null || { echo "test-acme: $tool is missing; install Debian's package pebble" >&2; exit 1; }
done
# Their way to each other is this machine's own.
env -u http_proxy -u https_proxy -u HTTP_PROXY -u HTTPS_PROXY \
    timeout 600 cargo test --locked --package fabstir-llm-node --features acme --test acme --lib -- tls certificate_is_ordered
