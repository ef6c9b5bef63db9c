#!/usr/bin/env bash
# Builds the release binaries twice, in two folders of different names and from nothing, and compares them byte by byte. What
# differs between two machines beside that (their compilers, their libraries) is for whoever compares to hold still.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

work=${WORK:-$PWD/target/reproduce}
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export CARGO_INCREMENTAL=0
cargo_home=${CARGO_HOME:-$HOME/.cargo}

# build NAME FOLDER: the committed source, built in FOLDER.
build() {
    local name=$1 folder=$2
    echo "reproduce: $name, in $folder"
    rm -rf "$folder"
    mkdir -p "$folder"
    git archive HEAD | tar -x -C "$folder"
    # The page is made by its own build, which is the same for both; it is compared too.
    (
        cd "$folder"
        scripts/build-page.sh >/dev/null
        maps="-ffile-prefix-map=$folder=/source -ffile-prefix-map=$cargo_home=/cargo"
        CFLAGS="$maps" CXXFLAGS="$maps" CCACHE_DISABLE=1 \
            RUSTFLAGS="--remap-path-prefix=$folder=/source --remap-path-prefix=$cargo_home=/cargo" \
            cargo build --release --locked --quiet -p fabstir-llm-node -p fabstir-cli
    )
}
build one "$work/one"
build two "$work/another-name/two"
differing=0
for binary in fabstir-llm-node fabstir; do
    one=$work/one/target/release/$binary two=$work/another-name/two/target/release/$binary
    sha256sum "$one" "$two" | sed "s#$work/##"
    cmp "$one" "$two" || differing=$((differing + 1))
done
echo "$((2 - differing)) passed, $differing failed"
[ "$differing" = 0 ]
