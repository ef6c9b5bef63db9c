#!/usr/bin/env bash
# Changes the protocol crate in one small place at a time and expects its tests to fail (cargo-mutants): what survives is
# either explained in docs/mutants/explained.txt or a test that is missing, and ends the script with 1.
#
#   scripts/mutants.sh           all of them; hours
#   PART=3/40 scripts/mutants.sh every fortieth from the third (counted from 0): a sample of all files
#
# Parts that were run at this commit of crates/protocol are not run again; all together are in docs/mutants.md.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

version=27.1.0
part=${PART:-0/1}
minutes=${MUTANTS_MINUTES:-600}
tool=$PWD/target/mutants-tool
work=$PWD/target/mutants

fail() { echo "mutants: $*" >&2; exit 1; }
[[ $part =~ ^[0-9]+/[0-9]+$ ]] || fail "PART is not like 3/40: $part"
[[ $minutes =~ ^[0-9]+$ ]] || fail "MUTANTS_MINUTES is not a number: $minutes"

if [ "$("$tool/bin/cargo-mutants" mutants --version 2>/dev/null || true)" != "cargo-mutants $version" ]; then
    echo "mutants: installing cargo-mutants $version in target/mutants-tool, once"
    cargo install cargo-mutants --version "=$version" --locked --force --quiet --root "$tool"
fi

commit=$(git log -1 --format=%h --abbrev=12 -- crates/protocol)
git diff --quiet HEAD -- crates/protocol || commit+="+"
out=$work/$commit-${part/\//of}
mkdir -p "$out"
if python3 scripts/mutants-page.py --has "$part" --commit "$commit"; then
    echo "mutants: part $part was run at $commit: docs/mutants.md"
    exit 0
fi
# What is quick comes first: cargo ends a test run at the first binary that fails.
status=0
timeout "$((minutes * 60))" nice -n 10 "$tool/bin/cargo-mutants" mutants --package fabstir-protocol --features schema \
    --shard "$part" --sharding round-robin --jobs "${MUTANTS_JOBS:-1}" --timeout 120 --build-timeout 300 --no-shuffle \
    --output "$out" --colors never -- --lib --test codes --test vectors --test properties --test pair --test secrets \
    --test fuzz --test schema --test v2 || status=$?
# 2: some survived; 3: some ran out of time, as an endless loop does.
case $status in 0 | 2 | 3) ;; 124) fail "the part takes longer than MUTANTS_MINUTES=$minutes: nothing is written down" ;; *) fail "cargo-mutants ended with $status" ;; esac
python3 scripts/mutants-page.py --outcomes "$out/mutants.out/outcomes.json" --part "$part" --commit "$commit" --tool "$version"
