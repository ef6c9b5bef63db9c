/** Keys and signatures on secp256k1. */

import { secp256k1 } from '@noble/curves/secp256k1.js';
import { bigEndian, join, toBigInt } from './bytes.js';
import { type Address, addressOfPoint } from './ethereum.js';

const ORDER = secp256k1.Point.Fn.ORDER;

export const SIGNATURE_LEN = 65;

/** Bytes are no key, or no signature of the one form that is taken. */
export class InvalidKey extends Error {
  override name = 'InvalidKey';
  constructor() {
    super('these bytes are no key or signature on secp256k1');
  }
}

/** A point in SEC 1's compressed form, 33 bytes. */
export class PublicKey {
  static readonly LEN = 33;
  readonly #bytes: Uint8Array;

  private constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  /** @throws {InvalidKey} for anything but a compressed point of the curve. */
  static read(bytes: Uint8Array): PublicKey {
    if (bytes.length !== PublicKey.LEN) throw new InvalidKey();
    try {
      secp256k1.Point.fromBytes(bytes);
    } catch {
      throw new InvalidKey();
    }
    return new PublicKey(bytes.slice());
  }

  toBytes(): Uint8Array {
    return this.#bytes.slice();
  }

  address(): Address {
    return addressOfPoint(secp256k1.Point.fromBytes(this.#bytes).toBytes(false));
  }

  equals(other: PublicKey): boolean {
    return this.#bytes.every((byte, at) => byte === other.#bytes[at]);
  }
}

/** A secret scalar. It does not print, and is overwritten by `wipe`. */
export class PrivateKey {
  static readonly LEN = 32;
  readonly #bytes: Uint8Array;
  readonly publicKey: PublicKey;

  private constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.publicKey = PublicKey.read(secp256k1.getPublicKey(bytes));
  }

  static random(): PrivateKey {
    return new PrivateKey(secp256k1.utils.randomSecretKey());
  }

  /** @throws {InvalidKey} for anything but 32 bytes that are a scalar of the curve. */
  static read(bytes: Uint8Array): PrivateKey {
    if (!secp256k1.utils.isValidSecretKey(bytes)) throw new InvalidKey();
    return new PrivateKey(bytes.slice());
  }

  address(): Address {
    return this.publicKey.address();
  }

  /** The shared point, compressed: its x is behind the first byte. */
  agree(other: PublicKey): Uint8Array {
    return secp256k1.getSharedSecret(this.#bytes, other.toBytes());
  }

  /** r ‖ s ‖ v of a digest, s low, v 27 or 28. */
  sign(digest: Uint8Array): Uint8Array {
    const signed = secp256k1.sign(digest, this.#bytes, { prehash: false, format: 'recovered' });
    return join(signed.subarray(1), Uint8Array.of(27 + (signed[0] ?? 0)));
  }

  /** The bytes, for who keeps a delegate key. The caller's copy is the caller's to wipe. */
  expose(): Uint8Array {
    return this.#bytes.slice();
  }

  wipe(): void {
    this.#bytes.fill(0);
  }

  toJSON(): string {
    return 'PrivateKey(..)';
  }
}

/** Whether these are 65 bytes r ‖ s ‖ v with s low and v 27 or 28. */
export function isSignature(bytes: Uint8Array): boolean {
  if (bytes.length !== SIGNATURE_LEN) return false;
  const r = toBigInt(bytes.subarray(0, 32));
  const s = toBigInt(bytes.subarray(32, 64));
  const v = bytes[64];
  return r > 0n && r < ORDER && s > 0n && s <= ORDER / 2n && (v === 27 || v === 28);
}

/** Wallets give v as 0 or 1, or s high, and all mean the same signature. Anything else is returned as it is. */
export function canonical(signature: Uint8Array): Uint8Array {
  if (signature.length !== SIGNATURE_LEN) return signature;
  let v = signature[64] ?? 0;
  if (v < 27) v += 27;
  let s = toBigInt(signature.subarray(32, 64));
  if (s > ORDER / 2n && s < ORDER) {
    s = ORDER - s;
    v = v === 27 ? 28 : 27;
  }
  return join(signature.subarray(0, 32), bigEndian(s, 32), Uint8Array.of(v));
}

/** Who signed the digest; `undefined` where nobody could have. */
export function recover(digest: Uint8Array, signature: Uint8Array): Address | undefined {
  try {
    const recovered = join(Uint8Array.of((signature[64] ?? 0) - 27), signature.subarray(0, 64));
    return PublicKey.read(secp256k1.recoverPublicKey(recovered, digest, { prehash: false })).address();
  } catch {
    return undefined;
  }
}
