/** What version 1 seals, and as what (docs/protocol.md, 1.2, 1.3, 1.6). */

import { xchacha20poly1305 } from '@noble/ciphers/chacha.js';
import { same, utf8 } from '../bytes.js';

/** What a frame is authenticated as. The receiver builds the one that is due; what the frame says is only compared. */
export const aad = {
  empty: new Uint8Array(0),
  sessionInit: utf8('session_init'),
  message: (index: bigint) => utf8(`message_${index}`),
  chunk: (index: bigint) => utf8(`chunk_${index}`),
  final: utf8('final'),
};

export const NONCE_LEN = 24;

/** A ciphertext with its tag, under a nonce. */
export interface Sealed {
  ciphertext: Uint8Array;
  nonce: Uint8Array;
}

/** A frame did not open. The cause is not told. */
export class OpenError extends Error {
  override name = 'OpenError';
  constructor() {
    super('a frame did not open');
  }
}

export function seal(key: Uint8Array, nonce: Uint8Array, as: Uint8Array, plaintext: Uint8Array): Sealed {
  return { ciphertext: xchacha20poly1305(key, nonce, as).encrypt(plaintext), nonce };
}

/** @throws {OpenError} also where `claimed`, the frame's own word, is not what is due. */
export function open(
  key: Uint8Array,
  { ciphertext, nonce }: Sealed,
  as: Uint8Array,
  claimed: Uint8Array,
): Uint8Array {
  if (!same(as, claimed)) throw new OpenError();
  try {
    return xchacha20poly1305(key, nonce, as).decrypt(ciphertext);
  } catch {
    throw new OpenError();
  }
}
