// What the client makes of the node's records: order (2.4.3), answers (2.5) and what came of them (2.6).

import {
  Refused, malformed, join, readJson, text, object, list, string, flag, integer, hexOf,
} from './bytes.mjs';

const U32 = integer(0xffffffff);
const WELCOME = object({
  node: string,
  shape: string,
  ticket: flag,
  limits: object({
    max_request_bytes: integer(), max_requests: integer(),
    grace_seconds: integer(), keep_seconds: integer(), ticket_seconds: integer(),
  }),
  models: list(object({ id: string, 'sha256?': hexOf(32), context_window: integer() })),
  'known?': list(U32),
});
const END = object({ finish_reason: string, usage: object({}), 'dropped_messages?': integer() });
const ERROR = object({ code: string, message: string, 'retry_after_ms?': integer() });
const GOODBYE = object({ 'reason?': string });

export const readWelcome = (bytes) => readJson(bytes, WELCOME);
export const readError = (source) => readJson(source, ERROR);

const outOfOrder = (detail) => new Refused('order', detail);

export class Answers {
  constructor() {
    this.open = new Map(); // request → { next, parts }
    this.ended = new Map(); // request → { last, newest }: came whole, but perhaps the node does not know
    this.newest = 0; // the highest request
    this.newHandshake();
  }

  newHandshake() {
    this.control = 0; // the next index under request 0
  }

  expect(request) {
    this.open.set(request, { next: 0, parts: [] });
    this.newest = Math.max(this.newest, request);
  }

  // [[request, last index], …] of the answers that some of came (2.6.3). One that came whole is among them,
  // for its ack may be lost: else the node would send it again.
  received() {
    const some = [...this.open].filter(([, { next }]) => next > 0).map(([request, { next }]) => [request, next - 1]);
    return [...[...this.ended].map(([request, { last }]) => [request, last]), ...some];
  }

  // A request that was sent after an ack is answered: the ack came.
  forget(request) {
    for (const [old, { newest }] of this.ended) if (request > newest) this.ended.delete(old);
  }

  // One opened record; gives what it says: { type, request, …}.
  take({ type, last, more, request, index, body }) {
    if (request === 0) return this.takeControl(type, last, index, body);
    const answer = this.open.get(request);
    if (!answer) throw outOfOrder(`nothing was asked under ${request}, or it was answered`);
    if (index !== answer.next) throw outOfOrder(`index ${index} of ${request}`);
    if (answer.parts.length && type !== 'event') throw outOfOrder('inside of an event');
    answer.next++;
    this.forget(request);

    const said = { type, request, index };
    if (type === 'text') said.text = text(body);
    if (type === 'error') said.error = readError(body);
    if (type === 'event') {
      answer.parts.push(body);
      if (more) return { ...said, type: 'part' };
      said.value = readJson(join(...answer.parts), last ? END : undefined);
      answer.parts = [];
    }
    if (last) {
      said.end = true;
      this.open.delete(request);
      this.ended.set(request, { last: index, newest: this.newest });
    }
    return said;
  }

  takeControl(type, last, index, body) {
    if (index !== this.control) throw outOfOrder(`index ${index} of request 0`);
    this.control++;
    if (type === 'welcome') {
      if (index !== 0) throw outOfOrder('a welcome that is not first');
      return { type, request: 0, welcome: readWelcome(body) };
    }
    if (type === 'error') return { type, request: 0, error: readError(body), end: last };
    if (type === 'goodbye') return { type, request: 0, ...readJson(body, GOODBYE), end: true };
    throw malformed(type);
  }
}
