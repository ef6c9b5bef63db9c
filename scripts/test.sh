#!/usr/bin/env bash
# Everything that CI checks, stage by stage, with the seconds of each.
set -euo pipefail
cd "$(dirname "$0")/.."

stage() {
    local name=$1 start=$SECONDS
    shift
    echo "== $name"
    "$@"
    summary+="$(printf '%6d s  %s' $((SECONDS - start)) "$name")"$'\n'
}
summary=""
report() { printf '== seconds\n%s' "$summary"; }

stage "tools" scripts/bootstrap.sh
. scripts/env.sh
export RUST_BACKTRACE=0
# What makes the next build quicker takes as much room again as this one.
export CARGO_INCREMENTAL=${CARGO_INCREMENTAL:-0}
stage "model" scripts/fetch-model.sh
node_packages() {
    npm --prefix examples/guide-client ci --no-audit --no-fund --silent
    npm --prefix crates/protocol/tests/eip712 ci --no-audit --no-fund --silent
}
stage "node packages" node_packages
stage "page" scripts/build-page.sh
spelling() {
    [ -x target/python/bin/typos ] || python3 -m pip -q --disable-pip-version-check install --target target/python typos==1.52.0
    target/python/bin/typos
}
stage "spelling" spelling
stage "dependencies" scripts/check-dependencies.py
stage "architecture" scripts/check-architecture.py
stage "every defence can be taken out" scripts/defences.sh --apply
stage "format" cargo fmt --all --check
stage "lints" cargo clippy --workspace --all-targets --locked -- -D warnings
stage "documentation" env RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --quiet
stage "build" cargo test --workspace --locked --no-run
# As the specification prints it, from the root.
stage "the specification's test command" cargo test --locked --test security_tests test_replay_attack_prevented -- --exact
stage "demo" scripts/demo.sh
stage "other people's clients" scripts/test-proxy.sh
stage "OpenAPI, by Schemathesis" scripts/test-openapi.sh
stage "operating, as pasted" env BUILT=1 scripts/test-operating.sh
stage "reliability, short" env SHORT=1 FRESH=1 BUILT=1 scripts/reliability.sh
stage "packages" scripts/check-packages.sh
stage "TypeScript, form" npm --prefix sdk/typescript run --silent check
# Against the binaries that are built by now.
stage "TypeScript, tests" npm --prefix sdk/typescript run --silent test
stage "page, form" npm --prefix web run --silent check
stage "browser" scripts/chromium.sh
stage "page, in a browser" npm --prefix web run --silent test
stage "three defences" scripts/defences.sh --three "$(date +%j)"
report
# All in one selection: with another set of packages cargo would build the shared ones again.
cargo test --workspace --locked
