"""OpenAI's package, unmodified. OPENAI_BASE_URL and OPENAI_API_KEY say where and as whom."""

import json

import openai

client = openai.OpenAI()
[model] = [model.id for model in client.models.list()]
assert client.models.retrieve(model).id == model
messages = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "What is the capital of France?"},
]
asked = {"model": model, "messages": messages, "temperature": 0, "max_tokens": 24}

whole = client.chat.completions.create(**asked)
print(whole.choices[0].message.content)
assert "Paris" in whole.choices[0].message.content and whole.usage.total_tokens > 10

streamed, usage = "", None
for chunk in client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
    streamed += chunk.choices[0].delta.content or "" if chunk.choices else ""
    usage = chunk.usage or usage
assert streamed == whole.choices[0].message.content, streamed
assert usage.completion_tokens == whole.usage.completion_tokens

logprobs = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2).choices[0].logprobs.content
assert len(logprobs) > 3 and len(logprobs[0].top_logprobs) == 2

schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}
answer = client.chat.completions.create(
    **{**asked, "max_tokens": 60},
    response_format={"type": "json_schema", "json_schema": {"name": "city", "schema": schema, "strict": True}},
)
assert set(json.loads(answer.choices[0].message.content)) == {"city"}

stopped = client.chat.completions.create(**asked, stop=["Paris"], seed=7).choices[0]
assert "Paris" not in stopped.message.content and stopped.finish_reason == "stop"

text = client.completions.create(model=model, prompt="One, two, three,", max_tokens=6, temperature=0)
assert text.choices[0].text
pieces = client.completions.create(model=model, prompt="One, two, three,", max_tokens=6, temperature=0, stream=True)
assert "".join(piece.choices[0].text for piece in pieces if piece.choices) == text.choices[0].text

response = client.responses.create(
    model=model, instructions=messages[0]["content"], input=messages[1]["content"], temperature=0, max_output_tokens=24
)
assert "Paris" in response.output_text and response.status == "completed"
with client.responses.stream(
    model=model, instructions=messages[0]["content"], input=messages[1]["content"], temperature=0, max_output_tokens=24
) as stream:
    deltas = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
    assert deltas == stream.get_final_response().output_text == response.output_text

vectors = client.embeddings.create(model=model, input=["one", "two"]).data
assert len(vectors) == 2 and len(vectors[0].embedding) > 100

for wrong, error in (
    (lambda: client.chat.completions.create(**{**asked, "model": "gpt-4"}), openai.NotFoundError),
    (lambda: client.chat.completions.create(**asked, extra_body={"mirostat": 2}), openai.BadRequestError),
    (lambda: openai.OpenAI(api_key="another").models.list(), openai.AuthenticationError),
):
    try:
        wrong()
        raise SystemExit(f"no {error.__name__}")
    except error as refused:
        assert refused.code, refused
print("openai: as it is")
