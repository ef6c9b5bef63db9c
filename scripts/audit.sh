#!/usr/bin/env bash
# One folder of evidence for whoever audits: what is promised, what shows it, and the output of showing it once more.
# Takes some minutes; WITHOUT_MODEL=1 leaves the symbolic models out.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

folder="${CARGO_TARGET_DIR:-target}/audit"
rm -rf "$folder"
mkdir -p "$folder"
failed=""
say() { printf '== %s\n' "$*"; }
# Runs a command, keeps what it prints, goes on where it fails: a failure is evidence too.
keep() {
    local file=$1
    shift
    say "$file"
    if "$@" >"$folder/$file" 2>&1; then
        printf 'ok      %s\n' "$file" >>"$folder/index.txt"
    else
        printf 'FAILED  %s\n' "$file" >>"$folder/index.txt"
        failed=1
    fi
}

say "what is promised"
cp SECURITY.md ARCHITECTURE.md docs/protocol.md docs/specification.md "$folder/"
mkdir -p "$folder/decisions" "$folder/model" "$folder/vectors"
cp docs/decisions/*.md "$folder/decisions/"
cp docs/model/* "$folder/model/"
cp -r vectors/. "$folder/vectors/"

say "what it is made of"
{
    echo "commit      $(git rev-parse HEAD)$(git diff --quiet HEAD -- || echo ' and changes that are not committed')"
    echo "date        $(date -u +%Y-%m-%dT%H:%M:%SZ)"
    rustc --version
    cargo --version
} >"$folder/build.txt"
cargo tree --locked --workspace --edges normal --prefix none --format '{p} {l}' | sort -u >"$folder/dependencies.txt"
keep licences.txt scripts/check-dependencies.py
# Every `unsafe` of our own, with what stands before it as its reason.
grep -rn --include='*.rs' -B4 '\bunsafe\b' crates bench | grep -v 'unsafe_code\|undocumented_unsafe' >"$folder/unsafe.txt" || true

say "what shows it"
keep vectors.txt cargo test --locked -p fabstir-protocol --test vectors --test v2_oracle --test wycheproof
keep handshake-and-records.txt cargo test --locked -p fabstir-protocol --test v2 --test model -- --nocapture
keep bolt8.txt cargo test --locked -p fabstir-protocol --lib v2::noise
keep version-1.txt cargo test --locked -p fabstir-protocol --test pair --test tamper --test properties
keep security-tests.txt cargo test --locked --test security_tests
keep channel.txt cargo test --locked -p fabstir-llm-node --test channel --test docs
if [ -e crates/node/tests/attacks.rs ]; then
    keep attacks.txt cargo test --locked -p fabstir-llm-node --test attacks -- --nocapture
fi
if [ -e fuzz/totals.json ]; then
    cp fuzz/totals.json "$folder/"
    keep fuzz-corpora.txt cargo test --locked -p fabstir-protocol --test fuzz
fi
[ -n "${WITHOUT_MODEL:-}" ] || keep model.txt scripts/model.sh

say "done: $folder"
cat "$folder/index.txt"
[ -z "$failed" ]
