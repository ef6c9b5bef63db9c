// Bytes and JSON as part 2 of protocol.md wants them.

import { concatBytes, bytesToHex, hexToBytes, randomBytes } from '@noble/hashes/utils.js';

export { bytesToHex as hex, hexToBytes as unhex, randomBytes };

// A refusal by one of the protocol's rules; `reason` is one word.
export class Refused extends Error {
  constructor(reason, detail) {
    super(detail ? `${reason}: ${detail}` : reason);
    this.reason = reason;
  }
}

export const malformed = (detail) => new Refused('malformed', detail);

export const join = (...parts) => concatBytes(...parts.map((part) => Uint8Array.from(part)));

export const utf8 = (text) => new TextEncoder().encode(text);

export function text(bytes) {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw malformed('not UTF-8');
  }
}

export function same(a, b) {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}

// Numbers: `size` bytes, the highest first.
export function number(value, size) {
  const out = new Uint8Array(size);
  for (let i = size - 1, rest = BigInt(value); i >= 0; i--, rest >>= 8n) out[i] = Number(rest & 255n);
  return out;
}

export const u16 = (value) => number(value, 2);
export const u32 = (value) => number(value, 4);
export const u64 = (value) => number(value, 8);

export const toBigInt = (bytes) => BigInt('0x' + (bytesToHex(bytes) || '0'));
export const toNumber = (bytes) => Number(toBigInt(bytes));

// --- JSON (the paragraph before 2.1). A form is a function that throws when a value is not of it. ---
// JSON.parse does not tell 7.0 from 7; where that matters, a parser of one's own is needed.

const need = (ok, at, what) => {
  if (!ok) throw malformed(`${at.path.join('.') || 'it'} is not ${what}`);
};

export const string = (value, at) => need(typeof value === 'string', at, 'text');
export const flag = (value, at) => need(typeof value === 'boolean', at, 'true or false');
export const integer = (max = Number.MAX_SAFE_INTEGER) => (value, at) =>
  need(Number.isSafeInteger(value) && value >= 0 && value <= max, at, `an integer up to ${max}`);
export const hexOf = (size) => (value, at) =>
  need(typeof value === 'string' && value.length === 2 * size && /^[0-9a-f]*$/.test(value), at, `${size} bytes in hex`);
export const address = (value, at) =>
  need(typeof value === 'string' && /^0x[0-9a-f]{40}$/.test(value), at, 'an address');
export const constant = (wanted) => (value, at) => need(value === wanted, at, JSON.stringify(wanted));

export const list = (form, max = Infinity) => (value, at) => {
  need(Array.isArray(value) && value.length <= max, at, 'a list');
  value.forEach((entry, i) => form(entry, { ...at, path: [...at.path, i] }));
};

export const pair = (first, second) => (value, at) => {
  need(Array.isArray(value) && value.length === 2, at, 'a pair');
  first(value[0], at);
  second(value[1], at);
};

// Names that end in "?" may be missing or null. Unknown ones are ignored, but where `exact` is set.
export const object = (forms, { exact = false } = {}) => (value, at) => {
  need(value !== null && typeof value === 'object' && !Array.isArray(value), at, 'an object');
  const names = new Set();
  for (const [name, form] of Object.entries(forms)) {
    const key = name.replace('?', '');
    const inner = { ...at, path: [...at.path, key] };
    names.add(key);
    need(!at.twice.has(JSON.stringify(inner.path)), inner, 'there once');
    const missing = !Object.hasOwn(value, key) || (key !== name && value[key] === null);
    if (missing && key !== name) continue;
    need(!missing, inner, 'there');
    form(value[key], inner);
  }
  if (exact) need(Object.keys(value).every((key) => names.has(key)), at, 'without other fields');
};

// JSON.parse keeps the last of two equal keys and says nothing, so the text is looked at too.
function keysThatStandTwice(source) {
  const once = new Set();
  const twice = new Set();
  const stack = [];
  const tokens = source.match(/"(?:[^"\\]|\\.)*"|[{}[\],:]/g) ?? [];
  tokens.forEach((token, i) => {
    const top = stack.at(-1);
    if (token === '{' || token === '[') stack.push({ list: token === '[', key: 0 });
    else if (token === '}' || token === ']') stack.pop();
    else if (token === ',' && top.list) top.key++;
    else if (tokens[i + 1] === ':') {
      top.key = JSON.parse(token);
      const path = JSON.stringify(stack.map((level) => level.key));
      (once.has(path) ? twice : once).add(path);
    }
  });
  return twice;
}

export function readJson(source, form) {
  const written = typeof source === 'string' ? source : text(source);
  let value;
  try {
    value = JSON.parse(written);
  } catch {
    throw malformed('not JSON');
  }
  form?.(value, { path: [], twice: keysThatStandTwice(written) });
  return value;
}
