/** The heads of binary frames (docs/protocol.md, 2.1.2). */

import { sha256 } from '@noble/hashes/sha2.js';
import { join } from '../bytes.js';
import type { PublicKey } from '../identity.js';

export const KIND = { m1: 1, m2: 2, m3: 3, r1: 4, r2: 5, record: 6 } as const;
export type Kind = keyof typeof KIND;

const MAGIC = 2;
export const HEAD_LEN = 2;

/** No frame of version 2, or not the one that is due. */
export class InvalidFrame extends Error {
  override name = 'InvalidFrame';
  constructor() {
    super('not the frame of version 2 that is due');
  }
}

export function frame(kind: Kind, ...parts: Uint8Array[]): Uint8Array {
  return join(Uint8Array.of(MAGIC, KIND[kind]), ...parts);
}

/** What is behind the head. @throws {InvalidFrame} for another kind. */
export function expect(kind: Kind, bytes: Uint8Array): Uint8Array {
  if (bytes.length < HEAD_LEN || bytes[0] !== MAGIC || bytes[1] !== KIND[kind]) throw new InvalidFrame();
  return bytes.subarray(HEAD_LEN);
}

/** Which channel key a first message is for. */
export function hint(channelKey: PublicKey): Uint8Array {
  return sha256(channelKey.toBytes()).slice(0, 4);
}
