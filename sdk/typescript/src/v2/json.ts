/**
 * JSON as part 2 of docs/protocol.md wants it. A {@link Form} reads a value, and throws where it is not of that form.
 *
 * `JSON.parse` takes `7.0` for `7` and the last of two equal keys; the text is looked at as well, because what one
 * implementation reads and another refuses is a gap to slip something through.
 */

import { text, unhex } from '../bytes.js';
import type { Address } from '../ethereum.js';

/** Not JSON, or not of the form that was expected. */
export class MalformedError extends Error {
  override name = 'MalformedError';
  constructor(what: string) {
    super(what);
  }
}

/** Where a value stands, and what the text of its container says that the value does not. */
interface At {
  path: string;
  key: Key;
  text: Container | undefined;
}

type Key = string | number;

export type Form<T> = (value: unknown, at: At) => T;
type Forms = Record<string, Form<unknown>>;
type Optional<T> = { optional: Form<T> };
type Read<F> = F extends Form<infer T> ? T : never;

const MOST_NESTED = 128;
/** The place of the value itself. */
const ROOT = 0;

function fail(at: At, what: string): never {
  throw new MalformedError(`${at.path || 'it'} is not ${what}`);
}

const below = (at: At, key: Key): At => ({
  path: `${at.path}/${key}`,
  key,
  text: at.text?.inner.get(at.key),
});

export const string: Form<string> = (value, at) =>
  typeof value === 'string' && value.isWellFormed() ? value : fail(at, 'text');

export const flag: Form<boolean> = (value, at) =>
  typeof value === 'boolean' ? value : fail(at, 'true or false');

/** Written in digits alone, at most 2^53 - 1. */
export function integer(most = Number.MAX_SAFE_INTEGER): Form<number> {
  return (value, at) =>
    typeof value === 'number' &&
    Number.isInteger(value) &&
    value <= most &&
    (at.text?.digits.has(at.key) ?? false)
      ? value
      : fail(at, `an integer up to ${most}`);
}

export const u32: Form<number> = integer(0xffff_ffff);

export function hexOf(size: number): Form<Uint8Array> {
  const pattern = new RegExp(`^[0-9a-f]{${2 * size}}$`);
  return (value, at) =>
    typeof value === 'string' && pattern.test(value) ? unhex(value) : fail(at, `${size} bytes in hex`);
}

export const address: Form<Address> = (value, at) =>
  typeof value === 'string' && /^0x[0-9a-f]{40}$/.test(value) ? (value as Address) : fail(at, 'an address');

export function list<T>(form: Form<T>): Form<T[]> {
  return (value, at) =>
    Array.isArray(value) ? value.map((one, i) => form(one, below(at, i))) : fail(at, 'a list');
}

export function pair<A, B>(first: Form<A>, second: Form<B>): Form<[A, B]> {
  return (value, at) =>
    Array.isArray(value) && value.length === 2
      ? [first(value[0], below(at, 0)), second(value[1], below(at, 1))]
      : fail(at, 'a pair');
}

/** A further condition on what was read. */
export function where<T, U>(form: Form<T>, read: (value: T) => U | undefined, what: string): Form<U> {
  return (value, at) => read(form(value, at)) ?? fail(at, what);
}

/** A field that may be missing or null. */
export function optional<T>(form: Form<T>): Optional<T> {
  return { optional: form };
}

/** As {@link optional}, with what stands for a missing one. */
export function otherwise<T>(form: Form<T>, fallback: T): Form<T> & { fallback: T } {
  return Object.assign(((value, at) => form(value, at)) as Form<T>, { fallback });
}

export function object<R extends Forms, O extends Record<string, Optional<unknown>> = Record<never, never>>(
  required: R,
  optionals?: O,
  { exact = false } = {},
): Form<{ [K in keyof R]: Read<R[K]> } & { [K in keyof O]?: O[K] extends Optional<infer T> ? T : never }> {
  return (value, at) => {
    if (value === null || typeof value !== 'object' || Array.isArray(value)) fail(at, 'an object');
    const given = value as Record<string, unknown>;
    const keys = Object.keys(given);
    if (!keys.every((key) => key.isWellFormed())) fail(at, 'text in its keys');
    const out: Record<string, unknown> = {};
    const once = (key: string) => {
      const inner = below(at, key);
      if (inner.text?.twice.has(key)) fail(inner, 'there once');
      return inner;
    };
    for (const [key, form] of Object.entries(required)) {
      const inner = once(key);
      if ('fallback' in form && (given[key] === undefined || given[key] === null)) out[key] = form.fallback;
      else if (Object.hasOwn(given, key)) out[key] = form(given[key], inner);
      else fail(inner, 'there');
    }
    for (const [key, { optional: form }] of Object.entries(optionals ?? {})) {
      const inner = once(key);
      if (given[key] !== undefined && given[key] !== null) out[key] = form(given[key], inner);
    }
    const known = (key: string) => Object.hasOwn(required, key) || Object.hasOwn(optionals ?? {}, key);
    if (exact && !keys.every(known)) fail(at, 'without other fields');
    return out as never;
  };
}

/** What the text of an object or a list says that its value does not. */
interface Container {
  /** Keys that stand there more than once. */
  twice: Set<Key>;
  /** Of numbers that are written in digits alone. */
  digits: Set<Key>;
  inner: Map<Key, Container>;
}

const container = (): Container => ({ twice: new Set(), digits: new Set(), inner: new Map() });

const TOKEN = /"(?:[^"\\]|\\.)*"|[{}[\],:]|-?\d[\d.eE+-]*/g;

/**
 * Walks the tokens of a text that is known to be JSON. The work grows with the text and no faster: a peer that has proved
 * nothing yet may send it.
 */
function inspect(json: string): Container {
  const outside = container();
  const open: { here: Container; seen: Set<Key>; list: boolean; key: Key }[] = [
    { here: outside, seen: new Set(), list: true, key: ROOT },
  ];
  const tokens = json.match(TOKEN) ?? [];
  for (const [i, token] of tokens.entries()) {
    const top = open.at(-1);
    if (!top) break;
    if (token === '{' || token === '[') {
      const here = container();
      top.here.inner.set(top.key, here);
      open.push({ here, seen: new Set(), list: token === '[', key: token === '[' ? 0 : '' });
      if (open.length - 1 > MOST_NESTED) throw new MalformedError('it is nested too deeply');
    } else if (token === '}' || token === ']') open.pop();
    else if (token === ',') {
      if (top.list) top.key = Number(top.key) + 1;
    } else if (token.startsWith('"')) {
      if (top.list || tokens[i + 1] !== ':') continue;
      const key: string = JSON.parse(token);
      top.key = key;
      if (top.seen.has(key)) top.here.twice.add(key);
      top.seen.add(key);
    } else if (/^\d+$/.test(token)) top.here.digits.add(top.key);
  }
  return outside;
}

/** @throws {MalformedError} where the text is not JSON of that form. */
export function decode<T>(json: Uint8Array | string, form: Form<T>): T {
  const written = typeof json === 'string' ? json : readText(json);
  const value = parse(written);
  return form(value, { path: '', key: ROOT, text: inspect(written) });
}

/** Any JSON value. */
export function parse(written: string): unknown {
  try {
    return JSON.parse(written);
  } catch {
    throw new MalformedError('it is not JSON');
  }
}

export function readText(bytes: Uint8Array): string {
  try {
    return text(bytes);
  } catch {
    throw new MalformedError('it is not UTF-8');
  }
}
