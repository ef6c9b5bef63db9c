#!/usr/bin/env bash
# Fuzzes the protocol, one target after the other, and keeps the totals in fuzz/totals.json. Arguments: the targets
# (default: all). FUZZ_SECONDS: for each (default 60). FUZZ_SEED: a number, to repeat a run. FUZZ_SANITIZER: address, or
# none (the default: the crate has no unsafe code, and is fuzzed several times as fast without). With address nothing is
# counted or kept: its edges are others.
#
# All that reaches something new goes to target/fuzz-corpus, where the next run goes on; a selection that reaches the
# same code goes to fuzz/corpus, which the tests replay. An input that breaks something is left in fuzz/regressions, and
# the script ends with 1.
set -euo pipefail
cd "$(dirname "$0")/.."

version=0.13.2
seconds="${FUZZ_SECONDS:-60}"
sanitizer="${FUZZ_SANITIZER:-none}"
root="$PWD/target/cargo-fuzz"

fail() { echo "fuzz: $*" >&2; exit 1; }

bounded=timeout
command -v timeout >/dev/null || bounded=gtimeout
command -v "$bounded" >/dev/null || fail "timeout is missing (coreutils)"
command -v python3 >/dev/null || fail "python3 is missing"
[[ $seconds =~ ^[0-9]+$ ]] || fail "FUZZ_SECONDS is not a number: $seconds"

# cargo-fuzz passes flags that stable Rust takes only so.
export RUSTC_BOOTSTRAP=1
if [ "$("$root/bin/cargo-fuzz" --version 2>/dev/null || true)" != "cargo-fuzz $version" ]; then
    echo "fuzz: installing cargo-fuzz $version in target/cargo-fuzz, once, about a minute"
    command -v cargo >/dev/null || fail "cargo is missing (make bootstrap)"
    "$bounded" 1800 nice -n 10 cargo install cargo-fuzz --version "=$version" --locked --force --root "$root" ||
        fail "cargo-fuzz could not be installed"
fi

all=()
for file in fuzz/fuzz_targets/*.rs; do all+=("$(basename "$file" .rs)"); done
[ "$#" -gt 0 ] || set -- "${all[@]}"
for target in "$@"; do
    [ -f "fuzz/fuzz_targets/$target.rs" ] || fail "$target: no such target (there are: ${all[*]})"
done

echo "fuzz: building"
"$bounded" 3600 nice -n 10 "$root/bin/cargo-fuzz" fuzz build --sanitizer "$sanitizer" --fuzz-dir fuzz --target-dir target/fuzz
host=$(rustc -vV | sed -n 's/^host: //p')

# The commit that what is fuzzed is of.
commit=$(git log -1 --format=%h --abbrev=12 -- crates/protocol/src 2>/dev/null || true)
commit="${commit:-unknown}"
git diff --quiet HEAD -- crates/protocol/src 2>/dev/null || commit+="+"
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

# run TARGET ARGUMENTS...: the target's program, never for ever.
run() {
    local target=$1 limit=$2
    shift 2
    "$bounded" -k 10 "$limit" nice -n 10 "target/fuzz/$host/release/$target" -max_len=4096 -timeout=10 \
        -rss_limit_mb=2048 "$@"
}

# keep TARGET: of all that was found, a few small inputs that together reach the most, for the tests to replay.
keep() {
    local target=$1 found="target/fuzz-corpus/$1" kept="fuzz/corpus/$1" fresh
    fresh=$(mktemp -d "$logs/fresh.XXXXXX")
    run "$target" 900 -set_cover_merge=1 -use_counters=0 -merge_control_file="$logs/reached" \
        "$fresh" "$kept" "$found" >"$logs/merge" 2>&1 ||
        fail "$target: the corpus cannot be merged: $(tail -n 3 "$logs/merge")"
    python3 scripts/fuzz-keep.py keep "$target" "$logs/reached"
    rm -rf -- "$fresh" "$logs/reached"
}

broken=0
for target in "$@"; do
    found="target/fuzz-corpus/$target"
    mkdir -p "$found" "fuzz/corpus/$target" "fuzz/regressions/$target"
    seed="${FUZZ_SEED:-$((RANDOM * 32768 + RANDOM + 1))}"
    echo "fuzz: $target for $seconds s, seed $seed"
    status=0
    run "$target" $((seconds + 120)) "$found" "fuzz/corpus/$target" "fuzz/regressions/$target" \
        -seed="$seed" -max_total_time="$seconds" -print_final_stats=1 \
        -artifact_prefix="fuzz/regressions/$target/" >"$logs/$target" 2>&1 || status=$?
    if [ "$status" -ne 0 ]; then
        broken=$((broken + 1))
        grep -aE 'panicked at|ERROR: |Test unit written' -A 1 "$logs/$target" | tail -n 12 >&2 || true
        echo "fuzz: $target broke (exit $status)" >&2
    elif [ "$sanitizer" = none ]; then
        keep "$target"
    fi
    [ "$sanitizer" != none ] || python3 scripts/fuzz-keep.py add "$target" "$logs/$target" --seed "$seed" --commit "$commit" --status "$status"
    rmdir "fuzz/regressions/$target" fuzz/regressions 2>/dev/null || true
done

echo
python3 scripts/fuzz-keep.py show
[ "$broken" -eq 0 ] || fail "$broken of $# targets broke; the inputs are in fuzz/regressions"
