/** The session against a real node with a real model. */

import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { inspect } from 'node:util';
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import { WebSocket } from 'ws';
import { hex } from '../src/bytes.js';
import { PrivateKey } from '../src/identity.js';
import {
  ConnectError,
  connect,
  DidNotOpen,
  IdentityError,
  Refused,
  type Session,
  TooLarge,
  Truncated,
  type WebSocketClass,
} from '../src/index.js';
import { binary, TestNode, Wire } from './testnode.js';

let node: TestNode;
const open: Session[] = [];

beforeAll(async () => {
  node = await TestNode.start();
});
afterAll(() => node.stop());
afterEach(() => {
  for (const session of open.splice(0)) session.close();
});

async function session(options: Partial<Parameters<typeof connect>[0]> = {}): Promise<Session> {
  const opened = await connect({ ...node.here, ...options });
  open.push(opened);
  return opened;
}

const helpful = { role: 'system' as const, content: 'You are a helpful assistant.' };
const capital = {
  messages: [helpful, { role: 'user' as const, content: 'What is the capital of France?' }],
  temperature: 0,
  max_tokens: 24,
};
const story = {
  messages: [{ role: 'user' as const, content: 'Tell me a long story about the sea.' }],
  temperature: 0,
  max_tokens: 120,
};

/** A socket whose frames pass through `change` on their way in. */
function changing(change: (frame: Uint8Array, count: number) => Uint8Array | undefined): WebSocketClass {
  return class extends WebSocket {
    constructor(url: string) {
      super(url, { perMessageDeflate: false });
      let count = 0;
      const emit = this.emit.bind(this) as (event: string, ...values: unknown[]) => boolean;
      this.emit = (event: string, ...values: unknown[]) => {
        if (event !== 'message') return emit(event, ...values);
        const data = new Uint8Array(values[0] as ArrayBuffer);
        const changed = values[1] ? change(data, count++) : change(data, -1);
        if (!changed) return false;
        return emit(event, values[1] ? changed.buffer : Buffer.from(changed), values[1]);
      };
    }
  } as unknown as WebSocketClass;
}

describe('an answer', () => {
  test('comes whole', async () => {
    const answer = await (await session()).chat(capital);
    expect(answer.text).toContain('Paris');
    expect(answer.finishReason).toBe('stop');
    expect(answer.usage.completion_tokens).toBeGreaterThan(3);
    expect(answer.usage.model_sha256).toMatch(/^[0-9a-f]{64}$/);
  });

  test('comes piece by piece, and whole as well', async () => {
    const answer = (await session()).chat(story);
    const pieces: string[] = [];
    for await (const { text } of answer) pieces.push(text);
    expect(pieces.length).toBeGreaterThan(5);
    expect((await answer).text).toBe(pieces.join(''));
  });

  test('of several questions side by side is that of each alone', async () => {
    const one = await session();
    const questions = ['France', 'Italy', 'Japan', 'Spain'].map((country) => ({
      ...capital,
      messages: [helpful, { role: 'user' as const, content: `What is the capital of ${country}?` }],
    }));
    const alone: string[] = [];
    for (const question of questions) alone.push((await one.chat(question)).text);
    const together = await Promise.all(questions.map((question) => one.chat(question)));
    expect(together.map(({ text }) => text)).toEqual(alone);
  });

  test('goes on in a conversation that the node keeps', async () => {
    const one = await session();
    await one.chat({ prompt: 'My name is Ada.', temperature: 0, max_tokens: 16 });
    const { usage } = await one.chat({ prompt: 'What is my name?', temperature: 0, max_tokens: 16 });
    expect(usage.prompt_tokens).toBeGreaterThan(40);
    expect(usage.prompt_tokens_details.cached_tokens).toBeGreaterThan(10);
  });

  test('has log probabilities where they are asked for', async () => {
    const answer = await (await session()).chat({ ...capital, logprobs: true, max_tokens: 3 });
    expect(answer.logprobs).toHaveLength(3);
  });

  test('goes on over a cut connection as if nothing had been', async () => {
    const whole = (await (await session()).chat(story)).text;
    const wire = await Wire.to(node.port);
    const cut = await session({ url: wire.url });
    const states: string[] = [];
    let text = '';
    let pieces = 0;
    const answer = cut.chat(story);
    for await (const piece of answer) {
      text += piece.text;
      if (++pieces === 3 || pieces === 9) wire.cut();
      states.push(String(cut.isConnected));
    }
    expect(text).toBe(whole);
    expect(wire.connections).toBe(3);
    expect((await answer).usage.completion_tokens).toBe(120);
    wire.close();
  });

  test('goes on where the socket fails before it closes', async () => {
    const sockets: WebSocket[] = [];
    class Failing extends WebSocket {
      constructor(url: string) {
        super(url, { perMessageDeflate: false });
        sockets.push(this);
      }
    }
    const one = await session({ webSocket: Failing as unknown as WebSocketClass });
    const whole = (await one.chat(story)).text;
    let text = '';
    let failed = false;
    for await (const piece of one.chat(story)) {
      text += piece.text;
      if (failed) continue;
      failed = true;
      sockets[0]?.emit('error', new Error('ECONNRESET'));
      sockets[0]?.terminate();
    }
    expect(text).toBe(whole);
    expect(sockets).toHaveLength(2);
  }, 20_000);

  test('that was asked for while there was no connection comes', async () => {
    const wire = await Wire.to(node.port);
    const one = await session({ url: wire.url });
    await one.chat(capital);
    const lost = new Promise<void>((resolve) => {
      const poll = () => (one.isConnected ? setImmediate(poll) : resolve());
      poll();
    });
    wire.cut();
    await lost;
    expect((await one.chat(capital)).text).toContain('Paris');
    wire.close();
  });

  test('is truncated, and not short, where the node dies', async () => {
    const dying = await TestNode.start();
    const one = await session({ ...dying.here, resumeFor: 300 });
    const answer = one.chat(story);
    let pieces = 0;
    const read = (async () => {
      for await (const _ of answer) if (++pieces === 2) await dying.stop();
    })();
    await expect(read).rejects.toBeInstanceOf(Truncated);
    await expect(answer).rejects.toBeInstanceOf(Truncated);
    await expect(one.chat(capital)).rejects.toBeInstanceOf(ConnectError);
  });
});

describe('stopping', () => {
  test('by a signal throws its reason and frees the node', async () => {
    const one = await session();
    const stop = new AbortController();
    const answer = one.chat({ ...story, max_tokens: 2000 }, { signal: stop.signal });
    for await (const _ of answer) break;
    stop.abort();
    await expect(one.chat(capital, { signal: stop.signal })).rejects.toBe(stop.signal.reason);
    expect((await one.chat(capital)).text).toContain('Paris');
  });

  test('by a signal in the middle of an answer throws the reason', async () => {
    const one = await session();
    const stop = new AbortController();
    const answer = one.chat({ ...story, max_tokens: 2000 }, { signal: stop.signal });
    const read = (async () => {
      for await (const _ of answer) stop.abort();
    })();
    await expect(read).rejects.toMatchObject({ name: 'AbortError' });
  });

  test('by cancel ends as cancelled', async () => {
    const answer = (await session()).chat({ ...story, max_tokens: 2000 });
    for await (const _ of answer) {
      answer.cancel();
    }
    const { finishReason, usage } = await answer;
    expect(finishReason).toBe('cancelled');
    expect(usage.completion_tokens).toBeLessThan(200);
  });
});

describe('stopping without a connection', () => {
  test('a cancel that nobody heard is said again', async () => {
    const wire = await Wire.to(node.port);
    const one = await session({ url: wire.url });
    const answer = one.chat({ ...story, max_tokens: 2000 });
    for await (const _ of answer) {
      one.loseConnection();
      answer.cancel();
    }
    expect((await answer).finishReason).toBe('cancelled');
    wire.close();
  });
});

describe('who is there', () => {
  test('another identity than the pinned one is refused before anything is said', async () => {
    const frames: string[] = [];
    const other = PrivateKey.random().address();
    const wrong = connect({ url: node.url, nodeKey: other, onFrame: (direction) => frames.push(direction) });
    await expect(wrong).rejects.toMatchObject({ reason: 'other_identity', shown: node.address });
    await expect(wrong).rejects.toBeInstanceOf(IdentityError);
    expect(frames).toEqual(['received']);
  });

  test('the pin may be the public key', async () => {
    const one = await session({ nodeKey: hex(node.key.publicKey.toBytes()) });
    expect(one.node).toBe(node.address);
  });

  test('a list of versions that was shortened on the way is never followed', async () => {
    const sent: (string | Uint8Array)[] = [];
    const stripped = changing((frame, count) =>
      count === -1
        ? new TextEncoder().encode(new TextDecoder().decode(frame).replace('"2","1"', '"1"'))
        : frame,
    );
    const opening = session({
      webSocket: stripped,
      onFrame: (direction, frame) => direction === 'sent' && sent.push(frame),
    });
    await expect(opening).rejects.toMatchObject({ reason: 'no_version_2' });
    expect(sent).toEqual([]);
  });

  test('nobody at all is a clear error', async () => {
    await expect(connect({ url: 'ws://127.0.0.1:1/v1/ws', nodeKey: node.address })).rejects.toThrow(
      /ECONNREFUSED/,
    );
  });
});

describe('a node that changes its identity', () => {
  test('is gone on with by who has a session, and told to who pins the old one', async () => {
    const folder = mkdtempSync(`${tmpdir()}/fabstir-`);
    const [file, key] = [`${folder}/node.key`, PrivateKey.random()];
    writeFileSync(file, `0x${hex(key.expose())}`, { mode: 0o600 });
    const settings = { ENGINE: 'echo', HOST_PRIVATE_KEY: undefined, HOST_PRIVATE_KEY_FILE: file };
    const moving = await TestNode.start(settings, key);
    const wire = await Wire.to(moving.port);
    try {
      const here = { url: wire.url, nodeKey: moving.address };
      const opened = await session(here);
      expect((await opened.chat({ prompt: 'before' })).text.trim()).toBe('before');
      const env = { PATH: process.env['PATH'], HOST_PRIVATE_KEY_FILE: file };
      execFileSync(binary(), ['keys', 'rotate'], { env });
      await moving.signal('SIGHUP', /identity key rotated/);
      wire.cut();
      expect((await opened.chat({ prompt: 'after' })).text.trim()).toBe('after');
      expect(wire.connections).toBe(2);
      const refused = await connect(here).catch((error: unknown) => error);
      expect(refused).toBeInstanceOf(IdentityError);
      const { reason, shown } = refused as IdentityError;
      expect(reason).toBe('moved');
      const anew = await session({ url: wire.url, nodeKey: shown as string });
      expect((await anew.chat({ prompt: 'hello' })).text.trim()).toBe('hello');
    } finally {
      wire.close();
      await moving.stop();
      rmSync(folder, { recursive: true });
    }
  });
});

describe('what does not open', () => {
  test('ends the session, is logged nowhere, and leaves no key', async () => {
    const logged = ['log', 'warn', 'error', 'info', 'debug'].map((level) =>
      vi.spyOn(console, level as 'log'),
    );
    const flipped = changing((frame, count) => {
      if (count === 4) frame[20] = (frame[20] ?? 0) ^ 1;
      return frame;
    });
    const one = await session({ webSocket: flipped });
    await expect(one.chat(story)).rejects.toBeInstanceOf(DidNotOpen);
    expect(one.isOpen).toBe(false);
    await expect(one.chat(capital)).rejects.toBeInstanceOf(DidNotOpen);
    for (const spy of logged) expect(spy).not.toHaveBeenCalled();
    vi.restoreAllMocks();
  });

  test('a record that is kept back ends it as well', async () => {
    const one = await session({ webSocket: changing((frame, count) => (count === 4 ? undefined : frame)) });
    await expect(one.chat(story)).rejects.toBeInstanceOf(DidNotOpen);
  });

  test('a record that comes twice ends it as well', async () => {
    let first: Uint8Array | undefined;
    const twice = changing((frame, count) => {
      if (count === 3) first = frame.slice();
      return count === 4 ? (first as Uint8Array) : frame;
    });
    await expect((await session({ webSocket: twice })).chat(story)).rejects.toBeInstanceOf(DidNotOpen);
  });
});

describe('refusals', () => {
  test('have the codes of the protocol', async () => {
    const one = await session();
    const refused = one.chat({ ...capital, model: 'gpt-4' });
    await expect(refused).rejects.toMatchObject({ code: 'MODEL_NOT_FOUND', retry: 'no' });
    await expect(refused).rejects.toBeInstanceOf(Refused);
    await expect(one.chat({ ...capital, mirostat: 2 })).rejects.toMatchObject({ code: 'UNSUPPORTED_FIELD' });
    expect((await one.chat(capital)).text).toContain('Paris');
  });

  test('a request that is larger than the node takes is not sent', async () => {
    const one = await session();
    await expect(one.chat({ prompt: 'x'.repeat(2 << 20) })).rejects.toBeInstanceOf(TooLarge);
  });
});

test('an opening that is given up ends at once, and so does one that a closed session was at', async () => {
  // It takes connections and says nothing.
  const silent = createServer();
  await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
  const url = `ws://127.0.0.1:${(silent.address() as AddressInfo).port}/v1/ws`;
  const stop = new AbortController();
  const opening = connect({ url, nodeKey: node.address, signal: stop.signal });
  stop.abort();
  await expect(opening).rejects.toBe(stop.signal.reason);
  await expect(connect({ url, nodeKey: node.address, signal: stop.signal })).rejects.toBe(stop.signal.reason);
  silent.close();

  const wire = await Wire.to(node.port);
  const one = await session({ url: wire.url });
  const answer = one.chat(story);
  for await (const _ of answer) {
    one.loseConnection();
    one.close();
    break;
  }
  await expect(answer).rejects.toBeInstanceOf(Truncated);
  expect(one.isOpen).toBe(false);
  wire.close();
}, 10_000);

test('options that no timer takes are bounded or refused', async () => {
  const states: string[] = [];
  const one = await session({
    renewAfter: Number.POSITIVE_INFINITY,
    silenceTimeout: 1e12,
    onConnection: (state) => states.push(state),
  });
  expect((await one.chat(capital)).text).toContain('Paris');
  expect(states).toEqual(['open']);
  for (const renewAfter of [0, -1, Number.NaN]) {
    await expect(session({ renewAfter })).rejects.toMatchObject({ code: 'USAGE' });
  }
});

test('who looks on and stumbles does not end the session', async () => {
  const one = await session({
    onFrame: () => {
      throw new Error('it stumbled');
    },
  });
  expect((await one.chat(capital)).text).toContain('Paris');
});

test('what is no request is said to be none', async () => {
  const one = await session();
  expect(() => one.chat(null as never)).toThrow('a request is an object');
  expect(() => one.chat({ prompt: 'x', seed: 1n as never })).toThrow('a request is JSON');
  const stop = new AbortController();
  stop.abort(null);
  await expect(one.chat(capital, { signal: stop.signal })).rejects.toMatchObject({ name: 'AbortError' });
  expect(
    await one.chat({ ...capital, model: 'gpt-4' }).catch((error) => (error as { code: string }).code),
  ).toBe('MODEL_NOT_FOUND');
});

test('embeddings and the list of models come', async () => {
  const one = await session();
  const { data, usage } = await one.embeddings({ input: ['one', 'two'] });
  expect(data.map(({ index }) => index)).toEqual([0, 1]);
  expect(data[0]?.embedding.length).toBeGreaterThan(100);
  expect(usage.prompt_tokens).toBeGreaterThan(1);
  const [model] = await one.models();
  expect(model).toEqual(one.welcome.models[0]);
});

test('secrets do not print', async () => {
  const identity = { key: PrivateKey.random() };
  const secret = hex(identity.key.expose());
  const one = await session({ identity });
  const shown =
    inspect({ one, identity }, { depth: 12, showHidden: true }) + JSON.stringify({ one, identity });
  expect(shown).not.toContain(secret);
  expect(shown).not.toMatch(/Uint8Array\(32\)/);
});

test('an anonymous key goes with its session, and a given one stays', async () => {
  const wiped = vi.spyOn(PrivateKey.prototype, 'wipe');
  const close = async (options: Partial<Parameters<typeof connect>[0]>) => {
    const one = await session(options);
    wiped.mockClear();
    one.close();
    return wiped.mock.calls.length;
  };
  expect(await close({})).toBe(1);
  expect(await close({ identity: { key: PrivateKey.random() } })).toBe(0);
  vi.restoreAllMocks();
});

test('lengths are padded unless that is switched off', async () => {
  const lengths = async (shape: 'bucket' | 'off') => {
    const seen: number[] = [];
    const one = await session({
      shape,
      onFrame: (_, frame) => frame[1] === 6 && seen.push(frame.length - 18),
    });
    await one.chat(capital);
    return seen;
  };
  for (const length of await lengths('bucket')) expect([32, 64, 128, 256, 512, 1024]).toContain(length);
  expect((await lengths('off')).some((length) => length < 32)).toBe(true);
});
