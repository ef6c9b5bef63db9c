#!/usr/bin/env bash
# Calls running nodes as docs/openapi.json says, and as it does not, and holds every answer to the document (Schemathesis):
# documented statuses, content types, headers and schemas, no 5xx that is not documented, Allow with 405. The same calls
# in every run; CALLS (400) says how many the first node gets. NODE_BIN is a node that is built already.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh
. scripts/processes.sh

fail() { echo "test-openapi: $*" >&2; exit 1; }
calls=${CALLS:-400}
[[ $calls =~ ^[0-9]{1,6}$ ]] || fail "CALLS is a number of calls"

# The same packages as in the demo, so that cargo builds nothing twice.
bin=${NODE_BIN:-}
if [ -z "$bin" ]; then
    cargo build --quiet --release --locked --package fabstir-llm-node --package fabstir-cli
    bin="${CARGO_TARGET_DIR:-target}/release/fabstir-llm-node"
fi

root=$PWD
tools=$root/target/openapi
scripts/venv.sh "$tools" schemathesis==4.32.5 openapi-spec-validator==0.9.0
"$tools/bin/openapi-spec-validator" docs/openapi.json >&2

work=$(mktemp -d)
node_pid=""
cleanup() {
    if [ -n "$node_pid" ] && kill -0 "$node_pid" 2>/dev/null; then kill -9 "$node_pid"; wait "$node_pid" 2>/dev/null || true; fi
    rm -rf "$work"
}
trap cleanup EXIT

# What no schema can say of POST /v1/ws is whether the sealed data opens; GET /v1/ws wants an upgrade, which is not HTTP's.
cat >"$work/schemathesis.toml" <<'TOML'
[[operations]]
include-name = "POST /v1/ws"
checks.positive_data_acceptance.expected-statuses = ["2xx", 400, 401, 403, 409, 426, 429, 501]
checks.negative_data_rejection.expected-statuses = ["4xx", "5xx"]

[[operations]]
include-name = "GET /v1/ws"
checks.positive_data_acceptance.expected-statuses = [426]

[[operations]]
include-name = "POST /v1/auth/challenge"
checks.positive_data_acceptance.expected-statuses = ["2xx", 403, 429, 501]
TOML
# A node without a key says 501 to what needs one; with a key that would be a fault.
cat "$work/schemathesis.toml" - >"$work/without-a-key.toml" <<'TOML'

[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 501]
TOML

# against NAME CONFIG EXAMPLES LEAST [FLAG…]: a node with these flags, called for a while; LEAST calls at least.
against() {
    local name=$1 config=$2 examples=$3 least=$4 address node_key
    shift 4
    env -u MODEL -u MODEL_PATH -u ENGINE_URL LISTEN_ADDR=127.0.0.1:0 LOG_FORMAT=text \
        "$bin" --engine echo --inits-per-minute 1000 "$@" >"$work/$name.log" 2>&1 &
    node_pid=$!
    until_listens "$node_pid" "$work/$name.log"
    curl -fsS "http://$address/openapi.json" | cmp - docs/openapi.json || fail "the node serves another document than docs/openapi.json"

    # In a folder of its own, where it keeps what it likes.
    (cd "$work" && timeout 600 "$tools/bin/schemathesis" --config-file "$work/$config.toml" run "$root/docs/openapi.json" \
        --url "http://$address" --phases examples,coverage,fuzzing --checks all --max-examples "$examples" --generation-deterministic \
        --continue-on-failure --request-timeout 30 --no-color --warnings off --report json \
        --report-json-path "$work/$name.json" >"$work/$name.txt" 2>&1) || true
    [ -s "$work/$name.json" ] || { cat "$work/$name.txt" >&2; fail "Schemathesis made no report"; }
    python3 - "$work/$name.json" "$name" "$least" <<'PYTHON' || { cat "$work/$name.txt" >&2; failed_runs=1; }
import json, sys
path, name, least = sys.argv[1:]
report = json.load(open(path))
cases = report["test_cases"]
failed = cases["with_failures"] + cases["errored"] + len(report["errors"])
whole = report["complete"] and report["operations"]["tested"] == report["operations"]["total"]
print(f"{name}: {cases['generated']} calls of {report['operations']['tested']} operations, {failed} failed")
open(path + ".sum", "w").write(f"{cases['generated'] - failed} {failed}")
sys.exit(0 if failed == 0 and whole and cases["generated"] >= int(least) else 1)
PYTHON
    local good bad
    read -r good bad <"$work/$name.json.sum" || [ -n "$good" ]
    passed=$((passed + good)) failed=$((failed + bad))

    kill -TERM "$node_pid"
    wait "$node_pid" || fail "the node did not stop cleanly"
    node_pid=""
    if grep -qE ' ERROR |panicked' "$work/$name.log"; then cat "$work/$name.log" >&2; fail "the node met an error of its own"; fi
}

passed=0 failed=0 failed_runs=0
# Two operations take a body; the rest of the calls, some 370, are the same however many there are of these.
examples=$((calls > 372 ? (calls - 370) / 2 : 1))
key="0x$(openssl rand -hex 32)"
HOST_PRIVATE_KEY=$key against "with a key" schemathesis "$examples" "$calls" --allow-plaintext --challenges-per-minute 1000000
HOST_PRIVATE_KEY=$key against "version 2 alone, few challenges" schemathesis 5 300 --min-protocol 2
against "without a key" without-a-key 5 300

[ "$failed_runs" -eq 0 ] || [ "$failed" -gt 0 ] || failed=1
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
