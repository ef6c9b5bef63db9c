#!/usr/bin/env python3
"""How much memory an idle connection takes: WebSockets over plain TCP, and over TLS.

    scripts/idle-memory.py NODE_BINARY [CONNECTIONS]

Starts the node twice with ENGINE=echo, opens so many WebSockets (1000), waits until nothing grows any more, and divides
what its resident memory has grown by. Linux; needs openssl.
"""
import os
import re
import socket
import ssl
import subprocess
import sys
import tempfile
import time

UPGRADE = (
    "GET /v1/ws HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
).encode()


def resident(pid: int) -> int:
    with open(f"/proc/{pid}/status") as status:
        return int(re.search(r"VmRSS:\s+(\d+) kB", status.read()).group(1))


def settled(pid: int) -> int:
    """KiB, once two looks half a second apart see the same."""
    before = -1
    for _ in range(40):
        now = resident(pid)
        if now == before:
            break
        before = now
        time.sleep(0.5)
    return now


def start(binary: str, folder: str, flags: list[str]) -> tuple[subprocess.Popen, int]:
    environment = {"ENGINE": "echo", "LISTEN_ADDR": "127.0.0.1:0", "MAX_CONNECTIONS": "20000",
                   "HOST_PRIVATE_KEY": os.urandom(32).hex()}
    node = subprocess.Popen([os.path.abspath(binary), *flags], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    for line in node.stdout:
        if found := re.search(r"listening address=127\.0\.0\.1:(\d+)", line):
            return node, int(found.group(1))
    raise SystemExit("idle-memory: the node did not start")


def connect(port: int, context: ssl.SSLContext | None) -> socket.socket:
    peer = socket.create_connection(("127.0.0.1", port))
    if context:
        peer = context.wrap_socket(peer, server_hostname="localhost")
    peer.sendall(UPGRADE)
    if b" 101 " not in peer.recv(4096):
        raise SystemExit("idle-memory: the node did not upgrade")
    return peer


def measure(name: str, binary: str, folder: str, flags: list[str], context: ssl.SSLContext | None, count: int) -> None:
    node, port = start(binary, folder, flags)
    try:
        # What the first ones bring along is not theirs.
        first = [connect(port, context) for _ in range(20)]
        before = settled(node.pid)
        peers = [connect(port, context) for _ in range(count)]
        grown = settled(node.pid) - before
        print(f"{name}: {grown / count:.1f} KiB a connection ({count} of them, {grown} KiB)")
        for peer in first + peers:
            peer.close()
    finally:
        node.kill()
        node.wait()


def main() -> None:
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    binary, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) == 3 else 1000
    with tempfile.TemporaryDirectory() as folder:
        cert, key = os.path.join(folder, "cert.pem"), os.path.join(folder, "key.pem")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
                        "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", cert],
                       check=True, capture_output=True)
        os.chmod(key, 0o600)
        measure("plain", binary, folder, [], None, count)
        flags = [f"--tls-cert-file={cert}", f"--tls-key-file={key}"]
        measure("TLS", binary, folder, flags, ssl.create_default_context(cafile=cert), count)


main()
