"""litellm, unmodified: it finds the proxy by OPENAI_BASE_URL and OPENAI_API_KEY."""

import os

import litellm

asked = {
    "model": f"openai/{os.environ['MODEL']}",
    "messages": [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What is the capital of France?"},
    ],
    "temperature": 0,
    "max_tokens": 24,
}
whole = litellm.completion(**asked)
print(whole.choices[0].message.content)
assert "Paris" in whole.choices[0].message.content
streamed = "".join(chunk.choices[0].delta.content or "" for chunk in litellm.completion(**asked, stream=True))
assert streamed == whole.choices[0].message.content, streamed
print("litellm: as it is")
