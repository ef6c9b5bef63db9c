# Sourced, after servers.sh, by the tests that put a proxy in front of a node: a certificate for localhost, and clients of the proxy at $front,
# each from an address of its own. What the proxy says goes to $work/proxy.log.

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost \
    -addext basicConstraints=critical,CA:FALSE -keyout "$work/cert.key" -out "$work/cert.pem" 2>/dev/null

# get ADDRESS PATH: as the client at ADDRESS.
get() { curl -sS -m 5 --interface "$1" --cacert "$work/cert.pem" --resolve "localhost:$front:127.0.0.1" "https://localhost:$front$2" "${@:3}"; }
until_reached() {
    for _ in $(seq 100); do
        get 127.0.0.2 /ready >/dev/null 2>&1 && return
        sleep 0.1
    done
    cat "$work/proxy.log" >&2
    return 1
}
# With a header of the client's own, another each time, which must not count.
challenge() {
    get "$1" /v1/auth/challenge -o /dev/null -w '%{http_code}' -H 'content-type: application/json' -H "x-forwarded-for: 203.0.113.$2" \
        -d '{"challenge":"0707070707070707070707070707070707070707070707070707070707070707","context":"fabstir-node/1"}'
}
three() { for number in 1 2 3; do challenge "$1" "$number"; done; }
# call SECONDS COMMAND...: fabstir through the proxy.
call() {
    timeout "$1" "$bin/fabstir" "$2" --node "wss://localhost:$front/v1/ws" --ca-file "$work/cert.pem" --node-key "$node_key" --key-file "$work/client.key" "${@:3}"
}
said() { tr -d '\n' | xargs; }
