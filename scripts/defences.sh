#!/usr/bin/env bash
# Shows that the tests see: takes each defence out of a copy of the project, and expects its test to fail.
#
#   scripts/defences.sh --all          every patch in tests/defences
#   scripts/defences.sh --three SEED   three of the quick ones, in turn with the seed
#   scripts/defences.sh NAME...        these
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
target="${CARGO_TARGET_DIR:-$root/target}"
case $target in /*) ;; *) target="$root/$target" ;; esac
copy="$target/defences/tree"

names=()
case "${1:-}" in
    --all)
        for patch in tests/defences/*.patch; do names+=("$(basename "$patch" .patch)"); done
        ;;
    --three)
        mapfile -t quick < <(grep -l '^# quick$' tests/defences/*.patch | sort)
        for step in 0 1 2; do
            names+=("$(basename "${quick[(10#${2:-0} * 3 + step) % ${#quick[@]}]}" .patch)")
        done
        ;;
    ""|-h|--help) sed -n '2,6p' "$0"; exit 2 ;;
    *) names=("$@") ;;
esac

# The copy stays in one place, so that what does not change is not built again.
mkdir -p "$copy"
git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
    if [ -e "$file" ]; then printf '%s\0' "$file"; fi
done >"$target/defences/files"
rsync_copy() {
    while IFS= read -r -d '' file; do
        mkdir -p "$copy/$(dirname "$file")"
        cmp -s "$file" "$copy/$file" || cp -p "$file" "$copy/$file"
    done <"$target/defences/files"
}

# Runs the test in the copy. 0: it passed; 1: it ran and failed; 2: it did not run.
run_test() {
    local log="$target/defences/log"
    if (cd "$copy" && CARGO_TARGET_DIR="$target/defences/build" cargo test --locked -p "$1" $2 -- --exact "$3") >"$log" 2>&1; then
        grep -q '^test result: ok. 1 passed' "$log" && return 0
        return 2
    fi
    grep -q '^test result: FAILED' "$log" && return 1
    return 2
}

failures=0
for name in "${names[@]}"; do
    patch="tests/defences/$name.patch"
    [ -f "$patch" ] || { echo "defences: there is no $patch" >&2; exit 2; }
    read -r package kind test_target test_name < <(sed -n 's/^# test: //p' "$patch")
    if [ "$kind" = --lib ]; then
        test_name=$test_target
        selector=--lib
    else
        selector="$kind $test_target"
    fi
    rsync_copy
    whole=0
    run_test "$package" "$selector" "$test_name" || whole=$?
    if [ "$whole" -ne 0 ]; then
        tail -20 "$target/defences/log" >&2
        echo "FAILED  $name: $test_name does not pass with the defence in place"
        failures=$((failures + 1))
        continue
    fi
    file=$(sed -n 's|^+++ b/||p' "$patch")
    if ! patch --quiet --directory "$copy" -p1 <"$patch" >/dev/null; then
        echo "FAILED  $name: the patch does not apply any more"
        failures=$((failures + 1))
        cp "$file" "$copy/$file"
        continue
    fi
    # A patched file must look newer than what was built from it.
    touch "$copy/$file"
    taken=0
    run_test "$package" "$selector" "$test_name" || taken=$?
    cp "$file" "$copy/$file" && touch "$copy/$file"
    case $taken in
        1) echo "ok      $name: without it, $test_name fails" ;;
        0)
            echo "FAILED  $name: $test_name passes without it"
            failures=$((failures + 1))
            ;;
        *)
            tail -20 "$target/defences/log" >&2
            echo "FAILED  $name: without it, nothing builds or runs"
            failures=$((failures + 1))
            ;;
    esac
done
echo "${#names[@]} defences taken out, $failures failures"
[ "$failures" -eq 0 ]
