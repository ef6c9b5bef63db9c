/** What the node's records say, in their order (docs/protocol.md, 2.4.3, 2.5, 2.6.3). */

import { join } from '../bytes.js';
import * as body from './body.js';
import { decode, parse, readText } from './json.js';
import { OpenError, type SessionRecord } from './record.js';

const ACK_EVERY = 64;
const LATELY = 64;
/** Longest event that is put together. */
const MOST_EVENT = 16 * 2 ** 20;
const LAST_INDEX = 0xffff_ffff;

/** A step of what the node says. */
export type FromNode =
  | { type: 'welcome'; welcome: body.Welcome }
  | { type: 'text'; request: number; text: string }
  | { type: 'event'; request: number; value: unknown }
  | { type: 'end'; request: number; end: body.End }
  | { type: 'failed'; request: number; fault: body.Fault }
  | { type: 'fault'; fault: body.Fault; last: boolean }
  | { type: 'goodbye'; reason: string }
  | { type: 'nothing' };

interface Progress {
  next: number;
  parts: Uint8Array[];
  bytes: number;
}

export class Answers {
  readonly #open = new Map<number, Progress>();
  /** Of answers that came whole, perhaps without the node's knowing. */
  #lately: body.Received[] = [];
  #control = 0;
  #welcomed = false;
  #unsaid = 0;
  #ended = false;

  /** A request was made. */
  expect(request: number): void {
    if (!this.#open.has(request)) this.#open.set(request, { next: 0, parts: [], bytes: 0 });
  }

  /** [[request, last index], …] of the answers that some of came, the oldest first. */
  received(): body.Received[] {
    const begun = [...this.#open].filter(([, { next }]) => next > 0);
    return [...this.#lately, ...begun.map(([request, { next }]): body.Received => [request, next - 1])];
  }

  /** There is another connection. */
  reconnect(): void {
    this.#control = 0;
    this.#welcomed = false;
  }

  /** The welcome came inside of a resumption's second message. */
  setWelcomed(): void {
    this.#welcomed = true;
  }

  /** For a new session on the connection that has been welcomed. */
  anew(): void {
    this.#open.clear();
    this.#lately = [];
    this.#unsaid = 0;
    this.#ended = false;
  }

  /** The requests of which nothing came, and that the node does not have: they are sent again. */
  unknownTo(known: readonly number[]): number[] {
    return [...this.#open].filter(([id, { next }]) => next === 0 && !known.includes(id)).map(([id]) => id);
  }

  /** The requests of which something came, and that the node does not have: they are cut off, and forgotten here. */
  lostTo(known: readonly number[]): number[] {
    const lost = [...this.#open]
      .filter(([id, { next }]) => next > 0 && !known.includes(id))
      .map(([id]) => id);
    for (const request of lost) this.#open.delete(request);
    return lost;
  }

  /** What to tell the node now, so that it need not keep it. */
  dueAck(): body.Received[] | undefined {
    if (!this.#ended && this.#unsaid < ACK_EVERY) return undefined;
    this.#ended = false;
    this.#unsaid = 0;
    return this.received();
  }

  /** @throws {OpenError} for what is not due, or not of its form. */
  take(record: SessionRecord): FromNode {
    try {
      return record.request === 0 ? this.#takeControl(record) : this.#takeAnswer(record);
    } catch {
      throw new OpenError();
    }
  }

  #takeAnswer({ type, last, more, request, index, body: bytes }: SessionRecord): FromNode {
    const progress = this.#open.get(request);
    if (!this.#welcomed || !progress || index !== progress.next || index === LAST_INDEX)
      throw new OpenError();
    progress.next++;
    this.#unsaid++;
    if (progress.parts.length > 0 && type === 'text') throw new OpenError();
    const said = this.#read(progress, type, last, more, request, bytes);
    if (last) this.#close(request, index);
    else if (type === 'error') throw new OpenError();
    return said;
  }

  #read(
    progress: Progress,
    type: string,
    last: boolean,
    more: boolean,
    request: number,
    bytes: Uint8Array,
  ): FromNode {
    if (type === 'text') return { type, request, text: readText(bytes) };
    if (type === 'error') return { type: 'failed', request, fault: decode(bytes, body.fault) };
    if (type !== 'event') throw new OpenError();
    progress.bytes += bytes.length;
    if (progress.bytes > MOST_EVENT) throw new OpenError();
    progress.parts.push(bytes);
    if (more) return { type: 'nothing' };
    const whole = join(...progress.parts);
    progress.parts = [];
    progress.bytes = 0;
    if (last) return { type: 'end', request, end: decode(whole, body.end) };
    return { type, request, value: parse(readText(whole)) };
  }

  #close(request: number, index: number): void {
    this.#open.delete(request);
    this.#ended = true;
    this.#lately.push([request, index]);
    if (this.#lately.length > LATELY) this.#lately.shift();
  }

  #takeControl({ type, last, index, body: bytes }: SessionRecord): FromNode {
    if (index !== this.#control || index === LAST_INDEX) throw new OpenError();
    this.#control++;
    const due = !this.#welcomed;
    this.#welcomed = true;
    if (type === 'welcome' && due) return { type, welcome: decode(bytes, body.welcome) };
    if (type === 'goodbye' && !due) return { type, reason: decode(bytes, body.goodbye).reason };
    if (type === 'error') return { type: 'fault', fault: decode(bytes, body.fault), last };
    throw new OpenError();
  }
}
