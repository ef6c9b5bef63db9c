#!/usr/bin/env bash
# curl, whole and as a stream: OPENAI_BASE_URL and OPENAI_API_KEY say where and as whom.
set -euo pipefail
body='{"messages":[{"role":"system","content":"You are a helpful assistant."},{"role":"user","content":"What is the capital of France?"}],"temperature":0,"max_tokens":24'
ask() { curl -fsS "$OPENAI_BASE_URL/chat/completions" -H "Authorization: Bearer $OPENAI_API_KEY" -H 'Content-Type: application/json' -d "$1"; }
ask "$body}" | tee /dev/stderr | grep -q Paris
stream=$(ask "$body,\"stream\":true}")
grep -q '^data: {' <<<"$stream"
tail -n 2 <<<"$stream" | grep -q '^data: \[DONE\]$'
status=$(curl -s -o /dev/null -w '%{http_code}' "$OPENAI_BASE_URL/models")
[ "$status" = 401 ] || { echo "without the token: $status" >&2; exit 1; }
echo
echo "curl: as it is"
