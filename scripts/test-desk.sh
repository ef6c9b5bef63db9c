#!/usr/bin/env bash
# The alert rules by Prometheus' own promtool, each of them made to fire and to keep still; the dashboard through Grafana's own
# model of dashboards, which must know every field of it.
set -euo pipefail
cd "$(dirname "$0")/.."
WITH_DESK=1 scripts/bootstrap.sh

promtool check rules deploy/prometheus/alerts.yml
(cd deploy/prometheus && promtool test rules alerts.test.yml)

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")/python-grafana
scripts/venv.sh "$target" 'grafana-foundation-sdk==1769699998!10.1.0'
"$target/bin/python" - deploy/grafana/fabstir.json <<'EOF'
import json, sys
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

written = json.load(open(sys.argv[1]))
read = json.loads(JSONEncoder().encode(Dashboard.from_json(written)))

def lost(ours, theirs, at=""):
    if isinstance(ours, dict):
        for key, value in ours.items():
            if not isinstance(theirs, dict) or key not in theirs:
                yield f"{at}/{key}: Grafana knows no such field"
            else:
                yield from lost(value, theirs[key], f"{at}/{key}")
    elif isinstance(ours, list):
        for number, value in enumerate(ours):
            yield from lost(value, theirs[number], f"{at}/{number}") if number < len(theirs) else [f"{at}/{number}: lost"]
    elif ours != theirs:
        yield f"{at}: {ours!r} is read as {theirs!r}"

faults = list(lost(written, read))
numbers = [panel["id"] for panel in written["panels"]]
if len(set(numbers)) != len(numbers):
    faults.append("two panels have one id")
for panel in written["panels"]:
    place = panel["gridPos"]
    if place["x"] + place["w"] > 24:
        faults.append(f"{panel['title']} is wider than the page")
    if panel["type"] != "row" and not (panel["targets"] and panel["description"] is not None):
        faults.append(f"{panel['title']} asks nothing")
print(*faults, sep="\n", end="\n" if faults else "")
print(f"dashboard: {len(numbers)} panels, {len(faults)} faults")
sys.exit(bool(faults))
EOF
