#!/usr/bin/env bash
# Changes the protocol crate in one small place at a time and expects its tests to fail (cargo-mutants): what survives is
# either explained in docs/mutants/explained.txt or a test that is missing, and ends the script with 1.
#
#   scripts/mutants.sh           all of them; hours
#   PART=3/40 scripts/mutants.sh every fortieth from the third (counted from 0): a sample of all files
#   LANE=2 PART=4/40 ...         the same beside another call: each lane has a tree and a build of its own
#
# Parts that were run at this commit of crates/protocol are not run again; all together are in docs/mutants.md.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

version=27.1.0
runner=0.9.151
part=${PART:-0/1}
minutes=${MUTANTS_MINUTES:-600}
tool=$PWD/target/mutants-tool
work=$PWD/target/mutants
lane=${LANE:-1}
tests=(codes fuzz pair properties schema secrets v2 vectors)

fail() { echo "mutants: $*" >&2; exit 1; }
[[ $part =~ ^[0-9]+/[0-9]+$ ]] || fail "PART is not like 3/40: $part"
[[ $lane =~ ^[0-9]+$ ]] || fail "LANE is not a number: $lane"
[[ $minutes =~ ^[0-9]+$ ]] || fail "MUTANTS_MINUTES is not a number: $minutes"

if [ "$("$tool/bin/cargo-mutants" mutants --version 2>/dev/null || true)" != "cargo-mutants $version" ]; then
    echo "mutants: installing cargo-mutants $version in target/mutants-tool, once"
    cargo install cargo-mutants --version "=$version" --locked --force --quiet --root "$tool"
fi
# Ends at the first test that fails, where cargo goes on to the end of its binary.
if [ "$("$tool/bin/cargo-nextest" nextest --version 2>/dev/null | sed -n 's/^cargo-nextest \([0-9.]*\).*/\1/p')" != "$runner" ]; then
    echo "mutants: installing cargo-nextest $runner in target/mutants-tool, once"
    cargo install cargo-nextest --version "=$runner" --locked --force --quiet --root "$tool"
fi
# Links a third as long, where it is there (Debian's package mold).
command -v mold >/dev/null && export RUSTFLAGS="${RUSTFLAGS:-} -C link-arg=-fuse-ld=mold"
export NEXTEST_PROFILE=mutants PATH="$tool/bin:$PATH" CARGO_INCREMENTAL=1

commit=$(git log -1 --format=%h --abbrev=12 -- crates/protocol)
git diff --quiet HEAD -- crates/protocol || commit+="+"
if python3 scripts/mutants-page.py --has "$part" --commit "$commit"; then
    echo "mutants: part $part was run at $commit: docs/mutants.md"
    exit 0
fi

# A copy of what git would commit, changed where it lies: the next part finds what this one has built. Dated now: the last
# mutant was built after the files that git has, and would be taken for them.
tree=$work/tree-$lane out=$work/$commit-${part/\//of}
export CARGO_TARGET_DIR=$work/build-$lane
mkdir -p "$work"
exec 9>"$work/lane-$lane"
flock --nonblock 9 || fail "lane $lane is at work already: take another with LANE"
rm -rf "$tree" "$out"
mkdir -p "$tree" "$out"
git ls-files -z --cached --others --exclude-standard | tar --create --null --files-from=- --ignore-failed-read | tar --extract --touch --directory "$tree"
# What is built for each mutant is built whole: these tests alone, in one binary.
protocol=$tree/crates/protocol
sed -i 's/^\[package\]$/&\nautotests = false/; s/^name = "schema"$/name = "mutants"/' "$protocol/Cargo.toml"
echo '//! The tests that a mutant is held to.' >"$protocol/tests/mutants.rs"
for test in "${tests[@]}"; do
    file=$protocol/tests/$test.rs
    if [ ! -f "$file" ]; then
        find "$protocol/tests/$test" -name '*.rs' -exec sed -i "s/\\bcrate::/crate::${test}::/g" {} +
        file=$protocol/tests/$test/main.rs
    fi
    printf '#[path = "%s"]\nmod %s;\n' "${file#"$protocol/tests/"}" "$test"
done >>"$protocol/tests/mutants.rs"
# That they pass without a mutant is seen once a commit and lane.
baseline=(--baseline skip)
[ -e "$work/passed-$commit-$lane" ] && [[ $commit != *+ ]] || baseline=(--baseline run)
status=0
timeout "$((minutes * 60))" nice -n 10 "$tool/bin/cargo-mutants" mutants --dir "$tree" --in-place --package fabstir-protocol --features schema \
    --test-tool nextest --profile mutants --shard "$part" --sharding round-robin --timeout 120 --build-timeout 300 --no-shuffle --cap-lints true "${baseline[@]}" \
    --output "$out" --colors never -- -E 'not test(no_flipped_bit_of_a_handshake_is_accepted)' || status=$?
# 2: some survived; 3: some ran out of time, as an endless loop does.
case $status in 0 | 2 | 3) ;; 124) fail "the part takes longer than MUTANTS_MINUTES=$minutes: nothing is written down" ;; *) fail "cargo-mutants ended with $status" ;; esac
touch "$work/passed-$commit-$lane"
# One lane at a time writes the page.
flock "$work" python3 scripts/mutants-page.py --outcomes "$out/mutants.out/outcomes.json" --part "$part" --commit "$commit" --tool "$version"
