# Sourced by whatever starts a process and waits for it: a free port, and what a process says or answers.

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# Waits until a URL answers with success.
until_answers() {
    for _ in $(seq 600); do
        curl -fsS -m 2 "$1" >/dev/null 2>&1 && return
        sleep 0.2
    done
    echo "$1 does not answer" >&2
    return 1
}

# Waits until what a process writes has the pattern in it: until_says PID LOG PATTERN.
until_says() {
    for _ in $(seq 600); do
        grep -qs -- "$3" "$2" && return
        kill -0 "$1" 2>/dev/null || break
        sleep 0.1
    done
    # It may have said it as it ended.
    grep -qs -- "$3" "$2" && return
    cat "$2" >&2
    return 1
}

# Waits until a node listens: until_listens PID LOG; sets $address and, where it has a key, $node_key. For LOG_FORMAT=text.
until_listens() {
    until_says "$1" "$2" ' listening address=' || { echo "the node did not start" >&2; return 1; }
    address=$(sed -nE 's/.* listening address=([0-9.:]+).*/\1/p' "$2" | head -1)
    node_key=$(sed -nE 's/.*public_key=([0-9a-f]{66}).*/\1/p' "$2" | head -1)
}
