/** A WebSocket whose frames are waited for one after the other, and later handed on as they come. */

import { ConnectError, UsageError } from './error.js';

/** What the browser's `WebSocket` and that of the package `ws` have in common. */
export interface WebSocketLike {
  binaryType: string;
  readonly bufferedAmount: number;
  send(data: string | Uint8Array): void;
  close(code?: number, reason?: string): void;
  addEventListener(type: 'open' | 'message' | 'close' | 'error', listener: (event: never) => void): void;
}

export type WebSocketClass = new (url: string) => WebSocketLike;

/** Sees each frame as it is on the wire. */
export type Capture = (direction: 'sent' | 'received', frame: string | Uint8Array) => void;

/** What came. */
export type Heard =
  | { type: 'text'; text: string }
  | { type: 'binary'; bytes: Uint8Array }
  | { type: 'closed' };

const MOST_FRAME = 4 << 20;
/** How long a closed connection may take to be one. */
const LAST_WORDS = 500;
const UNREACHABLE = 'it does not answer, or refuses the connection';

/** The class that makes sockets: the caller's, the platform's, or that of `ws` where that is installed. */
async function usual(): Promise<WebSocketClass> {
  if (typeof globalThis.WebSocket === 'function') return globalThis.WebSocket as unknown as WebSocketClass;
  // Not a literal, so that nobody bundles for browsers what Node.js 20 alone needs.
  const name = 'ws';
  const { WebSocket } = await import(name).catch(() => {
    throw new UsageError('this Node.js has no WebSocket: npm install ws, or pass a class as webSocket');
  });
  return class extends WebSocket {
    constructor(url: string) {
      super(url, { perMessageDeflate: false, maxPayload: MOST_FRAME });
    }
  } as unknown as WebSocketClass;
}

export class Line {
  readonly #socket: WebSocketLike;
  #capture: Capture | undefined;
  readonly #came: Heard[] = [];
  #waiter: ((heard: Heard) => void) | undefined;
  #listener: ((heard: Heard) => void) | undefined;
  #sign: (() => void) | undefined;
  /** Whether pings of the node are seen here; a browser keeps them to itself. */
  readonly seesPings: boolean;

  private constructor(socket: WebSocketLike, capture: Capture | undefined) {
    this.#socket = socket;
    this.#capture = capture;
    socket.binaryType = 'arraybuffer';
    socket.addEventListener('message', (event: { data: unknown }) => this.#put(heard(event.data)));
    socket.addEventListener('close', () => this.#put({ type: 'closed' }));
    socket.addEventListener('error', () => {});
    const emitter = socket as { on?: (event: 'ping', listener: () => void) => void };
    this.seesPings = typeof emitter.on === 'function';
    if (this.seesPings) emitter.on?.('ping', () => this.#sign?.());
  }

  /** @throws {ConnectError} */
  static async open(
    url: string,
    socketClass: WebSocketClass | undefined,
    milliseconds: number,
    signal?: AbortSignal,
    capture?: Capture,
  ): Promise<Line> {
    const make = socketClass ?? (await usual());
    let socket: WebSocketLike;
    try {
      socket = new make(url);
    } catch (error) {
      throw new UsageError(
        `${JSON.stringify(url)} is not an address like ws://127.0.0.1:8080/v1/ws: ${error}`,
      );
    }
    const line = new Line(socket, capture);
    await new Promise<void>((resolve, reject) => {
      let settled = false;
      const settle = (why?: string) => {
        // What befalls an open connection is the listener's to hear.
        if (settled) return;
        settled = true;
        clearTimeout(timer);
        signal?.removeEventListener('abort', stop);
        if (why === undefined) return resolve();
        line.close();
        reject(new ConnectError(why));
      };
      const timer = setTimeout(() => settle('it does not answer'), milliseconds);
      const stop = () => settle('it was given up');
      if (signal?.aborted) return stop();
      signal?.addEventListener('abort', stop);
      socket.addEventListener('open', () => settle());
      socket.addEventListener('close', () => settle('it closed the connection'));
      socket.addEventListener('error', (event: { message?: string }) => settle(event.message || UNREACHABLE));
    });
    return line;
  }

  /** The next frame. */
  next(): Promise<Heard> {
    const heard = this.#came.shift();
    if (heard) return Promise.resolve(heard);
    return new Promise((resolve) => {
      this.#waiter = resolve;
    });
  }

  /** From now on every frame goes to `listener`, and `sign` hears of every sign of life. */
  listen(listener: (heard: Heard) => void, sign: () => void): void {
    this.#sign = sign;
    this.#listener = listener;
    for (const heard of this.#came.splice(0)) listener(heard);
  }

  send(frame: Uint8Array | string): void {
    this.#saw('sent', frame);
    this.#socket.send(frame);
  }

  /** Nothing more is heard of it. */
  close(): void {
    this.#listener = () => {};
    this.#waiter = undefined;
    try {
      this.#socket.close();
    } catch {
      // It was never open.
    }
    // `ws` waits half a minute for a peer that says nothing any more, and Node.js with it.
    const { terminate } = this.#socket as { terminate?: () => void };
    if (!terminate) return;
    const timer = setTimeout(() => terminate.call(this.#socket), LAST_WORDS);
    (timer as { unref?: () => void }).unref?.();
    this.#socket.addEventListener('close', () => clearTimeout(timer));
  }

  /** Who looks on and stumbles does not look on any more; the session is not theirs to end. */
  #saw(direction: 'sent' | 'received', frame: Uint8Array | string): void {
    try {
      this.#capture?.(direction, frame);
    } catch {
      this.#capture = undefined;
    }
  }

  #put(heard: Heard): void {
    if (heard.type === 'text') this.#saw('received', heard.text);
    if (heard.type === 'binary') this.#saw('received', heard.bytes);
    this.#sign?.();
    if (this.#listener) this.#listener(heard);
    else if (this.#waiter) {
      const waiter = this.#waiter;
      this.#waiter = undefined;
      waiter(heard);
    } else this.#came.push(heard);
  }
}

function heard(data: unknown): Heard {
  if (typeof data === 'string') return { type: 'text', text: data };
  if (data instanceof ArrayBuffer) return { type: 'binary', bytes: new Uint8Array(data) };
  if (ArrayBuffer.isView(data)) {
    return { type: 'binary', bytes: new Uint8Array(data.buffer, data.byteOffset, data.byteLength) };
  }
  return { type: 'closed' };
}
