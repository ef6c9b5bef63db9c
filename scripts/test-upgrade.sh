#!/usr/bin/env bash
# From an older version to this one and back again, with sessions in the middle of an answer (crates/node/tests/upgrade.rs).
# FROM is the older one, a tag or a commit; by default the last tag before this one.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

fail() { echo "upgrade: $*" >&2; exit 1; }
from=${FROM:-$(git describe --tags --abbrev=0 HEAD^ 2>/dev/null || true)}
[ -n "$from" ] || fail "no version was tagged before this one: name a commit, as in FROM=HEAD~20 make test-upgrade"
commit=$(git rev-parse --verify --quiet "$from^{commit}") || fail "$from is no commit of this repository"
folder=$PWD/target/upgrade
binary=$folder/fabstir-llm-node-$commit
if [ ! -x "$binary" ]; then
    echo "upgrade: building $from ($commit), once"
    rm -rf "$folder/source"
    mkdir -p "$folder/source"
    git archive "$commit" | tar -x -C "$folder/source"
    # Its page and its dependencies are its own.
    (cd "$folder/source" && scripts/build-page.sh >/dev/null && CARGO_TARGET_DIR="$folder/target" cargo build --locked --quiet -p fabstir-llm-node)
    cp "$folder/target/debug/fabstir-llm-node" "$binary"
fi
echo "upgrade: from $("$binary" --version) of $commit to $(git describe --always --dirty) and back"
UPGRADE_FROM=$binary cargo test --locked --workspace --test upgrade
