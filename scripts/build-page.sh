#!/usr/bin/env bash
# Builds the TypeScript package and the chat page, web/dist, which the binaries take in. Packages are installed where the
# lock file is newer than what is there.
set -euo pipefail
cd "$(dirname "$0")/.."

for folder in sdk/typescript web; do
    if [ ! "$folder/node_modules/.package-lock.json" -nt "$folder/package-lock.json" ]; then
        echo "installing the packages of $folder ..." >&2
        npm --prefix "$folder" ci --no-audit --no-fund --silent
        touch "$folder/node_modules/.package-lock.json"
    fi
    npm --prefix "$folder" run --silent build >&2
done
