/** A session of version 1: one answer after the other, over one connection. */

import { Answer } from '../answer.js';
import type { Sink } from '../asked.js';
import { text, unhex } from '../bytes.js';
import {
  Closed,
  ConnectError,
  DidNotOpen,
  type FabstirError,
  ProtocolError,
  Refused,
  Silent,
  Truncated,
  UsageError,
} from '../error.js';
import type { Address } from '../ethereum.js';
import { PrivateKey, PublicKey } from '../identity.js';
import type { AskOptions, ChatRequest } from '../session.js';
import { type Capture, type Heard, Line, type WebSocketClass } from '../socket.js';
import { verifyAdvertisement } from '../v2/advertisement.js';
import { type Usage, usage } from '../v2/body.js';
import { decode } from '../v2/json.js';
import { decodeReply, encodeCancel, type Reply } from './frame.js';
import { type Dialect, startSession } from './handshake.js';
import type { AnswerOpener, ClientSession } from './session.js';

/** Which node, and who asks. */
export interface ConnectOptions {
  /** `ws://host:port/v1/ws` or `wss://…`. */
  url: string;
  /** The node's public key: 66 digits. An address does not suffice in version 1. */
  nodeKey: string;
  /** Who signs the session. A fresh key unless one is given: then you are somebody new each time. */
  clientKey?: PrivateKey;
  dialect?: Dialect;
  webSocket?: WebSocketClass;
  connectTimeout?: number;
  silenceTimeout?: number;
  onFrame?: Capture;
}

/** The node certifies that it speaks nothing as old as version 1: somebody offers it in its name. */
export class TooOld extends UsageError {
  override name = 'TooOld';
}

/** Connects and opens a session. The node's key is static: who ever gets it opens what was recorded. */
export async function connect(options: ConnectOptions): Promise<Session> {
  let nodeKey: PublicKey;
  try {
    nodeKey = PublicKey.read(unhex(options.nodeKey.replace(/^0x/, '')));
  } catch {
    throw new UsageError('version 1 needs the node’s public key, 33 bytes in hex, as nodeKey');
  }
  const limit = options.connectTimeout ?? 10_000;
  const line = await Line.open(options.url, options.webSocket, limit, undefined, options.onFrame);
  const { frame, session } = startSession({
    nodeKey,
    clientKey: options.clientKey ?? PrivateKey.random(),
    sessionId: crypto.getRandomValues(new BigUint64Array(1)).join(''),
    dialect: options.dialect ?? 'deployed',
    timestamp: Math.floor(Date.now() / 1000),
    claim: true,
  });
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Silent(limit)), limit);
  });
  try {
    line.send(frame);
    await Promise.race([acknowledged(line, session, nodeKey.address()), late]);
  } catch (error) {
    line.close();
    session.wipe();
    throw error;
  } finally {
    clearTimeout(timer);
  }
  return new Session(line, session, nodeKey.address(), options.silenceTimeout ?? 60_000);
}

async function acknowledged(line: Line, session: ClientSession, pinned: Address): Promise<void> {
  for (;;) {
    const heard = await line.next();
    if (heard.type === 'closed') throw new ConnectError('it closed the connection');
    const reply = read(heard);
    if (reply.type === 'connected' && heard.type === 'text') refuseIfTooOld(heard.text, pinned);
    else if (reply.type === 'ack' && reply.sessionId === session.id) return;
    else if (reply.type === 'error') throw new Refused(reply.code, reply.message, reply.retryAfterMs);
    else if (reply.type !== 'other') throw new ProtocolError();
  }
}

/** A node's first frame may certify that it no longer speaks this version. Nodes of before version 2 say nothing of it. */
function refuseIfTooOld(frame: string, pinned: Address): void {
  let least: number;
  try {
    least = verifyAdvertisement(frame, pinned, Math.floor(Date.now() / 1000)).minVersion;
  } catch {
    return;
  }
  if (least > 1)
    throw new TooOld(`the node speaks version ${least} of the protocol or newer, by its own certificate`);
}

function read(heard: Exclude<Heard, { type: 'closed' }>): Reply {
  if (heard.type === 'binary') throw new ProtocolError();
  try {
    return decodeReply(heard.text);
  } catch {
    throw new ProtocolError();
  }
}

interface Asked {
  request: ChatRequest;
  sink: Sink;
  opener: AnswerOpener | undefined;
  /** The sealed finish reason, once it came. */
  reason: string | undefined;
  began: boolean;
}

/** An open session of version 1. It ends with its connection: an answer that is cut off then is truncated. */
export class Session {
  readonly #line: Line;
  readonly #session: ClientSession;
  readonly #silence: number;
  readonly node: Address;
  readonly protocol = 1;
  #asked: Asked[] = [];
  #ended: FabstirError | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** @internal */
  constructor(line: Line, session: ClientSession, node: Address, silence: number) {
    this.#line = line;
    this.#session = session;
    this.#silence = silence;
    this.node = node;
    line.listen(
      (heard) => this.#heard(heard),
      () => {},
    );
  }

  get isOpen(): boolean {
    return this.#ended === undefined;
  }

  /** Asks; answers come one after the other. Usage is not sealed in version 1. */
  chat(request: ChatRequest, { signal }: AskOptions = {}): Answer {
    return new Answer((sink) => this.#ask(request, sink), signal);
  }

  /** Closes the connection, upon which the node forgets the session; the key is overwritten. */
  close(): void {
    this.#end(new Closed());
  }

  toJSON(): object {
    return { node: this.node, open: this.isOpen };
  }

  #ask(request: ChatRequest, sink: Sink): () => void {
    const asked: Asked = { request, sink, opener: undefined, reason: undefined, began: false };
    const ended = this.#ended;
    if (ended) {
      queueMicrotask(() => sink.fail(ended));
      return () => {};
    }
    this.#asked.push(asked);
    this.#next();
    return () => this.#cancel(asked);
  }

  /** Sends the first question that waits, when nothing is being answered. */
  #next(): void {
    const asked = this.#asked[0];
    clearTimeout(this.#timer);
    if (!asked) return;
    this.#timer = setTimeout(() => this.#end(new Silent(this.#silence)), this.#silence);
    if (asked.opener) return;
    asked.opener = this.#session.answer();
    this.#send(this.#session.message(JSON.stringify(asked.request)));
  }

  #send(frame: string): void {
    try {
      this.#line.send(frame);
    } catch {
      this.#end(new Truncated());
    }
  }

  #cancel(asked: Asked): void {
    if (this.#asked[0] === asked) {
      this.#send(encodeCancel(this.#session.id));
      return;
    }
    this.#asked = this.#asked.filter((one) => one !== asked);
    // It was never sent.
    asked.sink.end({ finish_reason: 'cancelled', usage: usageOf(undefined), dropped_messages: 0 });
  }

  #heard(heard: Heard): void {
    if (this.#ended) return;
    if (heard.type === 'closed') {
      this.#end(new Truncated());
      return;
    }
    try {
      this.#take(read(heard));
    } catch (error) {
      this.#end(error instanceof ProtocolError ? error : new DidNotOpen());
    }
  }

  #take(reply: Reply): void {
    if (reply.type === 'other' || reply.type === 'connected') return;
    const asked = this.#asked[0];
    if (reply.type === 'error') {
      const refused = new Refused(reply.code, reply.message, reply.retryAfterMs);
      if (asked) this.#done((sink) => sink.fail(asked.began ? new Truncated() : refused));
      return;
    }
    if (!asked?.opener || reply.type === 'ack' || reply.sessionId !== this.#session.id)
      throw new ProtocolError();
    if (reply.type === 'chunk') {
      asked.began = true;
      asked.sink.text(text(asked.opener.chunk(reply.payload)));
      this.#next();
    } else if (reply.type === 'response') asked.reason = text(asked.opener.final(reply.payload));
    else this.#finish(asked, reply);
  }

  #finish({ reason }: Asked, end: Extract<Reply, { type: 'stream_end' }>): void {
    this.#done((sink) => {
      if (reason === undefined) sink.fail(new Truncated());
      else if (reason === 'error')
        sink.fail(new Refused(end.code ?? 'INTERNAL_ERROR', 'the answer failed on the way'));
      else sink.end({ finish_reason: reason, usage: usageOf(end.usage), dropped_messages: 0 });
    });
  }

  #done(tell: (sink: Sink) => void): void {
    const asked = this.#asked.shift();
    if (asked) tell(asked.sink);
    this.#next();
  }

  #end(error: FabstirError): void {
    if (this.#ended) return;
    this.#ended = error instanceof Truncated ? new Closed() : error;
    clearTimeout(this.#timer);
    this.#session.wipe();
    this.#line.close();
    const cause = error instanceof DidNotOpen || error instanceof ProtocolError ? error : new Truncated();
    for (const { sink } of this.#asked.splice(0)) sink.fail(cause);
  }
}

/** Not sealed in version 1, so taken for what it is worth. */
function usageOf(value: unknown): Usage {
  try {
    return decode(JSON.stringify(value), usage);
  } catch {
    const none = { prompt_tokens: 0, completion_tokens: 0, total_tokens: 0, context_window_size: 0 };
    return { ...none, prompt_tokens_details: { cached_tokens: 0 }, estimated: true };
  }
}
