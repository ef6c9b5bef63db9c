#!/usr/bin/env bash
# An image of the node from nothing: the binary, the libraries that it asks for, the certificates that it believes, a user
# without rights. Built with buildah, which needs no service; then run, in the folder that it is. In target/image.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh
. scripts/processes.sh

fail() { echo "image: $*" >&2; exit 1; }
[ "$(id -u)" = 0 ] || fail "an image whose files belong to others is root's to make: run this as root"
command -v buildah >/dev/null || fail "buildah is missing (WITH_IMAGE=1 scripts/bootstrap.sh)"
[ -n "${BUILT:-}" ] || cargo build --release --locked -p fabstir-llm-node
binary=${CARGO_TARGET_DIR:-target}/release/fabstir-llm-node
name=fabstir-llm-node
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=vfs
version=$("$binary" --version | awk '{print $2}')

container=$(buildah from scratch)
clean() { buildah rm "$container" >/dev/null 2>&1 || true; }
trap clean EXIT
root=$(buildah mount "$container")
install -D -m 755 "$binary" "$root/usr/bin/fabstir-llm-node"
# What the loader would load, where it would look for it; the vdso is the kernel's.
ldd "$binary" | awk '/=> \//{print $3} /^\t\/lib/{print $1}' | while read -r library; do install -D -m 755 "$library" "$root$library"; done
install -D -m 644 /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
install -d -m 755 "$root/etc" && echo 'fabstir:x:10001:10001::/var/lib/fabstir:/sbin/nologin' >"$root/etc/passwd"
echo 'fabstir:x:10001:' >"$root/etc/group"
install -d -m 1777 "$root/tmp"
for folder in var/lib/fabstir var/cache/fabstir run/fabstir; do install -d -m 700 -o 10001 -g 10001 "$root/$folder"; done
buildah config --user 10001:10001 --entrypoint '["/usr/bin/fabstir-llm-node"]' --cmd '' --port 8443 --workingdir /var/lib/fabstir \
    --env XDG_CACHE_HOME=/var/cache --env LISTEN_ADDR=0.0.0.0:8443 --env METRICS_LISTEN=127.0.0.1:9464 --env ADMIN_SOCKET=/run/fabstir/admin.sock \
    --env USAGE_DIR=/var/lib/fabstir/usage --label "org.opencontainers.image.version=$version" \
    --label "org.opencontainers.image.revision=$(git rev-parse HEAD)" --label org.opencontainers.image.licenses='MIT OR Apache-2.0' "$container"
buildah unmount "$container" >/dev/null
buildah commit --quiet --timestamp "$(git log -1 --format=%ct)" "$container" "$name:$version" >/dev/null

# It runs as nobody in particular, with nothing but what is in it, and answers.
work=$(mktemp -d)
trap 'clean; rm -rf "$work"' EXIT
try=$(buildah from "$name:$version")
trap 'clean; buildah rm "$try" >/dev/null 2>&1 || true; rm -rf "$work"' EXIT
asked=$(buildah run "$try" -- /usr/bin/fabstir-llm-node --version)
passed=0
check() { # WHAT TRUE-OR-NOT...
    local what=$1
    shift
    "$@" || fail "$what"
    passed=$((passed + 1))
}
check "the image says $asked" [ "$asked" = "fabstir-llm-node $version" ]
buildah run --user 10001:10001 "$try" -- /usr/bin/fabstir-llm-node --engine echo --log-format text --listen-addr 127.0.0.1:0 --metrics-listen 127.0.0.1:0 >"$work/log" 2>&1 &
running=$!
trap 'kill "$running" 2>/dev/null || true; clean; buildah rm "$try" >/dev/null 2>&1 || true; rm -rf "$work"' EXIT
check "the node in the image does not start" until_listens "$running" "$work/log"
check "the node in the image does not answer" grep -q '"ok"' <<<"$(curl -fsS "http://$address/health")"
owner=$(stat -c %u "/proc/$(pgrep -n -f 'fabstir-llm-node --engine echo --log-format text --listen-addr 127.0.0.1:0 --metrics-listen 127.0.0.1:0')")
check "the node in the image runs as $owner" [ "$owner" = 10001 ]
buildah run --user 10001:10001 "$try" -- /usr/bin/fabstir-llm-node drain --wait >/dev/null 2>&1 || kill -TERM "$running" 2>/dev/null || true
wait "$running" 2>/dev/null || true

mkdir -p target/image
rm -f "target/image/$name-$version.tar"
buildah push --quiet "$name:$version" "oci-archive:target/image/$name-$version.tar:$name:$version"
ls -l "target/image/$name-$version.tar"
echo "$passed passed, 0 failed"
