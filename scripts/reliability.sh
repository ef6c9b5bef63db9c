#!/usr/bin/env bash
# Runs the reliability suite against the node's own binary. Arguments: rows; all of them where none is named.
#
#   scripts/reliability.sh [ROW...]    the long form, with release binaries; writes docs/reliability.md
#   SHORT=1 scripts/reliability.sh     the short form, with debug binaries; writes nothing but target/reliability
#
# Rows that were kept at this commit are not run again unless FRESH=1.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
suite=$target/python-kosoku
scripts/venv.sh "$suite" kosoku==0.1.0

flags=()
if [ -n "${SHORT:-}" ]; then
    bin=$target/debug
    flags+=(--short --results "$target/reliability/short.json")
    # As the tests have built them: with another set of packages cargo would build the shared ones again.
    [ -n "${BUILT:-}" ] || cargo build --locked -p fabstir-llm-node -p fabstir-reliability --bins --examples
else
    bin=$target/release
    flags+=(--results docs/reliability/results.json --page docs/reliability.md)
    cargo build --release --locked -p fabstir-llm-node -p fabstir-reliability --bins --examples
fi
[ -z "${FRESH:-}" ] || flags+=(--fresh)
# The only resource that there may be too little of: two sockets for each of ten thousand sessions, in two processes.
ulimit -n "$(ulimit -Hn)" 2>/dev/null || true
exec "$bin/fabstir-reliability" run "${flags[@]}" --node "$bin/fabstir-llm-node" --model "$(scripts/fetch-model.sh)" \
    --echo-server "$bin/examples/echo_ws" --conformance "$suite/bin/kosoku" "$@"
