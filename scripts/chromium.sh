#!/usr/bin/env bash
# Installs the browser that the page is tested in, where there is none: Debian's own.
set -euo pipefail
command -v chromium >/dev/null 2>&1 && exit 0
echo "installing chromium ..." >&2
[ "$(id -u)" -eq 0 ] || { echo "ask an administrator to run: apt-get install chromium" >&2; exit 1; }
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq >&2 || echo "apt-get update failed; trying with what is known" >&2
apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >&2
