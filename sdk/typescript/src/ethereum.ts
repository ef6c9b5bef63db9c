/** Addresses as Ethereum has them: Keccak-256, EIP-55, EIP-191. */

import { keccak_256 } from '@noble/hashes/sha3.js';
import { hex, join, unhex, utf8 } from './bytes.js';

/** `0x` and 40 hex digits, lower case. */
export type Address = `0x${string}`;

export const ZERO_ADDRESS: Address = `0x${'0'.repeat(40)}`;

/** Text is no address, or its mixed case is not EIP-55's checksum. */
export class InvalidAddress extends Error {
  override name = 'InvalidAddress';
  constructor() {
    super('an Ethereum address is 0x and 40 hex digits, in one case or with the checksum of EIP-55');
  }
}

/**
 * Reads an address as people write it.
 *
 * @throws {InvalidAddress} where it is none, or where mixed case is not its checksum: it was mistyped.
 */
export function parseAddress(written: string): Address {
  if (!/^0x[0-9a-fA-F]{40}$/.test(written)) throw new InvalidAddress();
  const digits = written.slice(2);
  const address: Address = `0x${digits.toLowerCase()}`;
  const mixed = digits !== digits.toLowerCase() && digits !== digits.toUpperCase();
  if (mixed && written !== checksum(address)) throw new InvalidAddress();
  return address;
}

/** The address with the checksum of EIP-55, for people. */
export function checksum(address: Address): Address {
  const digits = address.slice(2).toLowerCase();
  const hash = hex(keccak_256(utf8(digits)));
  const cased = [...digits].map((digit, at) => ((hash[at] ?? '0') >= '8' ? digit.toUpperCase() : digit));
  return `0x${cased.join('')}`;
}

export function addressBytes(address: Address): Uint8Array {
  return unhex(address.slice(2));
}

export function addressOf(bytes: Uint8Array): Address {
  return `0x${hex(bytes)}`;
}

/** Of a point in SEC 1's uncompressed form. */
export function addressOfPoint(point: Uint8Array): Address {
  return addressOf(keccak_256(point.subarray(1)).subarray(12));
}

/** What `personal_sign` signs of a message (EIP-191, version `E`). */
export function personalDigest(message: Uint8Array): Uint8Array {
  return keccak_256(join(utf8(`\x19Ethereum Signed Message:\n${message.length}`), message));
}
