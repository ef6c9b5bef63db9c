#!/usr/bin/env bash
# Debian's haproxy in front of a node that ends TLS itself, passing TCP on with a header of the PROXY protocol: sessions, who
# the client is, the proxy's own probes, and that nobody comes in past the proxy.
set -euo pipefail
cd "$(dirname "$0")/.."
WITH_HAPROXY=1 scripts/bootstrap.sh
. scripts/env.sh
. scripts/servers.sh

command -v haproxy >/dev/null || { echo "test-haproxy: haproxy is missing; install Debian's package haproxy" >&2; exit 1; }
bin=${CARGO_TARGET_DIR:-target}/debug
[ -n "${BUILT:-}" ] || cargo build --locked -p fabstir-llm-node -p fabstir-cli --bins
export XDG_CONFIG_HOME="$work"
. scripts/front.sh
metrics=$(free_port) front=$(free_port)
start_node TLS_CERT_FILE="$work/cert.pem" TLS_KEY_FILE="$work/cert.key" ENGINE=echo LOG_FORMAT=text METRICS_LISTEN="127.0.0.1:$metrics" \
    TRUSTED_PROXIES=127.0.0.1 PROXY_PROTOCOL=require MAX_CONNECTIONS_PER_NETWORK=2 CHALLENGES_PER_MINUTE=2

# Haproxy with one way of saying who comes. It is at 127.0.0.1, clients at addresses of this machine that are no trusted proxy.
start_haproxy() {
    cat >"$work/haproxy.cfg" <<EOF
global
    nbthread 1
defaults
    mode tcp
    timeout connect 5s
    timeout client 30s
    timeout server 30s
listen node
    bind 127.0.0.1:$front
    option httpchk GET /ready
    http-check expect status 200
    server node $address $1 source 127.0.0.1 check inter 200 check-send-proxy check-ssl verify none
EOF
    haproxy -db -f "$work/haproxy.cfg" >"$work/proxy.log" 2>&1 &
    haproxy=$!
    started+=("$haproxy")
    until_reached
}
counted() { curl -fsS "http://127.0.0.1:$metrics/metrics" | sed -n "s/^fabstir_proxy_headers_total{result=\"$1\"} //p"; }

client=2
for send in send-proxy send-proxy-v2 "send-proxy-v2 proxy-v2-options crc32c,unique-id"; do
    start_haproxy "$send"
    check "$send: a session through TLS that the node ends" '[ "$(call 30 ask "hello there" | said)" = "hello there" ]'
    check "$send: a client's rate is its own" "[ \"\$(three 127.0.1.$client)\" = 200200429 ]"
    client=$((client + 1))
    check "$send: another client has its own" "[ \"\$(three 127.0.1.$client)\" = 200200429 ]"
    client=$((client + 1))
    kill "$haproxy" && wait "$haproxy" || true
done
check "named clients and unnamed probes were counted" '[ "$(counted named)" -gt 10 ] && [ "$(counted unnamed)" -gt 0 ]'
check "nobody comes in past the proxy" '! curl -sS -m 5 --interface 127.0.0.2 -k "https://$address/ready" && [ "$(counted untrusted)" = 1 ]'
check "nor from the proxy without a header" '! curl -sS -m 5 -k "https://$address/ready" && [ "$(counted invalid)" = 1 ]'
finish
