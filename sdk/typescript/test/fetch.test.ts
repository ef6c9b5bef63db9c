/** The openai package and the Vercel AI SDK, unmodified, over a sealed session. */

import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateText, streamText } from 'ai';
import OpenAI, { APIError, NotFoundError } from 'openai';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { connect, fabstirFetch, type Session } from '../src/index.js';
import { TestNode, Wire } from './testnode.js';

let node: TestNode;
let session: Session;
let openai: OpenAI;
let model: string;
const nowhere = { apiKey: 'none', baseURL: 'https://nowhere.invalid/v1' };

beforeAll(async () => {
  node = await TestNode.start();
  session = await connect(node.here);
  model = session.welcome.models[0]?.id ?? '';
  openai = new OpenAI({ ...nowhere, fetch: fabstirFetch(session) as never, maxRetries: 2 });
});
afterAll(async () => {
  session.close();
  await node.stop();
});

const messages = [
  { role: 'system' as const, content: 'You are a helpful assistant.' },
  { role: 'user' as const, content: 'What is the capital of France?' },
];

test('openai: a whole answer', async () => {
  const answer = await openai.chat.completions.create({ model, messages, temperature: 0, max_tokens: 24 });
  expect(answer.choices[0]?.message.content).toContain('Paris');
  expect(answer.choices[0]?.finish_reason).toBe('stop');
  expect(answer.usage?.total_tokens).toBeGreaterThan(10);
});

test('openai: a stream with its usage', async () => {
  const stream = await openai.chat.completions.create({
    model,
    messages,
    temperature: 0,
    max_tokens: 24,
    stream: true,
    stream_options: { include_usage: true },
  });
  let text = '';
  let usage: unknown;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta.content ?? '';
    usage = chunk.usage ?? usage;
  }
  expect(text).toContain('Paris');
  expect(usage).toMatchObject({ prompt_tokens: expect.any(Number) });
});

test('openai: log probabilities, a schema, completions, embeddings and models', async () => {
  const logprobs = await openai.chat.completions.create({ model, messages, logprobs: true, max_tokens: 2 });
  expect(logprobs.choices[0]?.logprobs?.content).toHaveLength(2);
  const schema = {
    type: 'object',
    properties: { n: { enum: ['one', 'two'] } },
    required: ['n'],
    additionalProperties: false,
  };
  const json = await openai.chat.completions.create({
    model,
    messages,
    max_tokens: 40,
    response_format: { type: 'json_schema', json_schema: { name: 'n', schema, strict: true } },
  });
  expect(JSON.parse(json.choices[0]?.message.content ?? '')).toHaveProperty('n');
  const text = await openai.completions.create({ model, prompt: 'One, two,', max_tokens: 4, temperature: 0 });
  expect(text.choices[0]?.text.length).toBeGreaterThan(1);
  const vectors = await openai.embeddings.create({ model, input: ['a', 'b'] });
  expect(vectors.data).toHaveLength(2);
  expect(vectors.data[0]?.embedding.length).toBeGreaterThan(100);
  expect((await openai.models.list()).data[0]?.id).toBe(model);
});

test('openai: refusals are its exceptions, and nothing is asked twice', async () => {
  await expect(openai.chat.completions.create({ model: 'gpt-4', messages })).rejects.toBeInstanceOf(
    NotFoundError,
  );
  await expect(openai.images.generate({ prompt: 'a cat' })).rejects.toBeInstanceOf(NotFoundError);
  const refused = openai.chat.completions.create({ model, messages, stream: true, mirostat: 2 } as never);
  await expect(refused).rejects.toMatchObject({ status: 400, code: 'UNSUPPORTED_FIELD' });
});

test('openai: stopping a stream frees the node', async () => {
  const stop = new AbortController();
  const stream = await openai.chat.completions.create(
    { model, messages: [{ role: 'user', content: 'Tell me a long story.' }], max_tokens: 2000, stream: true },
    { signal: stop.signal },
  );
  for await (const _ of stream) stop.abort();
  const next = await openai.chat.completions.create({ model, messages, temperature: 0, max_tokens: 24 });
  expect(next.choices[0]?.message.content).toContain('Paris');
});

test('openai: an answer that was cut off is an error, and is not asked again', async () => {
  const dying = await TestNode.start();
  const wire = await Wire.to(dying.port);
  const cut = await connect({ url: wire.url, nodeKey: dying.address, resumeFor: 200 });
  const client = new OpenAI({ ...nowhere, fetch: fabstirFetch(cut) as never, maxRetries: 3 });
  const stream = await client.chat.completions.create({ model, messages, max_tokens: 500, stream: true });
  const read = (async () => {
    for await (const _ of stream) {
      await dying.stop();
      wire.close();
    }
  })();
  await expect(read).rejects.toBeInstanceOf(APIError);
  cut.close();
});

test('the AI SDK: a whole answer and a stream', async () => {
  const provider = createOpenAICompatible({
    name: 'fabstir',
    baseURL: nowhere.baseURL,
    fetch: fabstirFetch(() => Promise.resolve(session)) as typeof fetch,
  });
  const asked = { model: provider(model), messages, temperature: 0, maxOutputTokens: 24 };
  expect((await generateText(asked)).text).toContain('Paris');
  let text = '';
  for await (const words of streamText(asked).textStream) text += words;
  expect(text).toContain('Paris');
});
