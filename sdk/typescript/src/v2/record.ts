/** Records: everything that is said in a session (docs/protocol.md, 2.4). */

import { chacha20poly1305 } from '@noble/ciphers/chacha.js';
import { isZero, join, u16, u32, wipe } from '../bytes.js';
import type { Shape } from './body.js';
import { expect, frame, KIND } from './frame.js';
import { nonce, rekey, TAG_LEN } from './noise.js';

export const TO_NODE = 0;
export const TO_CLIENT = 1;
export type Direction = typeof TO_NODE | typeof TO_CLIENT;

/** The longest body of one record. */
export const MAX_BODY = 49140;
const HEADER_LEN = 12;
const MAX_PLAINTEXT = 49152;
const SIZES = [32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, MAX_PLAINTEXT];
const LAST = 1;
const MORE = 2;
const MOST_RECORDS = 1000;
const MOST_BYTES = 16 * 2 ** 20;
const RESERVED = 2n ** 64n - 1n;

/** A frame did not open. The cause is not told, and nothing opens after it. */
export class OpenError extends Error {
  override name = 'OpenError';
  constructor() {
    super('a frame did not open');
  }
}

/** What may not be sealed, or not any more. */
export class SealError extends Error {
  override name = 'SealError';
  constructor() {
    super('this cannot be sealed');
  }
}

interface Rule {
  byte: number;
  from: readonly Direction[];
  request: 'own' | 'zero' | 'any';
  last: 'may' | 'never' | 'always';
}

/** 2.4.2 */
const RULES = {
  request: { byte: 1, from: [TO_NODE], request: 'own', last: 'may' },
  text: { byte: 2, from: [TO_CLIENT], request: 'own', last: 'never' },
  event: { byte: 3, from: [TO_CLIENT], request: 'own', last: 'may' },
  error: { byte: 4, from: [TO_CLIENT], request: 'any', last: 'may' },
  welcome: { byte: 5, from: [TO_CLIENT], request: 'zero', last: 'never' },
  cancel: { byte: 6, from: [TO_NODE], request: 'zero', last: 'never' },
  ack: { byte: 7, from: [TO_NODE], request: 'zero', last: 'never' },
  goodbye: { byte: 8, from: [TO_NODE, TO_CLIENT], request: 'zero', last: 'always' },
} as const satisfies Record<string, Rule>;

export type RecordType = keyof typeof RULES;

const TYPE_OF = new Map<number, RecordType>(
  (Object.entries(RULES) as [RecordType, Rule][]).map(([type, { byte }]) => [byte, type]),
);

/** One piece of a request or an answer, or a word about one. */
export interface SessionRecord {
  type: RecordType;
  last: boolean;
  more: boolean;
  request: number;
  index: number;
  body: Uint8Array;
}

/** Whether 2.4.2 has such a record. */
export function isProper(
  { type, last, more, request }: Omit<SessionRecord, 'body' | 'index'>,
  direction: Direction,
): boolean {
  const rule: Rule = RULES[type];
  const lastRule = type === 'error' && request !== 0 ? 'always' : rule.last;
  return (
    rule.from.includes(direction) &&
    (rule.request === 'any' || (rule.request === 'zero') === (request === 0)) &&
    !(last && lastRule === 'never') &&
    !(!last && lastRule === 'always') &&
    !(more && (type !== 'event' || last))
  );
}

/** One direction of one handshake: its key, its counter, and what has gone under the key. */
class Lane {
  #key: Uint8Array | undefined;
  readonly direction: Direction;
  #counter: bigint;
  readonly #aad: Uint8Array;
  #records = 0;
  #bytes = 0;

  constructor(key: Uint8Array, sid: Uint8Array, direction: Direction, counter = 0n) {
    this.#key = key.slice();
    this.direction = direction;
    this.#counter = counter;
    this.#aad = join(sid, Uint8Array.of(direction, 2, KIND.record));
  }

  protected cipher() {
    if (!this.#key || this.#counter >= RESERVED) return undefined;
    return chacha20poly1305(this.#key, nonce(this.#counter), this.#aad);
  }

  /** 2.4.5 */
  protected went(last: boolean, sealed: number): void {
    this.#counter++;
    this.#records++;
    this.#bytes += sealed;
    if (this.#key && (last || this.#records >= MOST_RECORDS || this.#bytes >= MOST_BYTES)) {
      const next = rekey(this.#key);
      wipe(this.#key);
      this.#key = next;
      this.#records = 0;
      this.#bytes = 0;
    }
  }

  /** Nothing is sealed or opened after it. */
  wipe(): void {
    wipe(this.#key);
    this.#key = undefined;
  }

  /** For the vectors. @internal */
  get inside(): { key: Uint8Array | undefined; counter: bigint; aad: Uint8Array } {
    return { key: this.#key?.slice(), counter: this.#counter, aad: this.#aad.slice() };
  }

  toJSON(): string {
    return `${this.constructor.name}(..)`;
  }
}

export class Sealer extends Lane {
  shape: Shape = 'bucket';

  /** @throws {SealError} */
  seal(
    record: Pick<SessionRecord, 'type' | 'request' | 'index' | 'body'> & { last?: boolean; more?: boolean },
  ): Uint8Array {
    const { type, request, index, body, last = false, more = false } = record;
    const cipher = this.cipher();
    if (!cipher || body.length > MAX_BODY || !isProper({ type, last, more, request }, this.direction)) {
      throw new SealError();
    }
    const length = HEADER_LEN + body.length;
    const size = this.shape === 'off' ? length : (SIZES.find((size) => size >= length) ?? length);
    const plaintext = new Uint8Array(size);
    const view = new DataView(plaintext.buffer);
    view.setUint8(0, RULES[type].byte);
    view.setUint8(1, (last ? LAST : 0) | (more ? MORE : 0));
    view.setUint32(2, request);
    view.setUint32(6, index);
    view.setUint16(10, body.length);
    plaintext.set(body, HEADER_LEN);
    const sealed = cipher.encrypt(plaintext);
    wipe(plaintext);
    this.went(last, sealed.length);
    return frame('record', sealed);
  }
}

export class Opener extends Lane {
  /** @throws {OpenError} for what is refused; nothing opens after it (2.4.1). */
  open(frame: Uint8Array): SessionRecord {
    try {
      return this.#open(frame);
    } catch {
      this.wipe();
      throw new OpenError();
    }
  }

  #open(frame: Uint8Array): SessionRecord {
    const sealed = expect('record', frame);
    const cipher = this.cipher();
    const most = MAX_PLAINTEXT + TAG_LEN;
    if (!cipher || sealed.length < HEADER_LEN + TAG_LEN || sealed.length > most) throw new OpenError();
    const plaintext = cipher.decrypt(sealed);
    const flags = plaintext[1] ?? 0xff;
    const type = TYPE_OF.get(plaintext[0] ?? 0);
    const end = HEADER_LEN + u16(plaintext, 10);
    const padded = end <= plaintext.length && isZero(plaintext.subarray(end));
    if (!type || (flags & ~(LAST | MORE)) !== 0 || !padded || end - HEADER_LEN > MAX_BODY)
      throw new OpenError();
    const record = {
      type,
      last: (flags & LAST) !== 0,
      more: (flags & MORE) !== 0,
      request: u32(plaintext, 2),
      index: u32(plaintext, 6),
      body: plaintext.slice(HEADER_LEN, end),
    };
    if (!isProper(record, this.direction)) throw new OpenError();
    wipe(plaintext);
    this.went(record.last, sealed.length);
    return record;
  }
}
