#!/usr/bin/env python3
"""What fuzzing leaves in the repository: running totals in fuzz/totals.json, and a small corpus for each target.

`add` counts a run by libFuzzer's log, `keep` chooses the corpus by its merge control file, `show` prints the table.
"""

import argparse
import datetime
import hashlib
import json
import pathlib
import re

FUZZ = pathlib.Path(__file__).resolve().parent.parent / "fuzz"
FILE = FUZZ / "totals.json"
# What the tests replay is bounded, so that they take seconds.
MOST_FILES = 100
MOST_BYTES = 180_000


def read():
    return json.loads(FILE.read_text()) if FILE.exists() else {}


def add(args):
    log = pathlib.Path(args.log).read_text(errors="replace")
    # Every line of progress: #executions, and the edges reached by then.
    steps = [(int(n), int(edges)) for n, edges in re.findall(r"^#(\d+)\t.*?cov: (\d+)", log, re.M)]
    stat = re.search(r"^stat::number_of_executed_units: (\d+)", log, re.M)
    executed = int(stat.group(1)) if stat else max((n for n, _ in steps), default=0)
    edges = max((edges for _, edges in steps), default=0)
    ran = re.search(r"^Done \d+ runs in (\d+) second", log, re.M)

    totals = read()
    entry = totals.setdefault(
        args.target,
        {"executions": 0, "seconds": 0, "runs": 0, "crashes": 0, "edges": 0, "last_new_edge_at": 0},
    )
    # New is what is beyond everything that was reached before, not what this run had to reach again.
    beyond = [n for n, reached in steps if reached > entry["edges"]]
    if beyond:
        best = min(n for n, reached in steps if reached == edges)
        entry["last_new_edge_at"] = entry["executions"] + best
    entry["executions"] += executed
    entry["seconds"] += int(ran.group(1)) if ran else 0
    entry["runs"] += 1
    entry["crashes"] += args.status != 0
    entry["edges"] = max(entry["edges"], edges)
    entry["seed"] = args.seed
    entry["commit"] = args.commit
    entry["date"] = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")
    FILE.write_text(json.dumps(dict(sorted(totals.items())), indent=2) + "\n")
    print(f"fuzz: {args.target}: {executed:,} executions, {edges:,} edges")


def keep(args):
    """Greedy: again and again the input that reaches most of what none before it reached, of equals the shortest."""
    lines = pathlib.Path(args.control).read_text().splitlines()
    count = int(lines[0])
    names = lines[2 : 2 + count]
    reached = {}
    for line in lines[2 + count :]:
        word, number, *features = line.split()
        if word == "FT":
            reached[names[int(number)]] = set(map(int, features))
    inputs = {}
    for name, features in reached.items():
        data = pathlib.Path(name).read_bytes()
        inputs[hashlib.sha1(data).hexdigest()] = (data, features)
    everything = set().union(*(features for _, features in inputs.values()))
    chosen, missing, size = {}, set(everything), 0
    while inputs and len(chosen) < MOST_FILES:
        name = max(inputs, key=lambda name: (len(inputs[name][1] & missing), -len(inputs[name][0]), name))
        data, features = inputs.pop(name)
        if not features & missing:
            break
        if size + len(data) <= MOST_BYTES:
            chosen[name] = data
            missing -= features
            size += len(data)
    folder = FUZZ / "corpus" / args.target
    for old in folder.iterdir():
        old.unlink()
    for name, data in chosen.items():
        (folder / name).write_bytes(data)
    share = 100 * (len(everything) - len(missing)) / max(len(everything), 1)
    print(f"fuzz: {args.target}: {len(chosen)} inputs, {size:,} bytes, keep {share:.1f} % of the edges")


def show(_):
    totals = read()
    form = "{:<16} {:>14} {:>8} {:>8} {:>15} {:>8}  {:<13} {}"
    print(form.format("target", "executions", "seconds", "edges", "last new edge", "crashes", "commit", "date"))
    for name, entry in totals.items():
        numbers = [f"{entry[key]:,}" for key in ("executions", "seconds", "edges", "last_new_edge_at", "crashes")]
        print(form.format(name, *numbers, entry["commit"], entry["date"]))
    print(form.format("all", f"{sum(entry['executions'] for entry in totals.values()):,}", *[""] * 6).rstrip())


parser = argparse.ArgumentParser(description=__doc__)
commands = parser.add_subparsers(required=True)
adding = commands.add_parser("add")
adding.add_argument("target")
adding.add_argument("log")
adding.add_argument("--seed", type=int, required=True)
adding.add_argument("--commit", required=True)
adding.add_argument("--status", type=int, required=True)
adding.set_defaults(do=add)
keeping = commands.add_parser("keep")
keeping.add_argument("target")
keeping.add_argument("control")
keeping.set_defaults(do=keep)
commands.add_parser("show").set_defaults(do=show)
args = parser.parse_args()
args.do(args)
