#!/usr/bin/env bash
# Which lines the tests run: docs/coverage.md, by crate, and every line in target/coverage/html. Arguments go to cargo as they
# are; without any, the whole workspace is tested as `make test` does it, but for the browser's and Python's part.
#
#   scripts/coverage.sh                      all of it
#   scripts/coverage.sh -p fabstir-protocol  one crate, to look at; the page stays as it is
#
# Needs the LLVM that rustc is built on: LLVM_COV and LLVM_PROFDATA, or Debian's package, which scripts/bootstrap.sh installs.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

version=0.9.1
tool=$PWD/target/coverage-tool
out=target/coverage

fail() { echo "coverage: $*" >&2; exit 1; }
major=$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
export LLVM_COV=${LLVM_COV:-/usr/lib/llvm-$major/bin/llvm-cov} LLVM_PROFDATA=${LLVM_PROFDATA:-/usr/lib/llvm-$major/bin/llvm-profdata}
for program in "$LLVM_COV" "$LLVM_PROFDATA"; do
    [ -x "$program" ] || fail "$program is not there: install llvm-$major (WITH_COVERAGE=1 scripts/bootstrap.sh), or set LLVM_COV and LLVM_PROFDATA"
done
if [ "$("$tool/bin/cargo-llvm-cov" llvm-cov --version 2>/dev/null || true)" != "cargo-llvm-cov $version" ]; then
    echo "coverage: installing cargo-llvm-cov $version in target/coverage-tool, once"
    cargo install cargo-llvm-cov --version "=$version" --locked --force --quiet --root "$tool"
fi
cov() { "$tool/bin/cargo-llvm-cov" llvm-cov "$@"; }

mkdir -p "$out"
scripts/build-page.sh
scripts/fetch-model.sh >/dev/null
# What was measured of another state of the sources tells nothing of this one.
cov clean --profraw-only
selection=("$@")
[ "$#" -gt 0 ] || selection=(--workspace)
# The report is worth having where a test fails too; the script fails with it.
status=0
cov --no-report --no-fail-fast --locked "${selection[@]}" || status=$?
# What tests and measures alone is no part of what is tested.
report() { cov report --ignore-filename-regex '/crates/reliability/|/bench/|/tests/' "$@"; }
report --html --output-dir "$out" >/dev/null
report --json --summary-only --output-path "$out/summary.json"
if [ "$#" -eq 0 ] && [ "$status" -eq 0 ]; then
    python3 scripts/coverage-page.py "$out/summary.json"
else
    report --summary-only
fi
echo "coverage: every line is in $out/html/index.html"
exit "$status"
