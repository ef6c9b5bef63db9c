/** What is behind a session: it owns the channel, and gets it another connection when the one that it has is lost. */

import { type Asked, again, isPassing, nothingOf, type Sink, type Waiting } from './asked.js';
import { hex } from './bytes.js';
import {
  attempt,
  type Config,
  fitting,
  handshake,
  type Opened,
  pinned,
  reach,
  refusal,
  resumption,
} from './dial.js';
import { Closed, DidNotOpen, FabstirError, ProtocolError, SessionLost, Silent, Truncated } from './error.js';
import type { Line } from './socket.js';
import type { VerifiedNode } from './v2/advertisement.js';
import { Answers } from './v2/answers.js';
import { type End, encode, type Hello, type Welcome } from './v2/body.js';
import type { Channel, Ticket } from './v2/handshake.js';
import { MAX_BODY, type RecordType } from './v2/record.js';

const NAME = 'fabstir-sdk/0.1.0';
const FIRST_PAUSE = 100;
const LONGEST_PAUSE = 5000;

interface Live {
  line: Line;
  channel: Channel;
  nextControl: number;
  opened: number;
  /** Whether something of the session's came by it. */
  heard: boolean;
}

export class Driver {
  readonly #config: Config;
  welcome: Welcome;
  readonly node: VerifiedNode;
  #live: Live | undefined;
  #session: Uint8Array;
  #ticket: Ticket | undefined;
  #answers = new Answers();
  readonly #asked = new Map<number, Asked>();
  #waiting: Waiting[] = [];
  #lastNumber = 0;
  #keeps = false;
  #keyed = Date.now();
  #trying = { since: Date.now(), pause: 0 };
  #ended: FabstirError | undefined;
  #silence: ReturnType<typeof setTimeout> | undefined;
  #renewal: ReturnType<typeof setTimeout> | undefined;
  #awake: () => void = () => {};
  readonly #online = () => this.#lose();

  private constructor(config: Config, node: VerifiedNode, answers: Answers, opened: Opened) {
    this.#config = config;
    this.node = node;
    this.#answers = answers;
    this.#session = opened.channel.sid;
    this.welcome = opened.welcome;
    this.#begin(opened);
    globalThis.addEventListener?.('online', this.#online);
  }

  static async open(config: Config): Promise<Driver> {
    const { line, shown } = await reach(config);
    const node = pinned(line, shown);
    const answers = new Answers();
    const hello: Hello = { client: NAME, shape: config.shape, ticket: true };
    const opened = await attempt(line, config, handshake(line, config, node, hello, answers));
    return new Driver(config, node, answers, opened);
  }

  /** Why nothing can be asked any more. */
  get ended(): FabstirError | undefined {
    return this.#ended;
  }

  get connected(): boolean {
    return this.#live !== undefined;
  }

  /** Asks; the way to cancel it is returned. `keeps`: a turn of a conversation that the node keeps. */
  ask(body: Uint8Array, keeps: boolean, sink: Sink): () => void {
    if (this.#ended) {
      const ended = this.#ended;
      queueMicrotask(() => sink.fail(ended));
      return () => {};
    }
    let number: number | undefined;
    const waiting: Waiting = { body, sink, keeps, cancelled: false, sent: (request) => (number = request) };
    this.#waiting.push(waiting);
    this.#flush();
    return () => {
      if (number !== undefined) {
        this.#cancel(number);
        return;
      }
      // It was never sent: there is nothing to stop but this.
      this.#waiting = this.#waiting.filter((one) => one !== waiting);
      waiting.sink.end(nothingOf());
    };
  }

  /** Says goodbye. The node ends what it was answering and forgets the session. */
  close(): void {
    if (this.#ended) return;
    try {
      if (this.#live) this.#control('goodbye', {}, true);
    } catch {
      // Nothing depends on its being heard.
    }
    this.#end(new Closed());
  }

  /** Loses the connection, as a network would. For tests. @internal */
  loseConnection(): void {
    this.#lose();
  }

  #begin({ line, channel, welcome }: Opened): void {
    channel.sealer.shape = welcome.shape;
    this.welcome = welcome;
    this.#ticket = welcome.ticket ? channel.ticket : undefined;
    const live: Live = { line, channel, nextControl: 0, opened: Date.now(), heard: false };
    this.#live = live;
    clearTimeout(this.#renewal);
    this.#renewal = unref(
      setTimeout(
        () => {
          // New keys by a new handshake: the claim takes the answers along.
          this.#ticket = undefined;
          this.#lose();
        },
        Math.max(0, this.#keyed + this.#config.renewAfter - Date.now()),
      ),
    );
    this.#config.onConnection?.('open');
    const mine = () => this.#live === live;
    line.listen(
      (heard) => {
        if (!mine()) return;
        if (heard.type === 'closed') this.#lose();
        // What is not sealed means nothing once the session is open.
        else if (heard.type === 'binary') this.#heard(live, heard.bytes);
      },
      () => mine() && this.#sign(live),
    );
    if (mine()) this.#sign(live);
  }

  /** A sign of life: silence is counted anew. Where pings are not seen, only while something is due. */
  #sign(live: Live): void {
    clearTimeout(this.#silence);
    const silent = () => (live.line.seesPings || this.#asked.size > 0) && this.#lose();
    this.#silence = unref(setTimeout(silent, this.#config.silenceTimeout));
  }

  #heard(live: Live, frame: Uint8Array): void {
    let said: ReturnType<Answers['take']>;
    try {
      said = this.#answers.take(live.channel.opener.open(frame));
    } catch {
      this.#end(new DidNotOpen());
      return;
    }
    live.heard = true;
    switch (said.type) {
      case 'text':
        this.#asked.get(said.request)?.sink.text(said.text);
        break;
      case 'event':
        this.#asked.get(said.request)?.sink.event(said.value);
        break;
      case 'end':
        this.#finish(said.request, said.end);
        break;
      case 'failed':
        this.#take(said.request)?.sink.fail(refusal(said.fault));
        break;
      case 'fault':
        if (said.last) {
          this.#end(refusal(said.fault));
          return;
        }
        break;
      case 'goodbye': {
        this.#end(new Closed());
        return;
      }
      case 'welcome': {
        this.#end(new ProtocolError());
        return;
      }
      case 'nothing':
        break;
    }
    if (!this.#live) return;
    const received = this.#answers.dueAck();
    if (received) this.#control('ack', { received });
  }

  #finish(request: number, end: End): void {
    const asked = this.#take(request);
    // Nobody here cancelled it: the connection was gone for longer than the node goes on alone.
    if (end.finish_reason === 'cancelled' && asked && !asked.cancelled) asked.sink.fail(new Truncated());
    else asked?.sink.end(end);
  }

  #take(request: number): Asked | undefined {
    const asked = this.#asked.get(request);
    this.#asked.delete(request);
    return asked;
  }

  #flush(): void {
    while (this.#live) {
      const waiting = this.#waiting.shift();
      if (!waiting) return;
      this.#keeps ||= waiting.keeps;
      const number = ++this.#lastNumber;
      this.#answers.expect(number);
      this.#asked.set(number, waiting);
      waiting.sent(number);
      this.#request(number, waiting.body);
      if (this.#live) this.#sign(this.#live);
    }
  }

  #cancel(request: number): void {
    const asked = this.#asked.get(request);
    if (!asked || asked.cancelled) return;
    asked.cancelled = true;
    if (this.#live) this.#control('cancel', { request });
  }

  #request(request: number, body: Uint8Array): void {
    for (let at = 0, index = 0; at < body.length; at += MAX_BODY, index++) {
      const last = at + MAX_BODY >= body.length;
      this.#say({ type: 'request', request, index, last, body: body.subarray(at, at + MAX_BODY) });
    }
  }

  #control(type: RecordType, value: unknown, last = false): void {
    const live = this.#live;
    if (live) this.#say({ type, request: 0, index: live.nextControl++, last, body: encode(value) });
  }

  #say(record: Parameters<Channel['sealer']['seal']>[0]): void {
    const live = this.#live;
    try {
      live?.line.send(live.channel.sealer.seal(record));
    } catch {
      this.#lose();
    }
  }

  #hangUp(): void {
    clearTimeout(this.#silence);
    clearTimeout(this.#renewal);
    this.#live?.line.close();
    this.#live?.channel.sealer.wipe();
    this.#live?.channel.opener.wipe();
    this.#live = undefined;
  }

  /** Ends the session: keys are overwritten, and everybody who waits is told. */
  #end(error: FabstirError): void {
    if (this.#ended) return;
    this.#ended = error;
    this.#awake();
    this.#config.stop.abort();
    this.#hangUp();
    this.#ticket?.secret.fill(0);
    if (this.#config.isAnonymous) this.#config.identity.key.wipe();
    this.#ticket = undefined;
    globalThis.removeEventListener?.('online', this.#online);
    this.#config.onConnection?.('closed', error);
    // What was on its way is cut off; what was never sent hears why.
    const cause = again(error);
    this.#tellAll(cause);
    for (const { sink } of this.#waiting.splice(0)) sink.fail(error);
  }

  #tellAll(error: FabstirError): void {
    const asked = [...this.#asked.values()];
    this.#asked.clear();
    for (const { sink } of asked) sink.fail(error);
  }

  #lose(): void {
    const live = this.#live;
    if (!live) return;
    if (live.heard || Date.now() - live.opened >= LONGEST_PAUSE)
      this.#trying = { since: Date.now(), pause: 0 };
    this.#hangUp();
    this.#config.onConnection?.('lost');
    void this.#recover();
  }

  /** Gets the session another connection. */
  async #recover(): Promise<void> {
    const until = this.#trying.since + this.#config.resumeFor;
    let last: FabstirError = new Silent(this.#config.resumeFor);
    while (!this.#ended) {
      await this.#sleep(this.#trying.pause);
      this.#trying.pause = Math.min(Math.max(this.#trying.pause * 2, FIRST_PAUSE), LONGEST_PAUSE);
      if (this.#ended) return;
      if (Date.now() >= until) {
        this.#giveUp(last);
        return;
      }
      try {
        const opened = await this.#reconnect();
        if (this.#ended) {
          opened.line.close();
          return;
        }
        this.#goOn(opened);
        return;
      } catch (error) {
        last = error instanceof FabstirError ? error : new ProtocolError();
        if (!isPassing(last)) {
          this.#giveUp(last);
          return;
        }
      }
    }
  }

  #giveUp(error: FabstirError): void {
    this.#tellAll(new Truncated());
    this.#end(error);
  }

  #sleep(milliseconds: number): Promise<void> {
    if (milliseconds === 0) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, milliseconds);
      this.#awake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  async #reconnect(): Promise<Opened> {
    const config = this.#config;
    const { line, shown } = await reach(config);
    const received = this.#answers.received();
    this.#answers.reconnect();
    const ticket = this.#ticket;
    this.#ticket = undefined;
    if (ticket) {
      this.#answers.setWelcomed();
      return attempt(line, config, resumption(line, ticket, { received, shape: config.shape }));
    }
    // The ticket is spent, and what it was spent for did not come: only the key can speak for the session.
    const node = pinned(line, shown);
    const claim = { session: hex(this.#session), received: fitting(received) };
    const hello: Hello = { client: NAME, shape: config.shape, ticket: true, claim };
    this.#keyed = Date.now();
    return attempt(line, config, handshake(line, config, node, hello, this.#answers));
  }

  /** Goes on with what the node knows, and sends again what it does not. */
  #goOn(opened: Opened): void {
    const { known } = opened.welcome;
    if (!known && this.#keeps) {
      // What was said is gone: to go on as if it were not would answer another question.
      opened.line.close();
      this.#end(new SessionLost());
      return;
    }
    let unknown: number[] = [];
    if (known) {
      unknown = this.#answers.unknownTo(known);
      for (const request of this.#answers.lostTo(known)) this.#take(request)?.sink.fail(new Truncated());
    } else {
      // Another session: numbers go on, so that no old answer is taken for a new one's.
      this.#session = opened.channel.sid;
      this.#answers.anew();
      this.#tellAll(new Truncated());
    }
    this.#begin(opened);
    for (const request of unknown) {
      const asked = this.#asked.get(request);
      if (asked) this.#request(request, asked.body);
    }
    // A cancel may have been said while nobody heard, or have been lost with the connection.
    for (const [request, { cancelled }] of this.#asked) if (cancelled) this.#control('cancel', { request });
    this.#flush();
  }
}

/** A timer that does not keep Node.js from ending. */
function unref(timer: ReturnType<typeof setTimeout>): ReturnType<typeof setTimeout> {
  (timer as { unref?: () => void }).unref?.();
  return timer;
}
