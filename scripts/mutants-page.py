#!/usr/bin/env python3
"""Adds what cargo-mutants found to docs/mutants/results.json and writes docs/mutants.md of it. Ends with 1 where a
survivor is not explained in docs/mutants/explained.txt."""

import argparse
import collections
import datetime
import json
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs/mutants/results.json"
EXPLAINED = ROOT / "docs/mutants/explained.txt"
PAGE = ROOT / "docs/mutants.md"
KINDS = {"CaughtMutant": "caught", "Timeout": "caught by running out of time", "MissedMutant": "survived", "Unviable": "does not compile"}
HEAD = """# Mutants

`make mutants` changes the protocol crate in one small place at a time (cargo-mutants {tool}: another operator, another
value returned, a branch gone) and runs the crate's tests. A change that no test notices is a test that is missing, or
a change that changes nothing: docs/mutants/explained.txt says which, and the script fails where it does not. Where a test was missing,
the mutant counts as a survivor until its part is run again at a commit that has the test.

Tests: the unit tests, codes, vectors, properties, pair, secrets, schema, fuzz (its corpus) and v2. Wycheproof's vectors, every
flipped bit and the independent second implementation are not among them, so what survives here may be caught there.
"""


def bare(name):
    """A mutant's name without its line, which moves."""
    return re.sub(r":\d+:\d+: ", ": ", name)


def explained():
    reasons = {}
    if EXPLAINED.exists():
        for line in EXPLAINED.read_text().splitlines():
            if line.strip() and not line.startswith("#"):
                name, _, reason = line.partition(" -- ")
                reasons[name.strip()] = reason.strip()
    return reasons


def read(outcomes):
    counts, files, survivors = collections.Counter(), {}, []
    for outcome in json.loads(outcomes.read_text())["outcomes"]:
        kind = KINDS.get(outcome["summary"])
        if outcome["scenario"] == "Baseline" or kind is None:
            continue
        mutant = outcome["scenario"]["Mutant"]
        counts[kind] += 1
        files.setdefault(mutant["file"], collections.Counter())[kind] += 1
        if kind == "survived":
            survivors.append(bare(mutant["name"]))
    return {"counts": counts, "files": files, "survivors": sorted(survivors)}


def table(results, reasons):
    counts, files, survivors = collections.Counter(), {}, []
    for part in results["parts"].values():
        counts.update(part["counts"])
        survivors += part["survivors"]
        for file, kinds in part["files"].items():
            files.setdefault(file, collections.Counter()).update(kinds)
    judged = sum(counts.values()) - counts["does not compile"]
    caught = judged - counts["survived"]
    harmless = sum(1 for name in survivors if name in reasons)
    lines = [HEAD.format(tool=results["tool"]), ""]
    parts = sorted(results["parts"], key=lambda part: [int(number) for number in part.split("/")[::-1]])
    whole = len(parts) == int(parts[0].split("/")[1])
    share = f"all {len(parts)}" if whole else ", ".join(parts)
    lines.append(
        f"At commit {results['commit']} of crates/protocol, {results['date']}; parts run: {share} "
        "(`PART=3/40 make mutants` is every fortieth from the third, over all files).\n"
    )
    lines.append("| mutants | |\n|---|---|")
    lines += [f"| {kind} | {counts[kind]} |" for kind in KINDS.values()]
    if judged:
        lines.append(f"| **score**: caught of those that compile | {caught} of {judged}, {100 * caught / judged:.1f} % |")
        lines.append(f"| survivors that are explained below | {harmless} of {counts['survived']} |")
    lines.append("\n| file | caught | survived |\n|---|---|---|")
    for file, kinds in sorted(files.items()):
        done = kinds["caught"] + kinds["caught by running out of time"]
        lines.append(f"| {file} | {done} | {kinds['survived']} |")
    if survivors:
        lines.append("\n| survivor | why |\n|---|---|")
        lines += [f"| `{name.replace('|', chr(92) + '|')}` | {reasons.get(name, '**not explained**')} |" for name in sorted(survivors)]
    return "\n".join(lines) + "\n", [name for name in survivors if name not in reasons]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outcomes", type=pathlib.Path)
    parser.add_argument("--part")
    parser.add_argument("--has", metavar="PART", help="end with 0 if this part was run at --commit")
    parser.add_argument("--commit")
    parser.add_argument("--tool")
    args = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if args.has:
        # What has changes has no name that it could be known by again.
        known = results.get("commit") == args.commit and not args.commit.endswith("+")
        return 0 if known and args.has in results["parts"] else 1
    if args.outcomes:
        if results.get("commit") != args.commit:
            results = {"commit": args.commit, "parts": {}}
        if {part.split("/")[1] for part in results["parts"]} - {args.part.split("/")[1]}:
            sys.exit("mutants: parts of one size alone can be counted together: remove docs/mutants/results.json to begin anew")
        results["tool"], results["date"] = args.tool, datetime.date.today().isoformat()
        results["parts"][args.part] = read(args.outcomes)
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n")
    page, unexplained = table(results, explained())
    PAGE.write_text(page)
    print(page)
    for name in unexplained:
        print(f"mutants: not explained: {name}", file=sys.stderr)
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
