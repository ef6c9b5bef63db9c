/** Keys, addresses and the words of a node. */

import { wordlist } from '@scure/bip39/wordlists/english.js';
import { expect, test } from 'vitest';
import { bigEndian, join, toBigInt, unhex } from '../src/bytes.js';
import { canonical, isSignature, recover } from '../src/identity.js';
import { InvalidAddress, PrivateKey, PublicKey, parseAddress, safetyWords } from '../src/index.js';

const one = PrivateKey.read(unhex(`${'00'.repeat(31)}01`));

test('an address in mixed case must have its checksum', () => {
  const right = '0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf';
  expect(parseAddress(right)).toBe(one.address());
  expect(parseAddress(right.toLowerCase())).toBe(one.address());
  for (const wrong of [right.replace('E', 'e'), right.slice(2), `${right}0`, '']) {
    expect(() => parseAddress(wrong)).toThrow(InvalidAddress);
  }
});

test('the words of a node are those that the command line shows', () => {
  // Of the key 1; crates/cli/src/identity.rs has the same.
  expect(safetyWords(one.address(), wordlist)).toBe('tourist chat hover street trap fork');
  expect(() => safetyWords(one.address(), wordlist.slice(1))).toThrow(RangeError);
});

test('a point that is none is no key', () => {
  for (const bytes of ['', '05'.repeat(33), `02${'ff'.repeat(32)}`, '02'.repeat(32)]) {
    expect(() => PublicKey.read(unhex(bytes))).toThrow('no key');
  }
  expect(() => PrivateKey.read(new Uint8Array(32))).toThrow('no key');
});

test('a signature has one form: s is low, v is 27 or 28', () => {
  const digest = new Uint8Array(32).fill(7);
  const signature = one.sign(digest);
  expect(recover(digest, signature)).toBe(one.address());
  const order = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141n;
  const high = bigEndian(order - toBigInt(signature.subarray(32, 64)), 32);
  const other = join(
    signature.subarray(0, 32),
    high,
    Uint8Array.of((signature[64] as number) === 27 ? 28 : 27),
  );
  expect(isSignature(other)).toBe(false);
  expect(canonical(other)).toEqual(signature);
  const raw = signature.slice();
  raw[64] = (raw[64] as number) - 27;
  expect([isSignature(raw), canonical(raw)]).toEqual([false, signature]);
});

test('a key that was wiped signs nothing', () => {
  const key = PrivateKey.random();
  key.wipe();
  expect(() => key.sign(new Uint8Array(32))).toThrow();
});
