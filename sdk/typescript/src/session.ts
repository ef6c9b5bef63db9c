/** A session of version 2 as its user has it: several answers at once, over whatever connection there is. */

import { Answer } from './answer.js';
import type { Sink } from './asked.js';
import { unhex, utf8 } from './bytes.js';
import type { Config } from './dial.js';
import { Driver } from './driver.js';
import { type FabstirError, ProtocolError, TooLarge, UsageError } from './error.js';
import { type Address, InvalidAddress, parseAddress } from './ethereum.js';
import { PrivateKey, PublicKey } from './identity.js';
import type { Capture, WebSocketClass } from './socket.js';
import { type Model, model, type Shape, type Usage, type Welcome } from './v2/body.js';
import type { ClientIdentity } from './v2/handshake.js';
import { decode, list } from './v2/json.js';
import { type DelegationStore, delegate, type Wallet } from './wallet.js';

/** Which node, who asks, and how. */
export interface ConnectOptions {
  /** `ws://host:port/v1/ws` or `wss://…`. */
  url: string;
  /**
   * Who the node must prove to be: its address (`0x` and 40 digits) or its public key (66 digits). It is yours to know
   * beforehand: who lets the network name it talks to whoever the network likes.
   */
  nodeKey: string;
  /** Whose word the session has: an account of viem, a signer of ethers, or a browser wallet. Without one you are anonymous. */
  wallet?: Wallet;
  /** Where the delegation is kept, so that the wallet is asked once. In memory unless said otherwise. */
  delegations?: DelegationStore;
  /** How long a delegation lasts: a day. */
  delegationSeconds?: number;
  /** A key and its delegation, instead of a wallet. */
  identity?: ClientIdentity;
  /** How lengths are hidden from who listens. */
  shape?: Shape;
  /** A class for sockets, where the platform has none and `ws` is not installed. */
  webSocket?: WebSocketClass;
  /** Milliseconds that connecting may take: 10,000. */
  connectTimeout?: number;
  /** After so many milliseconds without a sign of life a connection counts as lost: 45,000. */
  silenceTimeout?: number;
  /** How long a lost connection is tried to be replaced, in milliseconds: 60,000. */
  resumeFor?: number;
  /** After so many milliseconds the channel gets new keys by a new handshake: an hour. */
  renewAfter?: number;
  /** Ends the opening of the session; later it means nothing. */
  signal?: AbortSignal;
  /** Sees every frame as it is on the wire. */
  onFrame?: Capture;
  /** Hears whether there is a connection, and why the session is closed. */
  onConnection?: (state: 'open' | 'lost' | 'closed', why?: FabstirError) => void;
}

/** A message of a conversation, as OpenAI's chat completions have it. */
export interface Message {
  role: 'system' | 'developer' | 'user' | 'assistant' | 'tool' | (string & {});
  content?: unknown;
  [field: string]: unknown;
}

/** A chat request as OpenAI's API has it; the node refuses by name what it does not serve. */
export type ChatRequest = ({ messages: Message[]; prompt?: never } | { prompt: string; messages?: never }) & {
  model?: string;
  max_tokens?: number;
  temperature?: number;
  [field: string]: unknown;
};

export interface AskOptions {
  /** Cancels the answer at the node. */
  signal?: AbortSignal | undefined;
}

/** What may be asked for. */
export type Op = 'chat' | 'completions' | 'embeddings' | 'models';

/** Connects, checks who the node is, and opens a session. */
export async function connect(options: ConnectOptions): Promise<Session> {
  const node = pinned(options.nodeKey);
  const config: Config = {
    url: options.url,
    node,
    identity: await identityOf(options, node),
    isAnonymous: !options.identity && !options.wallet,
    shape: options.shape ?? 'bucket',
    connectTimeout: milliseconds('connectTimeout', options.connectTimeout, 10_000),
    silenceTimeout: milliseconds('silenceTimeout', options.silenceTimeout, 45_000),
    resumeFor: milliseconds('resumeFor', options.resumeFor, 60_000),
    renewAfter: milliseconds('renewAfter', options.renewAfter, 3_600_000),
    webSocket: options.webSocket,
    capture: options.onFrame,
    stop: new AbortController(),
    onConnection: options.onConnection,
  };
  const { signal } = options;
  const stop = () => config.stop.abort();
  signal?.addEventListener('abort', stop);
  try {
    signal?.throwIfAborted();
    return new Session(await Driver.open(config));
  } catch (error) {
    signal?.throwIfAborted();
    throw error;
  } finally {
    signal?.removeEventListener('abort', stop);
  }
}

/** The most that a timer takes; beyond it a timer rings at once. */
const LONGEST_TIMER = 2 ** 31 - 1;

function milliseconds(name: string, given: number | undefined, usual: number): number {
  if (given === undefined) return usual;
  if (!(given > 0)) throw new UsageError(`${name} is a number of milliseconds`);
  return Math.min(given, LONGEST_TIMER);
}

/** Who an address or a public key says the node is. */
function pinned(nodeKey: string): Address {
  try {
    return /^(0x)?0[23][0-9a-fA-F]{64}$/.test(nodeKey)
      ? PublicKey.read(unhex(nodeKey.replace(/^0x/, ''))).address()
      : parseAddress(nodeKey);
  } catch (error) {
    if (error instanceof InvalidAddress) throw new UsageError(`nodeKey: ${error.message}`);
    throw new UsageError('nodeKey is the node’s address, 0x and 40 digits, or its public key, 66 digits');
  }
}

async function identityOf(options: ConnectOptions, node: Address): Promise<ClientIdentity> {
  if (options.identity) return options.identity;
  if (!options.wallet) return { key: PrivateKey.random() };
  return delegate(options.wallet, { node, seconds: options.delegationSeconds, store: options.delegations });
}

function encode(op: Op, body: unknown): Uint8Array {
  if (body === null || typeof body !== 'object') throw new UsageError('a request is an object');
  try {
    return utf8(JSON.stringify({ op, body }));
  } catch (error) {
    throw new UsageError(`a request is JSON: ${error instanceof Error ? error.message : error}`);
  }
}

/** An open session. Requests may be made side by side; a lost connection is replaced without their noticing. */
export class Session {
  readonly #driver: Driver;
  /** The node's identity, proved. */
  readonly node: Address;
  /** The version of the protocol. */
  readonly protocol = 2;

  /** @internal */
  constructor(driver: Driver) {
    this.#driver = driver;
    this.node = driver.node.address;
  }

  /** What the node granted when the connection was opened. */
  get welcome(): Welcome {
    return this.#driver.welcome;
  }

  /** How lengths are hidden. */
  get shape(): Shape {
    return this.#driver.welcome.shape;
  }

  /** Whether requests can still be made. */
  get isOpen(): boolean {
    return this.#driver.ended === undefined;
  }

  /** Whether there is a connection right now. */
  get isConnected(): boolean {
    return this.#driver.connected;
  }

  /** The oldest version that the node speaks, by its certificate, and until when that holds (unix seconds). */
  get least(): { version: number; until: number } {
    return { version: this.#driver.node.minVersion, until: this.#driver.node.notAfter };
  }

  /** Asks for an answer in a conversation. */
  chat(request: ChatRequest, options: AskOptions = {}): Answer {
    return this.#ask('chat', request, options, request?.prompt !== undefined);
  }

  /** Asks for a text to go on. */
  completions(request: { prompt: string; [field: string]: unknown }, options: AskOptions = {}): Answer {
    return this.#ask('completions', request, options, false);
  }

  /** Asks for vectors. */
  async embeddings(
    request: { input: string | string[]; [field: string]: unknown },
    options: AskOptions = {},
  ): Promise<{ data: { index: number; embedding: number[] | string }[]; usage: Usage }> {
    const answer = this.#ask('embeddings', request, options, false);
    const data: { index: number; embedding: number[] | string }[] = [];
    for await (const { choice } of answer) data.push(choice as never);
    return { data, usage: (await answer).usage };
  }

  /** The models that may be asked, now. */
  async models(options: AskOptions = {}): Promise<Model[]> {
    for await (const { choice } of this.#ask('models', {}, options, false)) {
      try {
        return decode(JSON.stringify(choice), list(model));
      } catch {
        throw new ProtocolError();
      }
    }
    throw new ProtocolError();
  }

  /** A request in OpenAI's form, whatever it asks for. */
  request(op: Op, body: object, options: AskOptions = {}): Answer {
    return this.#ask(op, body, options, op === 'chat' && 'prompt' in body);
  }

  /** Says goodbye: the node ends what it was answering and forgets the session; keys are overwritten. */
  close(): void {
    this.#driver.close();
  }

  /** Loses the connection, as a network would. For tests. @internal */
  loseConnection(): void {
    this.#driver.loseConnection();
  }

  toJSON(): object {
    return { node: this.node, open: this.isOpen };
  }

  #ask(op: Op, body: object, { signal }: AskOptions, keeps: boolean): Answer {
    const bytes = encode(op, body);
    const most = this.#driver.welcome.limits.max_request_bytes;
    return new Answer((sink: Sink) => {
      if (bytes.length <= most) return this.#driver.ask(bytes, keeps, sink);
      const error: FabstirError = new TooLarge(bytes.length, most);
      queueMicrotask(() => sink.fail(error));
      return () => {};
    }, signal);
  }
}
