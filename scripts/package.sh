#!/usr/bin/env bash
# Two Debian packages, fabstir-llm-node and fabstir, with man pages, completions and a list of what is in them (CycloneDX),
# in target/package; then looks at what came out. INSTALL=1 installs, asks and purges them on this machine, as root.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh
# Where the binaries are is written into the packages' manifests.
unset CARGO_TARGET_DIR

fail() { echo "package: $*" >&2; exit 1; }
out=target/package
tools=$PWD/target/package-tools
tool() {
    local name=$1 version=$2
    [ "$(cat "$tools/$name.version" 2>/dev/null || true)" = "$version" ] && return
    echo "package: installing $name $version in target/package-tools, once"
    cargo install "$name" --version "=$version" --locked --quiet --root "$tools"
    echo "$version" >"$tools/$name.version"
}
[ "$(uname -s)" = Linux ] && command -v dpkg-deb >/dev/null || fail "dpkg-deb is missing: packages are built on Debian or what is made of it"
tool cargo-deb 3.8.0
tool cargo-cyclonedx 0.5.9
[ -n "${BUILT:-}" ] || cargo build --release --locked -p fabstir-llm-node -p fabstir-cli

rm -rf "$out"
mkdir -p "$out/completions"
for name in fabstir-llm-node fabstir; do
    binary=target/release/$name
    "$binary" manual "$out/man/$name" >/dev/null
    for shell in bash zsh fish; do "$binary" completions "$shell" >"$out/completions/$name.$shell"; done
done

# One list a package, of what is compiled into it. The tool writes beside each manifest.
"$tools/bin/cargo-cyclonedx" cyclonedx --format json --spec-version 1.5 --no-build-deps --target "$(rustc -vV | sed -n 's/^host: //p')" --quiet
mv crates/node/fabstir-llm-node.cdx.json "$out/fabstir-llm-node.cdx.json"
mv crates/cli/fabstir-cli.cdx.json "$out/fabstir-cli.cdx.json"
# Where this machine keeps its source is nobody's business.
sed -i "s#file://$PWD/#file:///source/#g" "$out"/*.cdx.json
find crates bench -name '*.cdx.json' -not -path '*/node_modules/*' -delete

export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
for package in fabstir-llm-node fabstir-cli; do
    "$tools/bin/cargo-deb" deb --package "$package" --no-build --output "$out" --quiet
done

checked=0
check() { # WHAT COMMAND...
    local what=$1
    shift
    "$@" >/dev/null 2>&1 || fail "$what: $*"
    checked=$((checked + 1))
}
holds() { grep -qF -- "$2" <<<"$1"; }
for name in fabstir-llm-node fabstir; do
    deb=$(echo "$out/${name}_"*.deb)
    [ -f "$deb" ] || fail "there is no one package $name"
    held=$(dpkg-deb --contents "$deb")
    list=$out/$name.cdx.json
    [ "$name" != fabstir ] || list=$out/fabstir-cli.cdx.json
    for path in "./usr/bin/$name" "./usr/share/man/man1/$name.1.gz" "./usr/share/bash-completion/completions/$name" "./usr/share/doc/$name/copyright"; do
        check "$name has no $path" holds "$held" "$path"
    done
    check "$name does not say which library it needs" holds "$(dpkg-deb --field "$deb" Depends)" libc6
    root=$(mktemp -d)
    dpkg-deb --extract "$deb" "$root"
    check "the binary of $name does not run" "$root/usr/bin/$name" --version
    check "bash cannot read the completions of $name" bash -n "$root/usr/share/bash-completion/completions/$name"
    check "the list of $name names no component" python3 -c 'import json, sys; d = json.load(open(sys.argv[1])); assert d["bomFormat"] == "CycloneDX" and len(d["components"]) > 50' "$list"
    check "the list of $name says where it was built" bash -c '! grep -qF "$1" "$2"' - "$PWD" "$list"
    rm -rf "$root"
done
node=$(dpkg-deb --contents "$out/fabstir-llm-node_"*.deb)
check "the node's package has no unit" holds "$node" ./usr/lib/systemd/system/fabstir-llm-node.service
check "the node's package brings a page of the other's" bash -c '! grep -q "man1/fabstir\.1\|man1/fabstir-ask" <<<"$1"' - "$node"

if [ -n "${INSTALL:-}" ]; then
    # Ends with 1 where one of the two is unknown.
    here=$(dpkg-query -W -f '${db:Status-Status}\n' fabstir-llm-node fabstir 2>/dev/null || true)
    ! grep -qx installed <<<"$here" || fail "a package of it is installed here, and INSTALL=1 would purge it: remove it first, or leave INSTALL out"
    apt-get install -y -qq --no-install-recommends "$PWD/$out/"*.deb
    check "the installed node does not run" /usr/bin/fabstir-llm-node --version
    check "there is no user fabstir" getent passwd fabstir
    check "the installed node says nothing to a shell" bash -c '. /usr/share/bash-completion/completions/fabstir-llm-node && complete -p fabstir-llm-node'
    key=$(mktemp -d)
    check "the installed node makes no key" /usr/bin/fabstir-llm-node keys new --to "$key/node.key"
    rm -rf "$key"
    apt-get purge -y -qq fabstir-llm-node fabstir
    check "something of it was left" bash -c '! ls /usr/bin/fabstir /usr/bin/fabstir-llm-node /usr/lib/systemd/system/fabstir-llm-node.service 2>/dev/null | grep .'
fi
ls -l "$out"/*.deb "$out"/*.cdx.json
echo "$checked passed, 0 failed"
