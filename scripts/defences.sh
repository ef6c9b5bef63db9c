#!/usr/bin/env bash
# Takes one defence at a time out of a copy of the source and expects the test that guards it to fail: a test
# that passes without its defence guards nothing. Each of tests/defences/*.patch names its test on the line
# "# test: PACKAGE TARGET NAME" (TARGET: --lib or the name of a file in tests/); "# quick" marks those that
# need the protocol crate alone, and so no build of llama.cpp.
#
#   scripts/defences.sh --all          every patch
#   scripts/defences.sh --quick        every patch marked quick
#   scripts/defences.sh --three SEED   three of the quick ones, others with every SEED
#   scripts/defences.sh --turn N       the Nth patch, counted from 1, round and round
#   scripts/defences.sh --apply        no test: whether every patch still applies
#   scripts/defences.sh NAME...        tests/defences/NAME.patch
set -euo pipefail
cd "$(dirname "$0")/.."

usage() { sed -n '/^#  /s/^#   //p' "$0" >&2; exit 2; }
number() { [[ "${1:-}" =~ ^[0-9]+$ ]] || usage; echo $((10#$1)); }

all=(tests/defences/*.patch)
mapfile -t quick < <(grep -l '^# quick$' "${all[@]}")
case "${1:-}" in
    --all) patches=("${all[@]}") ;;
    --quick) patches=("${quick[@]}") ;;
    --three)
        seed=$(number "${2:-}") many=${#quick[@]} patches=()
        # Neighbours in the list are neighbours in the source: take them from three parts of it.
        for third in 0 1 2; do patches+=("${quick[(seed + third * many / 3) % many]}"); done
        ;;
    --turn) turn=$(number "${2:-}") && patches=("${all[(turn + ${#all[@]} - 1) % ${#all[@]}]}") ;;
    --apply)
        stale=0
        for patch in "${all[@]}"; do
            patch --dry-run --silent --strip 1 --forward --fuzz 1 <"$patch" >/dev/null && continue
            echo "$patch does not apply any more: write it anew against the source as it is" >&2
            stale=$((stale + 1))
        done
        echo "$((${#all[@]} - stale)) of ${#all[@]} defences can be taken out"
        exit $((stale > 0))
        ;;
    -* | "") usage ;;
    *) patches=("${@/#/tests/defences/}") && patches=("${patches[@]/%/.patch}") ;;
esac

export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}/defences
export RUST_BACKTRACE=0
tree=$CARGO_TARGET_DIR/tree
log=$CARGO_TARGET_DIR/last.out
mkdir -p "$tree"

# A copy of what git would commit. Files that are the same are left alone, so that cargo finds them built.
fresh_tree() {
    local file
    git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
        [ -f "$file" ] || continue
        cmp -s "$file" "$tree/$file" && continue
        mkdir -p "$tree/$(dirname "$file")"
        cp "$file" "$tree/$file"
    done
    (cd "$tree" && find . -type f -not -path './target/*' -print0) | while IFS= read -r -d '' file; do
        [ -f "$file" ] || rm "$tree/$file"
    done
}

# Runs one test in the copy: 0 passed, 1 failed, 2 neither.
run() {
    local package=$1 target=$2 name=$3 where
    where=(--test "$target")
    [ "$target" = --lib ] && where=(--lib)
    # A defence that is gone may leave its test waiting for ever: that is no test that fails.
    (cd "$tree" && cargo test --locked --package "$package" "${where[@]}" --no-run &&
        timeout --kill-after=5 300 cargo test --locked --package "$package" "${where[@]}" -- --exact "$name") >"$log" 2>&1 || true
    grep -qE "^test $name( - should panic)? \.\.\. ok$" "$log" && return 0
    grep -qE "^test $name( - should panic)? \.\.\. FAILED$" "$log" && return 1
    return 2
}

outcome() { local status=0; run "$@" || status=$?; echo "$status"; }

bad=0
say() { printf '%-9s %-24s %s\n' "$@"; }
wrong() {
    say "$@"
    tail -n 40 "$log" | sed 's/^/    /'
    bad=$((bad + 1))
}

fresh_tree
declare -A whole
for patch in "${patches[@]}"; do
    name=$(basename "$patch" .patch)
    [ -f "$patch" ] || { echo "there is no $patch" >&2; exit 2; }
    read -r package target test < <(sed -n 's/^# test: //p' "$patch")
    key="$package $target $test"
    [ -n "${whole[$key]:-}" ] || whole[$key]=$(outcome "$package" "$target" "$test")
    if [ "${whole[$key]}" != 0 ]; then
        wrong "BROKEN" "$name" "$test does not pass with every defence in place"
        continue
    fi
    if ! patch --directory "$tree" --strip 1 --forward --no-backup-if-mismatch --fuzz 1 <"$patch" >"$log" 2>&1; then
        wrong "STALE" "$name" "the patch does not apply"
        fresh_tree
        continue
    fi
    case $(outcome "$package" "$target" "$test") in
        1) say "guarded" "$name" "$test" ;;
        0) wrong "UNGUARDED" "$name" "$test passes without the defence" ;;
        *) wrong "STALE" "$name" "$test neither passed nor failed: the patched source does not compile, or the test hangs" ;;
    esac
    fresh_tree
done
echo "$((${#patches[@]} - bad)) of ${#patches[@]} defences are guarded by their tests"
[ "$bad" = 0 ]
