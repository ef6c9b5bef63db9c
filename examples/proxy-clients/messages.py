"""Anthropic's package, unmodified. ANTHROPIC_BASE_URL and ANTHROPIC_API_KEY say where and as whom."""

import os

import anthropic

client = anthropic.Anthropic()
asked = {
    "model": os.environ["MODEL"],
    "max_tokens": 24,
    "extra_body": {"temperature": 0},
    "system": "You are a helpful assistant.",
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
}
whole = client.messages.create(**asked)
print(whole.content[0].text)
assert "Paris" in whole.content[0].text and whole.stop_reason == "end_turn" and whole.usage.output_tokens > 3
with client.messages.stream(**asked) as stream:
    assert "".join(stream.text_stream) == whole.content[0].text
try:
    client.messages.create(**{**asked, "model": "another"})
    raise SystemExit("another model was served")
except anthropic.NotFoundError:
    pass
print("anthropic: as it is")
