#!/usr/bin/env bash
# Instructions that each operation of the protocol takes, as callgrind counts them: the same on a busy machine as on an
# idle one. Prints a table.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh
command -v valgrind >/dev/null || { echo "count: valgrind is missing (Debian: apt-get install valgrind)" >&2; exit 1; }

built=$(cargo bench --locked -p fabstir-protocol --bench counts --no-run --message-format=json 2>/dev/null)
binary=$(printf '%s\n' "$built" | sed -nE 's/.*"name":"counts".*"executable":"([^"]+)".*/\1/p' | tail -1)
out=$(mktemp)
trap 'rm -f "$out"' EXIT

# All instructions of a run.
instructions() {
    valgrind --tool=callgrind --callgrind-out-file="$out" "$binary" "$@" >/dev/null 2>&1
    sed -nE 's/^(summary|totals): ([0-9]+).*/\2/p' "$out" | tail -1
}

echo "| operation | instructions |"
echo "|---|---|"
for row in "init:a session init, deployed dialect" "message:a message of 200 bytes" "chunk:a chunk of 4 bytes"; do
    operation=${row%%:*}
    ready=$(instructions "$operation" 0)
    all=$(instructions "$operation" 100)
    echo "| ${row#*:} | $(((all - ready) / 100)) |"
done
