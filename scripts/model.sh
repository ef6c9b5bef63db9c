#!/usr/bin/env bash
# Runs the symbolic models in docs/model with Verifpal and compares every answer with the one that stands in the
# model's own header. Prints a line for every query; ends with 1 at any difference. Arguments: the models to run
# (default: all). MODEL_TIMEOUT: the most that one run may take, in seconds (default 600).
#
# In the header of a model:
#   // expected: c0a1                            Verifpal's code, one letter and digit a query: 0 holds, 1 fails
#   // sessions: 1                               the sessions that run at once (default 2)
#   // variant: name | sessions | code | sed     the model changed by sed, its comments left out, and what is then expected
set -euo pipefail
cd "$(dirname "$0")/.."

version=1.6.7
limit="${MODEL_TIMEOUT:-600}"
root="$PWD/target/verifpal"
verifpal="$root/bin/verifpal"

fail() { echo "model: $*" >&2; exit 1; }

bounded=timeout
command -v timeout >/dev/null || bounded=gtimeout
command -v "$bounded" >/dev/null || fail "timeout is missing (coreutils)"

if [ "$("$verifpal" --version 2>/dev/null || true)" != "verifpal $version" ]; then
    echo "model: installing verifpal $version in target/verifpal, once, about 3 minutes"
    command -v cargo >/dev/null || fail "cargo is missing (make bootstrap)"
    "$bounded" 1800 nice -n 10 cargo install verifpal --version "=$version" --locked --ignore-rust-version --force --root "$root" ||
        fail "verifpal could not be installed"
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
different=0
queries_asked=0

header() { sed -n "s|^// $2: *||p" "$1"; }

word() { case "$1" in *0) echo holds ;; *1) echo fails ;; *) echo "$1" ;; esac; }

# check NAME FILE SESSIONS CODE: runs one model and compares.
check() {
    local name=$1 file=$2 sessions=$3 expected=$4 began=$SECONDS got status=0 query i wanted given mark queries=()
    while IFS= read -r query; do queries+=("$query"); done < <(
        sed -n '/^queries\[/,/^\]/s/^[[:space:]]\{1,\}//p' "$file")
    [ "${#queries[@]}" -gt 0 ] || fail "$name: no queries"
    [ "${#expected}" -eq $((2 * ${#queries[@]})) ] || fail "$name: ${#queries[@]} queries, but the expected code is '$expected'"
    for i in "${!queries[@]}"; do
        [ "${queries[i]:0:1}" = "${expected:2*i:1}" ] || fail "$name: '$expected' does not fit '${queries[i]}'"
    done

    printf '%s: %d queries, sessions at once: %s\n' "$name" "${#queries[@]}" "$sessions"
    # Its output goes to a file: on a terminal it would ask the network for a newer version.
    "$bounded" -k 10 "$limit" nice -n 10 "$verifpal" verify "$file" --sessions "$sessions" --quiet --result-code \
        --color never >"$work/out" 2>&1 </dev/null || status=$?
    got=$(tail -n 1 "$work/out")
    if [ "$status" -ne 0 ] || ! [[ $got =~ ^([cafue][01])+$ ]] || [ "${#got}" -ne "${#expected}" ]; then
        tail -n 20 "$work/out" >&2
        case $status in 124 | 137) echo "model: $name: no answer within $limit s" >&2 ;; esac
        got=""
    fi
    for i in "${!queries[@]}"; do
        wanted=$(word "${expected:2*i:2}")
        given=nothing
        [ -z "$got" ] || given=$(word "${got:2*i:2}")
        mark=""
        queries_asked=$((queries_asked + 1))
        if [ "$wanted" != "$given" ]; then
            mark="  DIFFERENT"
            different=$((different + 1))
        fi
        printf '  %-42s expected: %-6s got: %s%s\n' "${queries[i]}" "$wanted" "$given" "$mark"
    done
    printf '  %d s\n' $((SECONDS - began))
}

[ "$#" -gt 0 ] || set -- docs/model/*.vp
for model in "$@"; do
    [ -f "$model" ] || fail "$model: no such model"
    name=$(basename "$model" .vp)
    sessions=$(header "$model" sessions)
    code=$(header "$model" expected)
    [ -n "$code" ] || fail "$name: no '// expected:' line in its header"
    check "$name" "$model" "${sessions:-2}" "$code"

    grep -v '^//' "$model" >"$work/plain.vp"
    while IFS= read -r line; do
        what=${line%% | *}
        line=${line#* | }
        sessions=${line%% | *}
        line=${line#* | }
        code=${line%% | *}
        script=${line#* | }
        sed "$script" "$work/plain.vp" >"$work/variant.vp"
        ! cmp -s "$work/plain.vp" "$work/variant.vp" || fail "$name, $what: the change changes nothing"
        check "$name, $what" "$work/variant.vp" "$sessions" "$code"
    done < <(header "$model" variant)
done

echo
if [ "$different" -ne 0 ]; then
    fail "$different of $queries_asked answers differ from what is expected"
fi
echo "model: all $queries_asked answers are as expected"
