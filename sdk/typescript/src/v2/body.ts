/** The JSON inside handshakes and records (docs/protocol.md, 2.3.5, 2.5, 2.6). */

import * as bytes from '../bytes.js';
import { bigEndian, hex, isZero, join, utf8 } from '../bytes.js';
import {
  type Form,
  flag,
  hexOf,
  integer,
  list,
  object,
  optional,
  otherwise,
  pair,
  string,
  u32,
  where,
} from './json.js';

/** How lengths are hidden: in buckets, or not. */
export type Shape = 'bucket' | 'off';

/** A request, and the last index of its answer that came. */
export type Received = [request: number, last: number];

/** A shape that is not known here is the usual one. */
const shape: Form<Shape> = where(string, (word): Shape => (word === 'off' ? 'off' : 'bucket'), 'a shape');
const received = list(pair(u32, u32));

/** What a client says of itself and wants. */
export interface Hello {
  client: string;
  shape: Shape;
  ticket: boolean;
  claim?: { session: string; received: Received[] };
}

export const hello: Form<Hello> = object(
  { client: string, shape: otherwise(shape, 'bucket'), ticket: otherwise(flag, false) },
  { claim: optional(object({ session: where(hexOf(16), hex, 'a session'), received })) },
);

/** What a client has of its answers, when it resumes. */
export interface Resume {
  received: Received[];
  shape: Shape;
}

export const resume: Form<Resume> = object({ received, shape: otherwise(shape, 'bucket') });

/** A model that may be asked, with the digest of its weights where the node knows it. */
export interface Model {
  id: string;
  sha256?: string;
  context_window: number;
}

/** What the node grants. */
export interface Welcome {
  node: string;
  shape: Shape;
  ticket: boolean;
  limits: {
    max_request_bytes: number;
    max_requests: number;
    grace_seconds: number;
    keep_seconds: number;
    ticket_seconds: number;
  };
  models: Model[];
  known?: number[];
}

export const model: Form<Model> = object({ id: string, context_window: u32 }, { sha256: optional(string) });

export const welcome: Form<Welcome> = object(
  {
    node: string,
    shape,
    ticket: flag,
    limits: object({
      max_request_bytes: integer(),
      max_requests: u32,
      grace_seconds: integer(),
      keep_seconds: integer(),
      ticket_seconds: integer(),
    }),
    models: list(model),
  },
  { known: optional(list(u32)) },
);

/** What an answer cost. */
export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
  context_window_size: number;
  prompt_tokens_details: { cached_tokens: number };
  model_sha256?: string;
  estimated: boolean;
}

export const usage: Form<Usage> = object(
  {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u32,
    context_window_size: u32,
    prompt_tokens_details: otherwise(object({ cached_tokens: otherwise(u32, 0) }), { cached_tokens: 0 }),
    estimated: otherwise(flag, false),
  },
  { model_sha256: optional(string) },
);

/** How an answer ended. */
export interface End {
  finish_reason: string;
  usage: Usage;
  dropped_messages: number;
}

export const end: Form<End> = object({
  finish_reason: string,
  usage,
  dropped_messages: otherwise(integer(), 0),
});

/** A refusal, with a code of part 3. */
export interface Fault {
  code: string;
  message: string;
  retry_after_ms?: number;
  prompt_tokens?: number;
  context_window_size?: number;
  usage?: Usage;
}

export const fault: Form<Fault> = object(
  { code: string, message: string },
  {
    retry_after_ms: optional(integer()),
    prompt_tokens: optional(u32),
    context_window_size: optional(u32),
    usage: optional(usage),
  },
);

export const goodbye: Form<{ reason: string }> = object({ reason: otherwise(string, '') });

/** As it travels. Names and their order are those of the Rust side, so that the same values give the same bytes. */
export function encode(value: unknown): Uint8Array {
  return utf8(JSON.stringify(value));
}

const SIZES = [512, 1024, 2048, 4096];

/** Does not fit, or is not the one form that bytes have. */
export class PayloadError extends Error {
  override name = 'PayloadError';
}

/** Parts behind their lengths, then zeros up to the smallest of the sizes. */
export function pad(...parts: Uint8Array[]): Uint8Array {
  const whole = join(...parts.flatMap((part) => [bigEndian(part.length, 2), part]));
  const size = SIZES.find((size) => size >= whole.length);
  if (size === undefined) throw new PayloadError('the payload is longer than 4096 bytes');
  return join(whole, new Uint8Array(size - whole.length));
}

/** @throws {PayloadError} for another size than the smallest, a length beyond the end, or padding that is not zero. */
export function unpad(payload: Uint8Array, parts: number): Uint8Array[] {
  const read: Uint8Array[] = [];
  let at = 0;
  for (let i = 0; i < parts; i++) {
    if (at + 2 > payload.length) throw new PayloadError('a length is missing');
    const end = at + 2 + bytes.u16(payload, at);
    if (end > payload.length) throw new PayloadError('a length is beyond the end');
    read.push(payload.subarray(at + 2, end));
    at = end;
  }
  const proper = payload.length === SIZES.find((size) => size >= at) && isZero(payload.subarray(at));
  if (!proper) throw new PayloadError('the padding is not that of this length');
  return read;
}
