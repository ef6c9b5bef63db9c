#!/usr/bin/env python3
"""Holds the dependency tree to the rules: known licences, one registry, nothing that was ruled out.

Reads what cargo itself says of the tree, so it needs no tool beside cargo.
"""
import json
import re
import subprocess
import sys

LICENCES = {
    "MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "ISC", "Zlib",
    "Unicode-3.0", "CC0-1.0", "0BSD", "BSL-1.0", "Unlicense", "MIT-0", "CDLA-Permissive-2.0",
}
# Of `directories`, used unmodified: the Mozilla licence asks nothing of the code around it.
EXCEPTIONS = {"option-ext": "MPL-2.0"}
RULED_OUT = {"openssl": "TLS is rustls", "native-tls": "TLS is rustls", "hex": "base16ct for secrets, const-hex for the rest"}


def allowed(expression: str) -> bool:
    """An SPDX expression with OR and AND, as far as crates use them."""
    alternatives = re.split(r"\s+OR\s+|/", re.sub(r"[()]", "", expression))
    return any(all(part.strip() in LICENCES for part in re.split(r"\s+AND\s+", one)) for one in alternatives)


def main() -> int:
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"]
    tree = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    used = {node["id"] for node in tree["resolve"]["nodes"]}
    faults = []
    for package in (package for package in tree["packages"] if package["id"] in used):
        name, source, licence = package["name"], package["source"], package["license"] or "none"
        if source is not None and not source.startswith("registry+"):
            faults.append(f"{name} comes from {source}, not from the registry")
        if name in RULED_OUT:
            faults.append(f"{name} is ruled out: {RULED_OUT[name]}")
        if EXCEPTIONS.get(name) != licence and not allowed(licence):
            faults.append(f"{name} is under {licence}, which nobody has looked at")
    for fault in faults:
        print(f"check-dependencies: {fault}", file=sys.stderr)
    print(f"{len(used)} packages looked at, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
