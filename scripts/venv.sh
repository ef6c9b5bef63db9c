#!/usr/bin/env bash
# A Python environment in FOLDER with what pip is told to install; made anew where that is another than last time.
#
#   scripts/venv.sh FOLDER REQUIREMENT...
#   scripts/venv.sh FOLDER -r FILE
set -euo pipefail

folder=$1
shift
pins=$(printf '%s\n' "$@" && for word in "$@"; do [ ! -f "$word" ] || cat "$word"; done)
[ "$(cat "$folder/pins" 2>/dev/null)" != "$pins" ] || exit 0
echo "installing $(tr '\n' ' ' <<<"$pins")in $folder ..." >&2
python3 -m venv --clear "$folder"
"$folder/bin/pip" -q --disable-pip-version-check install "$@" >&2
echo "$pins" >"$folder/pins"
