/** The same inputs for the same seed. */

export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = (seed * 0x9e3779b1) >>> 0;
  }

  /** mulberry32: spread well enough to choose by. */
  #next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let mixed = this.#state;
    mixed = Math.imul(mixed ^ (mixed >>> 15), mixed | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return (mixed ^ (mixed >>> 14)) >>> 0;
  }

  below(most: number): number {
    return this.#next() % most;
  }

  chance(): boolean {
    return this.below(2) === 0;
  }

  pick<T>(of: readonly T[]): T {
    return of[this.below(of.length)] as T;
  }

  bytes(length: number): Uint8Array {
    return Uint8Array.from({ length }, () => this.below(256));
  }

  /** As they are, or with one byte changed, left out, put in, or the end cut off. */
  bentBytes(bytes: Uint8Array): Uint8Array {
    if (bytes.length === 0 || this.chance()) return bytes;
    const at = this.below(bytes.length);
    const list = [...bytes];
    const bend = this.below(4);
    if (bend === 0) list[at] = (list[at] as number) ^ (1 << this.below(8));
    else if (bend === 1) list.splice(at, 1);
    else if (bend === 2) list.splice(at, 0, this.below(256));
    else list.length = at;
    return Uint8Array.from(list);
  }

  /** JSON with something in it that is like what was there, and is not it. */
  bent(text: string): string {
    if (this.chance()) return text;
    const at = this.below(text.length);
    const characters = '{}[]",:0123456789abcdefXx.-+eE\\u \n\té😀';
    const bend = this.below(4);
    if (bend === 0) return text.slice(0, at) + this.pick([...characters]) + text.slice(at + 1);
    if (bend === 1) return text.slice(0, at) + text.slice(at + 1);
    if (bend === 2) return text.slice(0, at) + this.pick([...characters]) + text.slice(at);
    const fields = [...text.matchAll(/"[a-zA-Z_]+":/g)];
    const field = fields.length > 0 ? this.pick(fields) : undefined;
    if (!field) return text;
    const value = this.pick([
      'null',
      '1',
      '1.0',
      '-0',
      '"x"',
      '[]',
      '{}',
      'true',
      '4294967296',
      '9007199254740992',
    ]);
    // A field that stands there already, with another value.
    return `${text.slice(0, field.index)}${field[0]}${value},${text.slice(field.index)}`;
  }
}
