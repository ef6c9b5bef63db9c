/** Noise, revision 34, as far as the two handshakes need it (docs/protocol.md, 2.3). */

import { chacha20poly1305 } from '@noble/ciphers/chacha.js';
import { hmac } from '@noble/hashes/hmac.js';
import { sha256 } from '@noble/hashes/sha2.js';
import { join, utf8, wipe } from '../bytes.js';
import { PrivateKey, PublicKey } from '../identity.js';

type Token = 'e' | 's' | 'es' | 'ee' | 'se' | 'psk';

/** Who says what, in which message. */
export interface Pattern {
  name: string;
  /** Whether the initiator knows the responder's static key before. */
  knownResponder: boolean;
  messages: readonly (readonly Token[])[];
}

export const XK_PSK3: Pattern = {
  name: 'Noise_XKpsk3_secp256k1x_ChaChaPoly_SHA256',
  knownResponder: true,
  messages: [
    ['e', 'es'],
    ['e', 'ee'],
    ['s', 'se', 'psk'],
  ],
};

export const NN_PSK0: Pattern = {
  name: 'Noise_NNpsk0_secp256k1x_ChaChaPoly_SHA256',
  knownResponder: false,
  messages: [
    ['psk', 'e'],
    ['e', 'ee'],
  ],
};

export const TAG_LEN = 16;
export const RESUME_LABEL = 'fabstir-e2ee/2 resume';
const NONE = new Uint8Array(0);

/** A handshake did not complete. What exactly failed is nobody's business. */
export class HandshakeError extends Error {
  override name = 'HandshakeError';
  constructor() {
    super('the handshake did not complete');
  }
}

/** 4 zero bytes ‖ u64, little-endian. */
export function nonce(counter: bigint): Uint8Array {
  const bytes = new Uint8Array(12);
  new DataView(bytes.buffer).setBigUint64(4, counter, true);
  return bytes;
}

/** Noise's HKDF: `outputs` times 32 bytes. */
function hkdf(chainingKey: Uint8Array, input: Uint8Array, outputs: number): Uint8Array[] {
  const key = hmac(sha256, chainingKey, input);
  const out: Uint8Array[] = [];
  for (let i = 1; i <= outputs; i++) out.push(hmac(sha256, key, join(out.at(-1) ?? NONE, Uint8Array.of(i))));
  wipe(key);
  return out;
}

/** Noise's REKEY: zeros under the highest nonce, without the tag. */
export function rekey(key: Uint8Array): Uint8Array {
  return chacha20poly1305(key, nonce(2n ** 64n - 1n))
    .encrypt(new Uint8Array(32))
    .slice(0, 32);
}

/** What both sides have at the end. */
export interface Finished {
  hash: Uint8Array;
  toNode: Uint8Array;
  toClient: Uint8Array;
  ticketId: Uint8Array;
  ticketSecret: Uint8Array;
}

/** One side's keys. */
interface Keys {
  /** The own ephemeral one; for vectors, else it is drawn. */
  e?: PrivateKey | undefined;
  s?: PrivateKey | undefined;
  /** The other's static one. */
  rs?: PublicKey | undefined;
  psk?: Uint8Array | undefined;
}

export class HandshakeState {
  readonly #pattern: Pattern;
  readonly #initiator: boolean;
  #e: PrivateKey | undefined;
  readonly #s: PrivateKey | undefined;
  #re: PublicKey | undefined;
  #rs: PublicKey | undefined;
  #psk: Uint8Array | undefined;
  #message = 0;
  #hash: Uint8Array;
  #chainingKey: Uint8Array;
  #key: Uint8Array = NONE;
  #counter = 0n;

  constructor(pattern: Pattern, initiator: boolean, prologue: Uint8Array, { e, s, rs, psk }: Keys) {
    this.#pattern = pattern;
    this.#initiator = initiator;
    this.#e = e;
    this.#s = s;
    this.#rs = rs;
    this.#psk = psk;
    // Every name here is longer than a hash.
    this.#hash = sha256(utf8(pattern.name));
    this.#chainingKey = this.#hash.slice();
    this.#mixHash(prologue);
    if (pattern.knownResponder) this.#mixHash(this.#needed(initiator ? rs : s?.publicKey).toBytes());
  }

  set psk(psk: Uint8Array) {
    this.#psk = psk;
  }

  /** The other side's static key, once it is known. */
  get remoteStatic(): PublicKey | undefined {
    return this.#rs;
  }

  /** ck and h, to compare with the vectors. @internal */
  get transcript(): { ck: Uint8Array; h: Uint8Array } {
    return { ck: this.#chainingKey.slice(), h: this.#hash.slice() };
  }

  write(payload: Uint8Array): Uint8Array {
    const out: Uint8Array[] = [];
    for (const token of this.#next()) {
      if (token === 'e') {
        this.#e ??= PrivateKey.random();
        const key = this.#e.publicKey.toBytes();
        this.#mixEphemeral(key);
        out.push(key);
      } else if (token === 's') out.push(this.#encrypt(this.#needed(this.#s).publicKey.toBytes()));
      else this.#mix(token);
    }
    out.push(this.#encrypt(payload));
    return join(...out);
  }

  /** @throws {HandshakeError} */
  read(message: Uint8Array): Uint8Array {
    let rest = message;
    const take = (length: number) => {
      if (rest.length < length) throw new HandshakeError();
      const part = rest.subarray(0, length);
      rest = rest.subarray(length);
      return part;
    };
    for (const token of this.#next()) {
      if (token === 'e') {
        const key = take(PublicKey.LEN);
        this.#re = point(key);
        this.#mixEphemeral(key);
      } else if (token === 's') this.#rs = point(this.#decrypt(take(PublicKey.LEN + TAG_LEN)));
      else this.#mix(token);
    }
    return this.#decrypt(rest);
  }

  /** Splits, and forgets what it was made from. */
  finish(): Finished {
    if (this.#message !== this.#pattern.messages.length) throw new HandshakeError();
    const [toNode, toClient] = hkdf(this.#chainingKey, NONE, 2) as [Uint8Array, Uint8Array];
    const label = join(utf8(RESUME_LABEL), this.#hash);
    const [ticketId, ticketSecret] = hkdf(this.#chainingKey, label, 2) as [Uint8Array, Uint8Array];
    const hash = this.#hash;
    this.wipe();
    return { hash, toNode, toClient, ticketId, ticketSecret };
  }

  wipe(): void {
    wipe(this.#chainingKey, this.#key, this.#psk);
    this.#e?.wipe();
  }

  #next(): readonly Token[] {
    const tokens = this.#pattern.messages[this.#message++];
    if (!tokens) throw new HandshakeError();
    return tokens;
  }

  #needed<T>(value: T | undefined): T {
    if (value === undefined) throw new HandshakeError();
    return value;
  }

  #mix(token: Exclude<Token, 'e' | 's'>): void {
    if (token === 'psk') {
      const [chainingKey, hash, key] = hkdf(this.#chainingKey, this.#needed(this.#psk), 3) as [
        Uint8Array,
        Uint8Array,
        Uint8Array,
      ];
      this.#renew(chainingKey, key);
      this.#mixHash(hash);
      return;
    }
    // "es" is the initiator's e and the responder's s.
    const [own, other] = this.#initiator ? [token[0], token[1]] : [token[1], token[0]];
    const mine = this.#needed(own === 'e' ? this.#e : this.#s);
    const theirs = this.#needed(other === 'e' ? this.#re : this.#rs);
    const shared = mine.agree(theirs);
    this.#mixKey(shared.subarray(1));
    wipe(shared);
  }

  #mixHash(bytes: Uint8Array): void {
    this.#hash = sha256(join(this.#hash, bytes));
  }

  #mixKey(input: Uint8Array): void {
    const [chainingKey, key] = hkdf(this.#chainingKey, input, 2) as [Uint8Array, Uint8Array];
    this.#renew(chainingKey, key);
  }

  #mixEphemeral(key: Uint8Array): void {
    this.#mixHash(key);
    this.#mixKey(key); // as every pattern with a psk has it
  }

  #renew(chainingKey: Uint8Array, key: Uint8Array): void {
    wipe(this.#chainingKey, this.#key);
    this.#chainingKey = chainingKey;
    this.#key = key;
    this.#counter = 0n;
  }

  #encrypt(plaintext: Uint8Array): Uint8Array {
    const sealed = chacha20poly1305(this.#key, nonce(this.#counter++), this.#hash).encrypt(plaintext);
    this.#mixHash(sealed);
    return sealed;
  }

  #decrypt(sealed: Uint8Array): Uint8Array {
    if (sealed.length < TAG_LEN) throw new HandshakeError();
    let plaintext: Uint8Array;
    try {
      plaintext = chacha20poly1305(this.#key, nonce(this.#counter++), this.#hash).decrypt(sealed);
    } catch {
      throw new HandshakeError();
    }
    this.#mixHash(sealed);
    return plaintext;
  }
}

function point(bytes: Uint8Array): PublicKey {
  try {
    return PublicKey.read(bytes);
  } catch {
    throw new HandshakeError();
  }
}
