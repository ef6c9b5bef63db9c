#!/usr/bin/env python3
"""Holds the source to ARCHITECTURE.md: its map, which crate knows which, and the invariants that a look at the source can check.

What the compiler or a test checks is not checked again here; ARCHITECTURE.md names where.
"""
import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What each crate may use of this project, its tests aside.
MAY_USE = {
    "protocol": set(),
    "engine": set(),
    "page": set(),
    "manual": set(),
    "custody": {"protocol"},
    "client": {"protocol"},
    "attack": {"protocol", "client"},
    "reliability": {"protocol", "client", "attack"},
    "node": {"protocol", "custody", "engine", "page", "manual"},
    "cli": {"protocol", "custody", "client", "attack", "page", "manual"},
}
# What stands in few files alone: a pattern, where it is looked for, where it may be.
ONLY = [
    (
        "unsafe",
        r"\bunsafe\s*(\{|fn|impl|extern|trait)",
        "crates/*/src/**/*.rs",
        {"crates/engine/src/llama/context.rs", "crates/custody/src/locked.rs", "crates/custody/src/environment.rs"},
    ),
    ("llama.cpp", r"\bllama_cpp\w*::", "crates/**/*.rs", {"crates/engine/src/llama/"}),
    ("HTML out of text", r"__html|\.innerHTML|\.outerHTML|insertAdjacentHTML|document\.write", "web/src/**/*.ts*", {"web/src/messages.tsx"}),
    ("the identity key's use", r"\bKeyCustody\b", "crates/node/src/**/*.rs", {"crates/node/src/crypto/node_key.rs", "crates/node/src/command/"}),
    ("the seal of a channel", r"\bSealer\b", "crates/node/src/**/*.rs", {"crates/node/src/channel/", "crates/node/src/crypto/channel_keys.rs"}),
    ("who is served what was computed", r"\.serves\(", "crates/engine/src/**/*.rs", {"crates/engine/src/prefix.rs", "crates/engine/src/prefix/"}),
]
# What is made when the project is built.
MADE = {"web/dist"}


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True)
    files = listed.stdout.splitlines()
    folders = {str(parent) for file in files for parent in Path(file).parents}
    return [*files, *folders]


def map_faults(text: str, files: list[str]):
    for word in sorted(set(re.findall(r"`([\w./-]+)`", text))):
        path = word.rstrip("/")
        is_path = "/" in path.strip("/") or re.search(r"\.(rs|ts|tsx|sh|py|md|json)$", path)
        if not is_path or path in MADE or path.startswith(("/", ".")):
            continue
        if not any(file == path or file.endswith("/" + path) for file in files):
            yield f"ARCHITECTURE.md names {word}, which is not there"
    named = set(re.findall(r"^\| `crates/(\w+)`", text, re.MULTILINE))
    there = {Path(file).parts[1] for file in files if file.startswith("crates/") and file.endswith("Cargo.toml") and file.count("/") == 2}
    yield from (f"crates/{crate} has no line in ARCHITECTURE.md" for crate in sorted(there - named))
    yield from (f"ARCHITECTURE.md has a line for crates/{crate}, which is not there" for crate in sorted(named - there))


def crate_faults():
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--no-deps"]
    packages = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)["packages"]
    folder = {package["name"]: Path(package["manifest_path"]).parent.name for package in packages}
    for package in packages:
        crate = folder[package["name"]]
        uses = {folder[one["name"]] for one in package["dependencies"] if one["name"] in folder and one["kind"] is None}
        if Path(package["manifest_path"]).parent.parent.name != "crates":
            continue
        if crate not in MAY_USE:
            yield f"scripts/check-architecture.py does not say what crates/{crate} may use"
            continue
        yield from (f"crates/{crate} uses crates/{other}, which it must not know" for other in sorted(uses - MAY_USE[crate]))


def only_faults():
    for what, pattern, where, places in ONLY:
        seen = set()
        for path in sorted(ROOT.glob(where)):
            name = path.relative_to(ROOT).as_posix()
            lines = (line for line in path.read_text().splitlines() if not line.lstrip().startswith("//"))
            if not any(re.search(pattern, line) for line in lines):
                continue
            home = next((place for place in places if name == place or place.endswith("/") and name.startswith(place)), None)
            if home is None:
                yield f"{what}: {name} has it, and it belongs into {', '.join(sorted(places))} alone"
            seen.add(home)
        if not seen:
            yield f"{what}: nothing has it any more; scripts/check-architecture.py looks for {pattern}"


def bound_faults(text: str):
    settings = (ROOT / "docs/operating.md").read_text()
    table = "\n".join(line for line in text.splitlines() if line.startswith("|"))
    for name in sorted(set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", table))):
        codes = (ROOT / "crates/protocol/src/error.rs").read_text()
        if name not in settings and name not in codes:
            yield f"ARCHITECTURE.md's table names {name}, which is neither a setting nor a code"


def main() -> int:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    faults = [*map_faults(text, tracked()), *crate_faults(), *only_faults(), *bound_faults(text)]
    for fault in faults:
        print(f"check-architecture: {fault}", file=sys.stderr)
    print(f"the map, {len(MAY_USE)} crates and {len(ONLY)} invariants looked at, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
