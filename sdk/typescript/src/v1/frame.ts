/** The JSON frames of version 1 (docs/protocol.md, 1.1 to 1.3). The only file that knows them and their hex. */

import { hex, unhex } from '../bytes.js';
import type { Code } from '../code.js';
import { NONCE_LEN, type Sealed } from './seal.js';

/** A frame is not of the form that its type asks for. */
export class DecodeError extends Error {
  override name = 'DecodeError';
  readonly code: Code;
  constructor(code: Code) {
    super(`a frame of the node is not of its form (${code})`);
    this.code = code;
  }
}

/** A sealed payload with what it says of itself. */
export interface SealedPayload extends Sealed {
  claimed: Uint8Array;
}

/** What a node says. */
export type Reply =
  | { type: 'ack'; sessionId: string }
  | { type: 'chunk'; sessionId: string; payload: SealedPayload }
  | { type: 'response'; sessionId: string; payload: SealedPayload }
  | { type: 'stream_end'; sessionId: string; code: string | undefined; usage: unknown }
  | { type: 'error'; code: string; message: string; retryAfterMs: number | undefined }
  | { type: 'connected' }
  | { type: 'other' };

type Json = Record<string, unknown>;

export function encodeInit(
  sessionId: string,
  fields: Sealed & { ephemeral: Uint8Array; signature: Uint8Array; aad: Uint8Array; bound: boolean },
): string {
  const payload = {
    ephPubHex: hex(fields.ephemeral),
    ciphertextHex: hex(fields.ciphertext),
    signatureHex: hex(fields.signature),
    nonceHex: hex(fields.nonce),
    aadHex: hex(fields.aad),
    ...(fields.bound && { saltHex: '00'.repeat(32), info: '' }),
  };
  return JSON.stringify({ type: 'encrypted_session_init', session_id: sessionId, payload });
}

export function encodeMessage(sessionId: string, { ciphertext, nonce }: Sealed, aad: Uint8Array): string {
  const payload = { ciphertextHex: hex(ciphertext), nonceHex: hex(nonce), aadHex: hex(aad) };
  return JSON.stringify({ type: 'encrypted_message', session_id: sessionId, payload });
}

export function encodeCancel(sessionId: string): string {
  return JSON.stringify({ type: 'stream_cancel', session_id: sessionId });
}

/** @throws {DecodeError} */
export function decodeReply(text: string): Reply {
  const frame = object(parse(text)) ?? fail('MALFORMED_FRAME');
  switch (frame['type']) {
    case 'session_init_ack':
      return { type: 'ack', sessionId: sessionId(frame) };
    case 'encrypted_chunk':
      return { type: 'chunk', sessionId: sessionId(frame), payload: payload(frame) };
    case 'encrypted_response':
      return { type: 'response', sessionId: sessionId(frame), payload: payload(frame) };
    case 'stream_end': {
      const code = frame['code'];
      return {
        type: 'stream_end',
        sessionId: sessionId(frame),
        code: typeof code === 'string' ? code : undefined,
        usage: frame['usage'],
      };
    }
    case 'error': {
      const { code, message, retry_after_ms: wait } = frame;
      if (typeof code !== 'string' || typeof message !== 'string') fail('MALFORMED_FRAME');
      return { type: 'error', code, message, retryAfterMs: typeof wait === 'number' ? wait : undefined };
    }
    case 'connected':
      return { type: 'connected' };
    default:
      return { type: 'other' };
  }
}

function fail(code: Code): never {
  throw new DecodeError(code);
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return fail('MALFORMED_FRAME');
  }
}

function object(value: unknown): Json | undefined {
  return value !== null && typeof value === 'object' && !Array.isArray(value) ? (value as Json) : undefined;
}

function sessionId(frame: Json): string {
  const id = frame['session_id'] ?? frame['sessionId'] ?? fail('MISSING_SESSION_ID');
  return typeof id === 'string' ? id : fail('MALFORMED_FRAME');
}

function payload(frame: Json): SealedPayload {
  const given = object(frame['payload'] ?? fail('MISSING_PAYLOAD')) ?? fail('MALFORMED_FRAME');
  const field = (name: string) => readHex(given[name] ?? fail('MISSING_PAYLOAD_FIELDS'));
  const [ciphertext, nonce, claimed] = [field('ciphertextHex'), field('nonceHex'), field('aadHex')];
  if (nonce.length !== NONCE_LEN) fail('INVALID_NONCE_SIZE');
  return { ciphertext, nonce, claimed };
}

function readHex(value: unknown): Uint8Array {
  if (typeof value !== 'string') fail('MALFORMED_FRAME');
  try {
    return unhex(value.replace(/^0x/, ''));
  } catch {
    return fail('INVALID_HEX_ENCODING');
  }
}
