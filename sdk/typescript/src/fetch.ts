/** A `fetch` for programs that speak OpenAI's HTTP API: what they post goes sealed to the node instead. */

import type { Answer, Piece } from './answer.js';
import { CODES, type Code } from './code.js';
import { FabstirError, Refused } from './error.js';
import type { Op, Session } from './session.js';

type Fetch = (input: string | URL | Request, init?: RequestInit) => Promise<Response>;

const OPS: Record<string, Op> = {
  '/chat/completions': 'chat',
  '/completions': 'completions',
  '/embeddings': 'embeddings',
};

/**
 * Give it to the openai package or to the Vercel AI SDK as their `fetch`. No HTTP request is made: an address that is not
 * of OpenAI's API is refused, and never fetched in the clear. `session` may be a function that opens one at first use.
 */
export function fabstirFetch(session: Session | (() => Promise<Session>)): Fetch {
  return async (input, init) => {
    const request = new Request(input instanceof URL ? input.href : input, init);
    const path = new URL(request.url).pathname.replace(/^.*\/v1(?=\/)/, '');
    try {
      const open = typeof session === 'function' ? await session() : session;
      if (request.method === 'GET' && path === '/models') return await models(open, request.signal);
      const op = OPS[path];
      if (request.method !== 'POST' || !op) return failure(404, 'NOT_FOUND', `there is nothing at ${path}`);
      const body: unknown = await request.json().catch(() => undefined);
      if (body === null || typeof body !== 'object')
        return failure(400, 'INVALID_PAYLOAD', 'the body is no JSON object');
      return await answered(open, op, body as Record<string, unknown>, request.signal);
    } catch (error) {
      if (request.signal.aborted) throw request.signal.reason;
      return refusal(error);
    }
  };
}

async function answered(
  session: Session,
  op: Op,
  body: Record<string, unknown>,
  signal: AbortSignal,
): Promise<Response> {
  if (op === 'chat' && 'prompt' in body)
    return failure(400, 'INVALID_PAYLOAD', 'prompt is of another API: send messages');
  const head = {
    id: `${op === 'chat' ? 'chatcmpl' : 'cmpl'}-${crypto.randomUUID()}`,
    created: Math.floor(Date.now() / 1000),
    model: typeof body['model'] === 'string' ? body['model'] : (session.welcome.models[0]?.id ?? ''),
  };
  const answer = session.request(op, body, { signal });
  if (op === 'embeddings') return embeddings(answer, head.model);
  if (body['stream'] === true) return stream(answer, op, head, includesUsage(body), signal);
  const { text, reasoning, toolCalls, logprobs, finishReason, usage } = await answer;
  const found = logprobs.length > 0 ? { content: logprobs } : null;
  const message = {
    role: 'assistant',
    content: toolCalls.length > 0 && text === '' ? null : text,
    ...(reasoning && { reasoning_content: reasoning }),
    ...(toolCalls.length > 0 && { tool_calls: toolCalls }),
  };
  const choice = {
    index: 0,
    ...(op === 'chat' ? { message } : { text }),
    logprobs: found,
    finish_reason: finishReason,
  };
  const object = op === 'chat' ? 'chat.completion' : 'text_completion';
  return Response.json({ ...head, object, choices: [choice], usage });
}

function includesUsage(body: Record<string, unknown>): boolean {
  return (body['stream_options'] as { include_usage?: unknown } | null | undefined)?.include_usage === true;
}

interface Head {
  id: string;
  created: number;
  model: string;
}

async function stream(
  answer: Answer,
  op: Op,
  head: Head,
  withUsage: boolean,
  signal: AbortSignal,
): Promise<Response> {
  const object = op === 'chat' ? 'chat.completion.chunk' : 'text_completion';
  const pieces = answer[Symbol.asyncIterator]();
  // What is refused before anything came is a status, and not a broken stream.
  const first = await pieces.next();
  const encoder = new TextEncoder();
  const event = (value: unknown) => encoder.encode(`data: ${JSON.stringify(value)}\n\n`);
  const chunk = (choice: object) =>
    event({ ...head, object, choices: [{ index: 0, finish_reason: null, ...choice }] });
  const said = ({ text, choice }: Piece) =>
    chunk(
      op === 'chat' ? (choice ?? { delta: { content: text } }) : { text, logprobs: choice?.logprobs ?? null },
    );

  async function* frames(): AsyncGenerator<Uint8Array> {
    try {
      if (op === 'chat') yield chunk({ delta: { role: 'assistant', content: '' } });
      if (!first.done) yield said(first.value);
      for await (const piece of pieces) yield said(piece);
      const { finishReason, usage } = await answer;
      yield chunk({ ...(op === 'chat' ? { delta: {} } : { text: '' }), finish_reason: finishReason });
      if (withUsage) yield event({ ...head, object, choices: [], usage });
      yield encoder.encode('data: [DONE]\n\n');
    } catch (error) {
      if (signal.aborted) throw signal.reason;
      // The official clients throw what they find under this name.
      yield event({ error: errorOf(error) });
    }
  }
  const source = frames();
  const body = new ReadableStream<Uint8Array>({
    async pull(controller) {
      const { done, value } = await source.next();
      if (done) controller.close();
      else controller.enqueue(value);
    },
    async cancel() {
      answer.cancel();
      await source.return(undefined);
    },
  });
  return new Response(body, {
    headers: { 'content-type': 'text/event-stream', 'cache-control': 'no-store' },
  });
}

async function embeddings(answer: Answer, model: string): Promise<Response> {
  const data: unknown[] = [];
  for await (const { choice } of answer) data.push(choice);
  const { usage } = await answer;
  const cost = { prompt_tokens: usage.prompt_tokens, total_tokens: usage.total_tokens };
  return Response.json({ object: 'list', data, model, usage: cost });
}

async function models(session: Session, signal: AbortSignal): Promise<Response> {
  const models = await session.models({ signal });
  const data = models.map(({ id, ...rest }) => ({
    id,
    object: 'model',
    created: 0,
    owned_by: session.node,
    ...rest,
  }));
  return Response.json({ object: 'list', data });
}

function errorOf(error: unknown): { message: string; type: string; param: null; code: string } {
  const known = error instanceof FabstirError;
  const message = known ? error.message : 'the request cannot be served';
  return {
    message,
    type: known && error instanceof Refused ? 'node_refused' : 'api_error',
    param: null,
    code: known ? error.code : 'INTERNAL_ERROR',
  };
}

function refusal(error: unknown): Response {
  const { code, message } = errorOf(error);
  const status = Object.hasOwn(CODES, code) ? CODES[code as Code].http : 502;
  const later = error instanceof FabstirError && error.retry === 'later';
  const wait = error instanceof Refused ? error.retryAfterMs : undefined;
  return failure(status, code, message, {
    // Without it the official clients would run a cut request again.
    'x-should-retry': String(later),
    ...(wait !== undefined && { 'retry-after-ms': String(wait) }),
  });
}

function failure(
  status: number,
  code: string,
  message: string,
  headers: Record<string, string> = {},
): Response {
  return Response.json(
    { error: { message, type: 'invalid_request_error', param: null, code } },
    { status, headers },
  );
}
