#!/usr/bin/env bash
# Runs "From an empty server" of docs/operating.md as it stands there, block after block in one shell, in a folder of its own
# in the place of /etc/fabstir and on free ports. Blocks of `console` are for machines with systemd and are not run.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh
. scripts/processes.sh

for tool in openssl curl softhsm2-util; do
    command -v "$tool" >/dev/null || { echo "$tool is missing (make bootstrap)" >&2; exit 1; }
done
[ -n "${BUILT:-}" ] || cargo build --locked -p fabstir-llm-node -p fabstir-cli --bins
model=$(scripts/fetch-model.sh)
folder=$(mktemp -d)
node=""
clean() {
    [ -z "$node" ] || kill "$node" 2>/dev/null || true
    rm -rf "$folder"
}
trap clean EXIT

port=$(free_port) metrics=$(free_port)
# blocks LANGUAGE: what the section has in blocks of that kind.
blocks() {
    awk -v kind="\`\`\`$1" '/^## /{ here = ($0 == "## From an empty server") } here && $0 == kind { block = 1; next } /^```$/{ block = 0 } here && block' docs/operating.md
}
page() {
    blocks sh | sed -e "s#^ETC=.*#ETC=$folder#" -e "s#^OWNER=.*#OWNER=$(id -un)#" -e "s#^MODEL=.*#MODEL=$model#" -e "s#8443#$port#g" -e "s#9464#$metrics#g"
}
[ "$(page | wc -l)" -gt 40 ] || { echo "docs/operating.md has no such section" >&2; exit 1; }
{
    # As a shell that is pasted into, but for ending at what fails.
    echo 'set -eu'
    echo "PATH=$(realpath -m "${CARGO_TARGET_DIR:-target}")/debug:\$PATH"
    # Whom the trap above ends, should a block fail.
    page | sed -e "s#^NODE=.*#&; echo \$NODE > $folder/pid#"
    echo 'echo "== every command did what the page says"'
} >"$folder/commands"
export XDG_CONFIG_HOME=$folder/home HOME=$folder/home
# Nothing of the caller's own.
unset CONFIG_FILE HOST_PRIVATE_KEY HOST_PRIVATE_KEY_FILE LISTEN_ADDR MODEL MODELS MODEL_PATH 2>/dev/null || true
echo "not run, for machines with systemd:" && blocks console | sed 's/^/    /'
blocks yaml >"$folder/prometheus.yml"
if command -v promtool >/dev/null; then promtool check config "$folder/prometheus.yml"; else echo "not checked, promtool is not here: prometheus.yml"; fi
cd "$folder"
status=0
timeout 300 bash -x "$folder/commands" || status=$?
[ ! -f "$folder/pid" ] || node=$(cat "$folder/pid")
exit $status
