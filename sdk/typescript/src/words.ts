/** Six words for comparing a node's address by voice. */

import { sha256 } from '@noble/hashes/sha2.js';
import { join, utf8 } from './bytes.js';
import { type Address, addressBytes } from './ethereum.js';

/**
 * The first 66 bits of a hash of the address, 11 a word. `list` is the English list of BIP-39, for instance
 * `@scure/bip39/wordlists/english.js`. They are no wallet's phrase, which has twelve words at least.
 */
export function safetyWords(node: Address, list: readonly string[]): string {
  if (list.length !== 2048) throw new RangeError('the list of BIP-39 has 2048 words');
  const hash = sha256(join(utf8('fabstir node words|'), addressBytes(node)));
  const bits = [...hash].map((byte) => byte.toString(2).padStart(8, '0')).join('');
  const words = [0, 1, 2, 3, 4, 5].map(
    (word) => list[Number.parseInt(bits.slice(11 * word, 11 * word + 11), 2)],
  );
  return words.join(' ');
}
