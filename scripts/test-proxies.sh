#!/usr/bin/env bash
# deploy/nginx and deploy/caddy under Debian's own nginx and Caddy, in front of a node: sessions, streams, who the client is, what
# nobody may ask for, and a connection that is silent for longer than either would wait.
set -euo pipefail
cd "$(dirname "$0")/.."
WITH_PROXIES=1 scripts/bootstrap.sh
. scripts/env.sh
. scripts/servers.sh

for tool in nginx caddy nft; do command -v "$tool" >/dev/null || { echo "test-proxies: $tool is missing; install Debian's package of it" >&2; exit 1; }; done
bin=${CARGO_TARGET_DIR:-target}/debug
[ -n "${BUILT:-}" ] || cargo build --locked -p fabstir-llm-node -p fabstir-cli --bins
export XDG_CONFIG_HOME="$work" XDG_DATA_HOME="$work" HOME="$work"
. scripts/front.sh
metrics=$(free_port)
start_node ENGINE=echo LOG_FORMAT=text METRICS_LISTEN="127.0.0.1:$metrics" TRUSTED_PROXIES=127.0.0.1 CHALLENGES_PER_MINUTE=2

# A file of deploy/, with this test's ports, name and certificate in the place of those in it.
placed() {
    sed -e "s#127\.0\.0\.1:8080#$address#" -e "s#/etc/fabstir/#$work/#g" -e "s#listen 443 #listen 127.0.0.1:$front #" \
        -e "s#server_name node.example.org#server_name localhost#" -e "s#^node.example.org#https://localhost:$front#" "$1"
}
start_nginx() {
    mkdir -p "$work/nginx"
    placed deploy/nginx/fabstir.conf >"$work/nginx/fabstir.conf"
    cat >"$work/nginx/nginx.conf" <<EOF
daemon off;
pid $work/nginx/pid;
error_log stderr;
events {}
http {
    access_log off;
    client_body_temp_path $work/nginx/body; proxy_temp_path $work/nginx/proxy; fastcgi_temp_path $work/nginx/fastcgi;
    uwsgi_temp_path $work/nginx/uwsgi; scgi_temp_path $work/nginx/scgi;
    include $work/nginx/fabstir.conf;
}
EOF
    nginx -q -t -c "$work/nginx/nginx.conf"
    nginx -c "$work/nginx/nginx.conf" >"$work/proxy.log" 2>&1 &
}
start_caddy() {
    { printf '{\n\tadmin off\n\tauto_https off\n}\n' && placed deploy/caddy/Caddyfile; } >"$work/Caddyfile"
    caddy validate --adapter caddyfile --config "$work/Caddyfile" >"$work/proxy.log" 2>&1 || { cat "$work/proxy.log" >&2; return 1; }
    caddy run --adapter caddyfile --config "$work/Caddyfile" >"$work/proxy.log" 2>&1 &
}
resumed() { curl -fsS "http://127.0.0.1:$metrics/metrics" | sed -n 's/^fabstir_resumptions_total{result="ok"} //p'; }
# One line, and another after a silence that is longer than the proxies' own default of a minute, and than ours.
patient() { { echo "first words"; sleep "${SILENT_SECONDS:-100}"; echo "later words"; } | call 200 chat; }

client=2
for proxy in nginx caddy; do
    front=$(free_port)
    "start_$proxy"
    pid=$!
    started+=("$pid")
    until_reached
    check "$proxy: a session, sealed through the TLS that it ends" '[ "$(call 30 ask "hello there" | said)" = "hello there" ]'
    check "$proxy: a client's rate is its own, whatever it writes in the header" "[ \"\$(three 127.0.1.$client)\" = 200200429 ]"
    client=$((client + 1))
    check "$proxy: another client has its own" "[ \"\$(three 127.0.1.$client)\" = 200200429 ]"
    client=$((client + 1))
    check "$proxy: nobody sees the metrics" '[ "$(get 127.0.0.2 /metrics -o /dev/null -w "%{http_code}")" = 404 ]'
    check "$proxy: a connection outlives a long silence, without being resumed" 'patient >"$work/chat" && grep -q "later words" "$work/chat" && [ -z "$(resumed)" ]'
    kill "$pid" && wait "$pid" || true
done
if nft -c -f deploy/nftables.conf 2>"$work/nft"; then
    check "nftables takes the example" true
    # In a network of its own: what is loaded again stands once, and who is kept out is so before anything is let in.
    rules() { unshare -n sh -c 'for _ in 1 2; do nft -f deploy/nftables.conf || exit; done; nft list chain inet fabstir input'; }
    if listed=$(rules 2>"$work/nft"); then
        check "loaded again it stands once" '[ "$(grep -c "ct state established" <<<"$listed")" = 1 ]'
        check "who is kept out loses what is open" '[ "$(grep -n "saddr @out4" <<<"$listed" | cut -d: -f1)" -lt "$(grep -n "ct state established" <<<"$listed" | cut -d: -f1)" ]'
    else
        echo "not checked, there can be no network of its own here: $(head -1 "$work/nft")"
    fi
else
    # Without the right to speak to the kernel's firewall it cannot even be checked.
    grep -q "Operation not permitted" "$work/nft" && echo "not checked, nft may not speak to the kernel here: deploy/nftables.conf" || check "nftables takes the example: $(cat "$work/nft")" false
fi
finish
