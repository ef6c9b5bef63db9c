#!/usr/bin/env python3
"""Which calls of strace's record a unit's SystemCallFilter= refuses: fails where there are any."""

import re
import subprocess
import sys


def group(name: str) -> set[str]:
    """The calls of one of systemd's groups, those of the groups in it included."""
    listed = subprocess.run(["systemd-analyze", "syscall-filter", name], capture_output=True, text=True, check=True).stdout
    calls = set()
    for line in map(str.strip, listed.splitlines()):
        if line.startswith("@") and line != name:
            calls |= group(line)
        elif line and not line.startswith(("#", "@")):
            calls.add(line)
    return calls


def allowed(unit: str) -> set[str]:
    """What the filters of a unit leave, in the order in which they stand there; the first of them allows."""
    calls: set[str] = set()
    for line in open(unit):
        if found := re.match(r"SystemCallFilter=(~?)(.*)", line.strip()):
            named = set().union(*(group(word) if word.startswith("@") else {word} for word in found[2].split()))
            calls = calls - named if found[1] else calls | named
    return calls


unit, record = sys.argv[1:]
asked = set(re.findall(r"^\d+ +(?:<\.\.\. )?(\w+)(?:\(| resumed)", open(record).read(), re.MULTILINE))
refused = sorted(asked - allowed(unit))
print(f"{len(asked)} kinds of calls, {len(refused)} refused" + "".join(f" {call}" for call in refused))
sys.exit(bool(refused) or len(asked) < 20)
