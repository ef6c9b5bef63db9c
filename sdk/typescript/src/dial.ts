/** From an address to an open channel. */

import {
  Closed,
  ConnectError,
  DidNotOpen,
  type FabstirError,
  HandshakeFailed,
  IdentityError,
  ProtocolError,
  Refused,
  Silent,
} from './error.js';
import type { Address } from './ethereum.js';
import { type Capture, Line, type WebSocketClass } from './socket.js';
import { AdvertisementError, type VerifiedNode, verifyAdvertisement } from './v2/advertisement.js';
import type { Answers } from './v2/answers.js';
import { type Fault, fault, type Hello, type Shape, type Welcome } from './v2/body.js';
import { AwaitingM2, type Channel, type ClientIdentity, type Ticket } from './v2/handshake.js';
import { decode } from './v2/json.js';
import { HandshakeError } from './v2/noise.js';
import { OpenError } from './v2/record.js';
import { AwaitingR2 } from './v2/resume.js';

/** Longest text frame that is read: of a node that has proved nothing yet. */
const MOST_TEXT = 1 << 16;

/** All that there is to know before anything is sent. */
export interface Config {
  url: string;
  node: Address;
  identity: ClientIdentity;
  /** The key was made for this session, and goes with it. */
  isAnonymous: boolean;
  shape: Shape;
  connectTimeout: number;
  silenceTimeout: number;
  resumeFor: number;
  renewAfter: number;
  webSocket?: WebSocketClass | undefined;
  capture?: Capture | undefined;
  /** Ends what is being opened. */
  stop: AbortController;
  /** Hears whether there is a connection. */
  onConnection?: ((state: 'open' | 'lost' | 'closed', why?: FabstirError) => void) | undefined;
}

/** A channel that is open, by a line. */
export interface Opened {
  line: Line;
  channel: Channel;
  welcome: Welcome;
}

/**
 * Who the node says it is, which holds: the pinned identity, or the one to which the pinned one says that the node has
 * moved. New sessions are then a person's to allow; one that there is goes on, for only the node that it is with can
 * answer its ticket.
 */
export type Shown = { node: VerifiedNode; moved?: undefined } | { node?: undefined; moved: IdentityError };

/** Connects, and checks who the node says it is. */
export async function reach(config: Config): Promise<{ line: Line; shown: Shown }> {
  const line = await Line.open(
    config.url,
    config.webSocket,
    config.connectTimeout,
    config.stop.signal,
    config.capture,
  );
  return { line, shown: await attempt(line, config, introduce(line, config)) };
}

/** The pinned node, for a handshake by `line`. */
export function pinned(line: Line, shown: Shown): VerifiedNode {
  if (shown.node) return shown.node;
  line.close();
  throw shown.moved;
}

async function introduce(line: Line, config: Config): Promise<Shown> {
  const first = await line.next();
  if (first.type === 'closed') throw new ConnectError('it closed the connection');
  if (first.type !== 'text' || first.text.length > MOST_TEXT) throw new ProtocolError();
  try {
    return { node: verifyAdvertisement(first.text, config.node, Math.floor(Date.now() / 1000)) };
  } catch (error) {
    if (!(error instanceof AdvertisementError)) throw error;
    const identity = new IdentityError(error);
    if (error.reason === 'moved') return { moved: identity };
    throw identity;
  }
}

/** The next frame of version 2. Until the session is open, a text frame can only be a refusal. */
async function expected(line: Line): Promise<Uint8Array> {
  const heard = await line.next();
  if (heard.type === 'binary') return heard.bytes;
  if (heard.type === 'closed') throw new ConnectError('it closed the connection');
  if (heard.text.length > MOST_TEXT) throw new ProtocolError();
  let said: Fault;
  try {
    said = decode(heard.text, fault);
  } catch {
    throw new ProtocolError();
  }
  throw refusal(said);
}

export async function handshake(
  line: Line,
  config: Config,
  node: VerifiedNode,
  hello: Hello,
  answers: Answers,
): Promise<Opened> {
  const { m1, waiting } = AwaitingM2.start(node, config.identity.key);
  line.send(m1);
  const { m3, channel } = waiting.finish(await expected(line), config.identity.delegation, hello);
  line.send(m3);
  // Only the node that holds the ML-KEM secret can say this.
  const said = answers.take(channel.opener.open(await expected(line)));
  if (said.type === 'fault') throw refusal(said.fault);
  if (said.type !== 'welcome') throw new ProtocolError();
  return { line, channel, welcome: said.welcome };
}

export async function resumption(
  line: Line,
  ticket: Ticket,
  resume: { received: [number, number][]; shape: Shape },
): Promise<Opened> {
  const { r1, waiting } = AwaitingR2.start(ticket, { ...resume, received: fitting(resume.received) });
  line.send(r1);
  const { welcome, channel } = waiting.finish(await expected(line));
  return { line, channel, welcome };
}

/** What does not fit into the payload is left out, the oldest first (2.3.5). */
export function fitting(received: [number, number][]): [number, number][] {
  return received.slice(-120);
}

/** In time, or the line is closed. */
export async function attempt<T>(line: Line, config: Config, work: Promise<T>): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  let stop = () => {};
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Silent(config.connectTimeout)), config.connectTimeout);
    stop = () => reject(new Closed());
  });
  const { signal } = config.stop;
  signal.addEventListener('abort', stop);
  try {
    return await Promise.race([work, late]);
  } catch (error) {
    line.close();
    if (error instanceof HandshakeError) throw new HandshakeFailed();
    if (error instanceof OpenError) throw new DidNotOpen();
    throw error;
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', stop);
  }
}

export function refusal({ code, message, retry_after_ms }: Fault): Refused {
  return new Refused(code, message, retry_after_ms);
}
