#!/usr/bin/env bash
# deploy/kubernetes: every document held to Kubernetes' own schemas; a node that starts under the settings in them, with the key and the
# certificate of the modes that Kubernetes gives them, is ready, answers, and drains by the hook. The unit of systemd that `init` writes, by
# systemd-analyze.
set -euo pipefail
cd "$(dirname "$0")/.."
WITH_DEPLOY=1 scripts/bootstrap.sh
. scripts/env.sh
bin=$(realpath -m "${CARGO_TARGET_DIR:-target}")/debug
[ -n "${BUILT:-}" ] || cargo build --locked -p fabstir-llm-node -p fabstir-cli --bins
. scripts/servers.sh
bin=$(realpath -m "${CARGO_TARGET_DIR:-target}")/debug

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")/python-kubernetes
scripts/venv.sh "$target" kubernetes-validate==1.37.0
check "Kubernetes' schemas" '"$target/bin/kubernetes-validate" --strict deploy/kubernetes/node.yaml'

# What the manifest names, out of the manifest.
port=$(free_port) metrics=$(free_port)
mkdir -p "$work/secrets" "$work/tls" "$work/run"
"$target/bin/python" - "$work" "$port" "$metrics" <<'EOF'
import re, sys, yaml
work, port, metrics = sys.argv[1:]
documents = list(yaml.safe_load_all(open("deploy/kubernetes/node.yaml")))
of = lambda kind: next(document for document in documents if document["kind"] == kind)
settings = of("ConfigMap")["data"]["node.toml"]
places = [("0.0.0.0:8443", f"127.0.0.1:{port}"), ("0.0.0.0:9090", f"127.0.0.1:{metrics}"), ("/run/secrets/tls/", f"{work}/tls/"),
          ("/run/fabstir/", f"{work}/run/"), ("/run/secrets/fabstir", f"{work}/secrets"), ("/var/lib/fabstir", f"{work}/state")]
def here(text):
    for there, own in places:
        text = text.replace(there, own)
    return text
settings = here(settings)
settings = "".join(line for line in settings.splitlines(True) if not line.startswith("model_path"))
open(f"{work}/node.toml", "w").write(settings)
container = of("Deployment")["spec"]["template"]["spec"]["containers"][0]
# The environment of the image is under that of the manifest, and over its file.
image = dict(re.findall(r"--env ([A-Z_]+)=(\S+)", open("scripts/image.sh").read()))
assert len(image) > 3, image
environment = {**image, **{variable["name"]: variable["value"] for variable in container["env"]}}
written = [mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")]
for name in ["USAGE_DIR", "ADMIN_SOCKET"]:
    assert any(environment[name].startswith(path + "/") for path in written), f"{name} is on a file system that nobody may write"
open(f"{work}/environment", "w").write("".join(f"{name}={here(value)}\n" for name, value in environment.items()))
hook = container["lifecycle"]["preStop"]["exec"]["command"]
open(f"{work}/hook", "w").write(" ".join(hook[1:]).replace("/run/fabstir/", f"{work}/run/"))
credentials = next(variable["value"] for variable in container["env"] if variable["name"] == "CREDENTIALS_DIRECTORY")
assert credentials in [mount["mountPath"] for mount in container["volumeMounts"]], credentials
grace = of("Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
drain = next(int(line.split("=")[1]) for line in settings.splitlines() if line.startswith("drain_seconds"))
assert grace > drain, "Kubernetes must not end a node before it has drained"
EOF
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost \
    -addext basicConstraints=critical,CA:FALSE -keyout "$work/tls/tls.key" -out "$work/tls/tls.crt" 2>/dev/null
"$bin/fabstir-llm-node" keys new --to "$work/secrets/host_private_key" >/dev/null
# With an fsGroup a secret's files are its group's to read.
chmod 440 "$work/secrets/host_private_key" "$work/tls/tls.key"
mapfile -t environment <"$work/environment"
env -i PATH="$PATH" "${environment[@]}" ENGINE=echo "$bin/fabstir-llm-node" --config-file "$work/node.toml" >"$work/node.log" 2>&1 &
node=$!
started+=("$node")
until_says "$node" "$work/node.log" '"start"'
get() { curl -sS -m 5 --cacert "$work/tls/tls.crt" --resolve "localhost:$port:127.0.0.1" -o /dev/null -w '%{http_code}' "https://localhost:$port$1"; }
check "the probes" '[ "$(get /health)$(get /ready)" = 200200 ]'
node_key=$(sed -nE 's/.*"public_key":"([0-9a-f]{66})".*/\1/p' "$work/node.log" | head -1)
"$bin/fabstir" keys new --out "$work/client.key" >/dev/null
check "a session" '[ "$("$bin/fabstir" ask --node "wss://localhost:$port/v1/ws" --ca-file "$work/tls/tls.crt" --node-key "$node_key" --key-file "$work/client.key" "hello there" | tr -d "\n" | xargs)" = "hello there" ]'
check "metrics, elsewhere" 'curl -fsS "http://127.0.0.1:$metrics/metrics" | grep -q "^fabstir_identity_key_ready 1"'
"$bin/fabstir-llm-node" $(cat "$work/hook") >/dev/null &
hook=$!
until_says "$node" "$work/node.log" '"event":"drain"'
check "a node that drains says so although nothing runs" '[ "$(get /ready)" = 503 ]'
check "the hook returns when the node has ended" 'wait "$hook" && wait "$node"'

if command -v systemd-analyze >/dev/null; then
    mkdir -p "$work/unit"
    # As a package installs it, but for where the binary is.
    sed -e "s#/usr/bin/fabstir-llm-node#$bin/fabstir-llm-node#" deploy/systemd/fabstir-llm-node.service >"$work/unit/fabstir-llm-node.service"
    cp deploy/systemd/fabstir-llm-node.socket "$work/unit/"
    check "systemd takes the unit" 'said=$(systemd-analyze verify "$work/unit/fabstir-llm-node.service" "$work/unit/fabstir-llm-node.socket" 2>&1); [ -z "$said" ] || { echo "$said"; false; }'
    check "what the memory has room for can be read" '! grep -q "^ProcSubset=pid" deploy/systemd/fabstir-llm-node.service'
    exposure() { systemd-analyze security --offline=true --no-pager "$work/unit/fabstir-llm-node.service" 2>&1 | sed -nE 's/.*Overall exposure level for [^:]*: ([0-9.]+) .*/\1/p'; }
    check "its exposure by systemd's own reckoning is no more than 1.5" 'score=$(exposure); echo "exposure $score"; awk -v s="$score" "BEGIN { exit !(s != \"\" && s <= 1.5) }"'
    # A whole life with a real model: nothing that it asks of the kernel may be what the unit refuses.
    model=$(scripts/fetch-model.sh)
    traced=$(free_port)
    env -i PATH="$PATH" HOME="$work" HOST_PRIVATE_KEY="0x$(openssl rand -hex 32)" LISTEN_ADDR="127.0.0.1:$traced" MODEL_PATH="$model" ALLOW_DEBUGGING=true \
        ADMIN_SOCKET="$work/traced.sock" USAGE_DIR="$work/usage" strace -f -qq -o "$work/calls" "$bin/fabstir-llm-node" >"$work/traced.log" 2>&1 &
    started+=($!)
    until_says "${started[-1]}" "$work/traced.log" ' listening'
    node_key=$(sed -nE 's/.*public_key=([0-9a-f]{66}).*/\1/p' "$work/traced.log" | head -1)
    check "a model answers under strace" 'timeout 60 "$bin/fabstir" ask --node "ws://127.0.0.1:$traced/v1/ws" --node-key "$node_key" --key-file "$work/client.key" --max-tokens 4 "Say hello." >/dev/null'
    "$bin/fabstir-llm-node" drain --wait --admin-socket "$work/traced.sock" >/dev/null
    check "every call of the kernel's in its life is one that the unit allows" 'python3 scripts/allowed-calls.py deploy/systemd/fabstir-llm-node.service "$work/calls"'
else
    echo "not checked, systemd-analyze is not here: deploy/systemd"
fi
finish
