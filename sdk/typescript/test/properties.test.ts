/** What holds for every input. */

import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { same } from '../src/bytes.js';
import { Answer, CODES, ProtocolError, Refused, retryOf } from '../src/index.js';
import { pad, unpad, welcome } from '../src/v2/body.js';
import { decode, MalformedError } from '../src/v2/json.js';
import {
  isProper,
  OpenError,
  Opener,
  type RecordType,
  Sealer,
  TO_CLIENT,
  TO_NODE,
} from '../src/v2/record.js';

const types: RecordType[] = ['request', 'text', 'event', 'error', 'welcome', 'cancel', 'ack', 'goodbye'];
const record = fc
  .record({
    type: fc.constantFrom(...types),
    last: fc.boolean(),
    more: fc.boolean(),
    request: fc.oneof(fc.constant(0), fc.nat(0xffff_ffff)),
    index: fc.nat(0xffff_ffff),
    body: fc.uint8Array({ maxLength: 3000 }),
  })
  .filter((record) => isProper(record, TO_CLIENT));
const key = fc.uint8Array({ minLength: 32, maxLength: 32 });
const sid = fc.uint8Array({ minLength: 16, maxLength: 16 });

test('what is sealed opens, in its order, under every shape', () => {
  fc.assert(
    fc.property(
      key,
      sid,
      fc.array(record, { maxLength: 12 }),
      fc.constantFrom('bucket', 'off'),
      (key, sid, all, shape) => {
        const [sealer, opener] = [new Sealer(key, sid, TO_CLIENT), new Opener(key, sid, TO_CLIENT)];
        sealer.shape = shape as 'bucket' | 'off';
        for (const one of all) {
          const { body, ...rest } = opener.open(sealer.seal(one));
          expect({ ...rest, same: same(body, one.body) }).toEqual({ ...one, body: undefined, same: true });
        }
      },
    ),
    { numRuns: 60 },
  );
});

test('a record of which any one bit is another does not open, and nothing opens after it', () => {
  fc.assert(
    fc.property(key, sid, record, fc.nat(), (key, sid, one, at) => {
      const [sealer, opener] = [new Sealer(key, sid, TO_CLIENT), new Opener(key, sid, TO_CLIENT)];
      const frame = sealer.seal(one);
      const bit = at % (frame.length * 8);
      const bent = frame.map((byte, i) => (i === bit >> 3 ? byte ^ (1 << (bit & 7)) : byte));
      expect(() => opener.open(bent)).toThrow(OpenError);
      expect(() => opener.open(frame)).toThrow(OpenError);
      expect(opener.inside.key).toBeUndefined();
    }),
    { numRuns: 300 },
  );
});

test('no frame opens out of its order, or in the other direction', () => {
  fc.assert(
    fc.property(
      key,
      sid,
      fc.array(record, { minLength: 2, maxLength: 6 }),
      fc.nat(),
      (key, sid, all, pick) => {
        const sealer = new Sealer(key, sid, TO_CLIENT);
        const frames = all.map((one) => sealer.seal(one));
        const at = 1 + (pick % (frames.length - 1));
        expect(() => new Opener(key, sid, TO_CLIENT).open(frames[at] as Uint8Array)).toThrow(OpenError);
        expect(() => new Opener(key, sid, TO_NODE).open(frames[0] as Uint8Array)).toThrow(OpenError);
      },
    ),
    { numRuns: 100 },
  );
});

test('payloads come back as they were padded, and their length says which of four it is', () => {
  const part = fc.uint8Array({ maxLength: 1500 });
  fc.assert(
    fc.property(part, part, (one, other) => {
      const padded = pad(one, other);
      expect([512, 1024, 2048, 4096]).toContain(padded.length);
      const [first, second] = unpad(padded, 2) as [Uint8Array, Uint8Array];
      expect(same(first, one) && same(second, other)).toBe(true);
    }),
  );
});

test('no bytes make a reader do anything but read or refuse', () => {
  fc.assert(
    fc.property(
      fc.oneof(
        fc.uint8Array({ maxLength: 400 }),
        fc.json().map((json) => new TextEncoder().encode(json)),
      ),
      (bytes) => {
        try {
          decode(bytes, welcome);
        } catch (error) {
          expect(error).toBeInstanceOf(MalformedError);
        }
        expect(() => new Opener(new Uint8Array(32), new Uint8Array(16), TO_CLIENT).open(bytes)).toThrow(
          OpenError,
        );
      },
    ),
    { numRuns: 500 },
  );
});

test('reading takes no longer than the text is long', { timeout: 5000 }, () => {
  const long = 'k'.repeat(20_000);
  const bombs = [
    `{"type":"connected","e2ee":["2"],"${long}":[${'1,'.repeat(100_000)}1]}`,
    `{"${long}":{"${long}":[${'[1],'.repeat(50_000)}1]}}`,
    `{${Array.from({ length: 100_000 }, (_, i) => `"${i}":1`).join(',')}}`,
    `{"x":[${'1,'.repeat(1_000_000)}1]}`,
  ];
  for (const bomb of bombs) expect(() => decode(bomb, welcome)).toThrow(MalformedError);
});

test('pieces that are not of their form are the node’s fault, and said to be', async () => {
  const end = { finish_reason: 'stop', usage: {} as never, dropped_messages: 0 };
  const odd = [
    { delta: { tool_calls: 5 } },
    { delta: { tool_calls: [null] } },
    { logprobs: { content: {} } },
  ];
  for (const value of odd) {
    const answer = new Answer((sink) => {
      sink.event(value);
      sink.end(end);
      return () => {};
    });
    await expect(answer, JSON.stringify(value)).rejects.toBeInstanceOf(ProtocolError);
  }
  const many = new Answer((sink) => {
    sink.event({
      logprobs: { content: Array.from({ length: 300_000 }, () => 0) },
      delta: { reasoning_content: {} },
    });
    sink.end(end);
    return () => {};
  });
  expect((await many).logprobs).toHaveLength(300_000);
});

test('a refusal is text on a terminal, whoever wrote it', () => {
  const refused = new Refused('\x1b[2J', `gone\x1b[31m\u202e${'x'.repeat(9000)}`);
  expect(refused.code).toBe('UNKNOWN');
  expect(refused.message).not.toMatch(/[\p{Cc}\p{Cf}]/u);
  expect(refused.message.length).toBeLessThan(600);
});

test('the codes are those of docs/protocol.md', () => {
  const spec = readFileSync(new URL('../../../docs/protocol.md', import.meta.url), 'utf8');
  const rows = [...spec.matchAll(/^\| `([A-Z0-9_]+)` \| (\d+) \| ([^|]+) \| ([^|]+) \|$/gm)];
  const table = Object.fromEntries(
    rows.map(([, code, http, retry, meaning]) => [code, { http: Number(http), retry, meaning }]),
  );
  expect(CODES).toEqual(table);
  expect(retryOf('SOMETHING_NEWER')).toBe('no');
});
