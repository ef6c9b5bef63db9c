#!/usr/bin/env python3
"""Writes docs/coverage.md of what cargo-llvm-cov has summed up (its JSON export, summary only)."""

import collections
import datetime
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/coverage.md"
LEAST = 40
HEAD = """# Coverage

`make coverage` runs the tests of the workspace with every region counted (cargo-llvm-cov) and writes this page; target/coverage/html
has every line. The reliability suite and the benchmarks are left out. Rust's own tests alone are counted: what the browser, Python's clients and the scripts of `make test` run is not, nor what a
process does that is killed, as the reliability suite kills its nodes. A line that was run is not a line that was checked: docs/mutants.md
and `make defences` ask that.
"""


def percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def main() -> None:
    files = json.loads(pathlib.Path(sys.argv[1]).read_text())["data"][0]["files"]
    crates: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    low = []
    for file in files:
        path = pathlib.Path(file["filename"]).relative_to(ROOT)
        summary = file["summary"]
        crate = path.parts[1] if path.parts[0] == "crates" else path.parts[0]
        for kind in ("lines", "regions", "functions"):
            crates[crate][kind] += summary[kind]["count"]
            crates[crate][kind + " run"] += summary[kind]["covered"]
        lines = summary["lines"]
        if lines["count"] >= LEAST and lines["percent"] < 75:
            low.append((lines["percent"], str(path), lines["count"] - lines["covered"]))
    commit = subprocess.check_output(["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=ROOT, text=True).strip()
    rows = [HEAD, f"Of commit {commit}, {datetime.date.today()}.\n"]
    rows += ["| crate | lines | run | regions run | functions run |", "|---|---|---|---|---|"]
    whole = sum(crates.values(), collections.Counter())
    for name, counts in [*sorted(crates.items()), ("**all**", whole)]:
        shares = (percent(counts[kind + " run"], counts[kind]) for kind in ("lines", "regions", "functions"))
        rows.append(f"| {name} | {counts['lines']} | {' | '.join(shares)} |")
    rows += ["", f"Files of {LEAST} lines and more with less than three quarters of them run:", ""]
    rows += ["| file | lines run | not run |", "|---|---|---|"]
    rows += [f"| {path} | {share:.1f} % | {left} |" for share, path, left in sorted(low)] or ["| none | | |"]
    PAGE.write_text("\n".join(rows) + "\n")
    print(f"coverage: {percent(whole['lines run'], whole['lines'])} of {whole['lines']} lines: docs/coverage.md")


main()
