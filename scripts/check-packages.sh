#!/usr/bin/env bash
# What others may build on can be packaged: fabstir-protocol and fabstir-client, each with what it needs and nothing more,
# the client against the packaged protocol. Nothing is published.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

fail() { echo "check-packages: $*" >&2; exit 1; }
packages=(fabstir-protocol fabstir-client)
log=$(mktemp)
trap 'rm -f "$log"' EXIT

files=0
for package in "${packages[@]}"; do
    list=$(cargo package --list --allow-dirty --package "$package")
    for needed in README.md LICENSE src/lib.rs; do
        grep -qx "$needed" <<<"$list" || fail "$package lacks $needed"
    done
    odd=$(grep -vxE 'src/.*\.rs|README\.md|LICENSE|Cargo\.(toml|toml\.orig|lock)|\.cargo_vcs_info\.json' <<<"$list" || true)
    [ -z "$odd" ] || fail "$package would take along: $odd"
    files=$((files + $(wc -l <<<"$list")))
done

# --allow-dirty: this also runs before a commit.
cargo package --locked --allow-dirty --package fabstir-protocol --package fabstir-client 2>"$log" \
    || { cat "$log" >&2; fail "a package does not build by itself"; }
# Tests and examples stay behind, which cargo tells one by one; any other warning is a fault, such as one of missing metadata.
if grep '^warning' "$log" | grep -vE '^warning: ignoring (test|benchmark|example) ' >&2; then fail "cargo warns of a package"; fi
for package in "${packages[@]}"; do
    grep -q "Verifying $package " "$log" || fail "$package was not verified"
done
echo "${#packages[@]} packages of $files files verified"
