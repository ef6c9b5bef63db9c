/** Reads vectors/. */

import { readFileSync } from 'node:fs';
import { unhex } from '../src/bytes.js';
import { PrivateKey } from '../src/identity.js';

// biome-ignore lint/suspicious/noExplicitAny: each file says in `about` what is in it
export type Case = any;

export function vectors(name: string): Case {
  return JSON.parse(readFileSync(new URL(`../../../vectors/${name}.json`, import.meta.url), 'utf8'));
}

export const key = (hex: string): PrivateKey => PrivateKey.read(unhex(hex));
