/** One established session, as the client has it: what it seals and opens (docs/protocol.md, 1.3). */

import { hex, randomBytes, utf8, wipe } from '../bytes.js';
import { encodeMessage, type SealedPayload } from './frame.js';
import { aad, NONCE_LEN, OpenError, open, seal } from './seal.js';

const LAST = 2n ** 64n - 1n;

export class ClientSession {
  readonly id: string;
  #key: Uint8Array | undefined;
  #next = 0n;
  /** Of the sealed frames that came: chunks are numbered anew in every answer, so those of an earlier one would open again. */
  readonly #nonces = new Set<string>();

  constructor(id: string, key: Uint8Array) {
    this.id = id;
    this.#key = key.slice();
  }

  /** Seals the next message. `nonce` is given by the vectors alone. */
  message(plaintext: string, nonce: Uint8Array = randomBytes(NONCE_LEN)): string {
    const as = aad.message(this.#next);
    const frame = encodeMessage(this.id, seal(this.#needed(), nonce, as, utf8(plaintext)), as);
    this.#next++;
    return frame;
  }

  answer(): AnswerOpener {
    return new AnswerOpener((payload, as) => this.#open(payload, as));
  }

  get isOpen(): boolean {
    return this.#key !== undefined;
  }

  /** Nothing is sealed or opened after it. */
  wipe(): void {
    wipe(this.#key);
    this.#key = undefined;
    this.#nonces.clear();
  }

  /** For the vectors. @internal */
  get key(): Uint8Array | undefined {
    return this.#key?.slice();
  }

  toJSON(): string {
    return 'ClientSession(..)';
  }

  #needed(): Uint8Array {
    if (!this.#key || this.#next >= LAST) throw new OpenError();
    return this.#key;
  }

  #open(payload: SealedPayload, as: Uint8Array): Uint8Array {
    const nonce = hex(payload.nonce);
    if (this.#nonces.has(nonce)) throw new OpenError();
    const plaintext = open(this.#needed(), payload, as, payload.claimed);
    this.#nonces.add(nonce);
    return plaintext;
  }
}

/** Opens one answer: its chunks in their order, then its end. */
export class AnswerOpener {
  readonly #open: (payload: SealedPayload, as: Uint8Array) => Uint8Array;
  #next = 0n;

  constructor(open: (payload: SealedPayload, as: Uint8Array) => Uint8Array) {
    this.#open = open;
  }

  /** @throws {OpenError} for replay, gap and forgery alike. */
  chunk(payload: SealedPayload): Uint8Array {
    const plaintext = this.#open(payload, aad.chunk(this.#next));
    this.#next++;
    return plaintext;
  }

  /** @throws {OpenError} */
  final(payload: SealedPayload): Uint8Array {
    return this.#open(payload, aad.final);
  }
}
