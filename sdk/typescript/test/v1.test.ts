/** Version 1 against vectors/, and against a real node. */

import { hkdf } from '@noble/hashes/hkdf.js';
import { sha256 } from '@noble/hashes/sha2.js';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { hex, text, unhex, utf8 } from '../src/bytes.js';
import { checksum, personalDigest } from '../src/ethereum.js';
import { PublicKey } from '../src/identity.js';
import type { WebSocketClass } from '../src/socket.js';
import { type DecodeError, decodeReply, type Reply } from '../src/v1/frame.js';
import { bound, type Dialect, startSession } from '../src/v1/handshake.js';
import { connect, DidNotOpen, TooOld, Truncated } from '../src/v1/index.js';
import { OpenError, open, seal } from '../src/v1/seal.js';
import { ClientSession } from '../src/v1/session.js';
import { TestNode } from './testnode.js';
import { type Case, key, vectors } from './vectors.js';

const accepted = vectors('v1-accepted');
const rejected = vectors('v1-rejected');
const derivations = vectors('v1-derivations');

const named = (cases: Case[]): [string, Case][] => cases.map((one) => [one.name, one]);

describe('v1-derivations.json', () => {
  test.each(named(derivations.keys))('keys: %s', (_, one) => {
    expect(hex(key(one.private_key).publicKey.toBytes())).toBe(one.public_key);
    expect(key(one.private_key).address()).toBe(one.address);
    expect(checksum(one.address)).toBe(one.checksum_address);
  });

  test.each(named(derivations.agreements.filter((one: Case) => one.their_public_key.length === 66)))(
    'agreements: %s',
    (_, one) => {
      const point = key(one.private_key).agree(PublicKey.read(unhex(one.their_public_key)));
      expect(hex(point)).toBe(one.point);
      const derive = (material: Uint8Array) => hex(hkdf(sha256, material, undefined, undefined, 32));
      expect(derive(point.subarray(1))).toBe(one.key_from_x);
      expect(derive(point)).toBe(one.key_from_point);
    },
  );

  test.each(named(derivations.digests))('digests: %s', (_, one) => {
    const plain = sha256(unhex(one.ciphertext));
    const third = bound(
      unhex(one.ephemeral_public_key),
      unhex(one.node_public_key),
      unhex(one.nonce),
      utf8(one.aad),
    );
    expect([hex(plain), hex(personalDigest(plain)), hex(third)]).toEqual([
      one.digest_1,
      one.digest_2,
      one.digest_3,
    ]);
    expect(hex(key(one.private_key).sign(personalDigest(plain)))).toBe(one.signature_2);
  });

  test.each(named(derivations.seals))('seals: %s', (_, one) => {
    const [secret, nonce, as] = [unhex(one.key), unhex(one.nonce), utf8(one.aad)];
    const sealed = seal(secret, nonce, as, utf8(one.plaintext));
    expect(hex(sealed.ciphertext)).toBe(one.sealed);
    expect(text(open(secret, sealed, as, as))).toBe(one.plaintext);
  });
});

describe('v1-accepted.json', () => {
  const canonical = accepted.sessions.filter((one: Case) => one.given.canonical);

  test.each(named(canonical))('is written byte for byte: %s', (_, one) => {
    const { given } = one;
    const { frame, session } = startSession(
      {
        nodeKey: key(one.node_private_key).publicKey,
        clientKey: key(given.client_private_key),
        sessionId: one.expect.session_id,
        dialect: given.dialect as Dialect,
        timestamp: JSON.parse(given.session_data).timestamp,
        claim: given.claim,
      },
      {
        ephemeral: key(given.ephemeral_private_key),
        nonce: unhex(given.nonce),
        ...(given.session_key && { sessionKey: unhex(given.session_key) }),
      },
    );
    // One dialect writes 0x before its signature.
    expect(JSON.parse(frame)).toEqual(JSON.parse(one.frame.replace('"0x', '"')));
    expect(hex(session.key ?? new Uint8Array())).toBe(one.expect.session_key);
  });

  test.each(named(accepted.sessions))('messages and answers: %s', (_, one) => {
    const session = new ClientSession(one.expect.session_id, unhex(one.expect.session_key));
    one.messages.forEach((message: Case, i: number) => {
      const frame = session.message(message.plaintext, unhex(message.nonce));
      if (message.index === i)
        expect(JSON.parse(frame).payload.ciphertextHex).toBe(
          JSON.parse(message.frame).payload.ciphertextHex.toLowerCase().replace(/^0x/, ''),
        );
    });
    if (!one.answer) return;
    const answer = session.answer();
    for (const chunk of one.answer.chunks) {
      const reply = decodeReply(chunk.frame) as Extract<Reply, { type: 'chunk' }>;
      expect(text(answer.chunk(reply.payload))).toBe(chunk.plaintext);
    }
    const reply = decodeReply(one.answer.response.frame) as Extract<Reply, { type: 'response' }>;
    expect(text(answer.final(reply.payload))).toBe(one.answer.response.plaintext);
  });
});

describe('v1-rejected.json, a client', () => {
  test.each(named(rejected.client))('%s', (_, one) => {
    const session = new ClientSession(one.session_id, unhex(one.session_key));
    const answer = session.answer();
    const take = (frame: string) => {
      const reply = decodeReply(frame);
      if (reply.type === 'chunk') answer.chunk(reply.payload);
      else if (reply.type === 'response') answer.final(reply.payload);
    };
    for (const frame of one.before) take(frame);
    let code: string | undefined;
    try {
      take(one.frame);
    } catch (error) {
      code = error instanceof OpenError ? 'DECRYPTION_FAILED' : (error as DecodeError).code;
    }
    expect(code).toBe(one.code);
  });
});

describe('against a node', () => {
  let node: TestNode;
  beforeAll(async () => {
    node = await TestNode.start({ ENGINE: 'echo' });
  });
  afterAll(() => node.stop());

  const nodeKey = () => hex(node.key.publicKey.toBytes());
  const question = { prompt: 'one two three' };

  test.each(['deployed', 'guide-rust', 'guide-typescript'] as const)('%s is understood', async (dialect) => {
    const session = await connect({ url: node.url, nodeKey: nodeKey(), dialect });
    const answers = await Promise.all([session.chat(question), session.chat({ prompt: 'four' })]);
    expect(answers.map(({ text }) => text)).toEqual(['one two three', 'four']);
    expect(answers[0]?.usage.completion_tokens).toBeGreaterThan(0);
    session.close();
    await expect(session.chat(question)).rejects.toMatchObject({ code: 'SESSION_CLOSED' });
  });

  test('an answer that is read twice over does not open', async () => {
    const { WebSocket } = await import('ws');
    const seen: string[] = [];
    class Replaying extends WebSocket {
      override emit(event: string, ...values: unknown[]): boolean {
        if (event === 'message') {
          const frame = String(values[0]);
          if (frame.includes('encrypted_chunk')) seen.push(frame);
          // In the second answer the first chunk of the first comes once more.
          if (seen.length > 3 && frame.includes('"chunk') === false && frame.includes('"index":0}')) {
            return super.emit('message', Buffer.from(seen[0] ?? ''), false);
          }
        }
        return super.emit(event, ...values);
      }
    }
    const session = await connect({
      url: node.url,
      nodeKey: nodeKey(),
      webSocket: Replaying as unknown as WebSocketClass,
    });
    expect((await session.chat(question)).text).toBe('one two three');
    await expect(session.chat({ prompt: 'four five six' })).rejects.toBeInstanceOf(DidNotOpen);
    expect(session.isOpen).toBe(false);
  });

  test('a node that certifies that it is newer is not spoken to', async () => {
    const newer = await TestNode.start({ ENGINE: 'echo', MIN_PROTOCOL: '2' });
    const opening = connect({ url: newer.url, nodeKey: hex(newer.key.publicKey.toBytes()) });
    await expect(opening).rejects.toBeInstanceOf(TooOld);
    await newer.stop();
  });

  test('an answer without its end is truncated', async () => {
    const dying = await TestNode.start();
    const session = await connect({ url: dying.url, nodeKey: hex(dying.key.publicKey.toBytes()) });
    const answer = session.chat({ prompt: 'Tell me a long story.', max_tokens: 500 });
    const read = (async () => {
      for await (const _ of answer) await dying.stop();
    })();
    await expect(read).rejects.toBeInstanceOf(Truncated);
  });
});
