/** The client's side of the full handshake (docs/protocol.md, 2.3). */

import { ml_kem768 } from '@noble/post-quantum/ml-kem.js';
import { randomBytes, wipe } from '../bytes.js';
import type { PrivateKey } from '../identity.js';
import type { VerifiedNode } from './advertisement.js';
import { encode, type Hello, pad } from './body.js';
import type { SignedDelegation } from './certificate.js';
import { expect, frame, hint } from './frame.js';
import { type Finished, HandshakeError, HandshakeState, XK_PSK3 } from './noise.js';
import { Opener, Sealer, TO_CLIENT, TO_NODE } from './record.js';

const M2_LEN = 33 + 1088 + 16;

/** Lets a lost connection be resumed, once. */
export interface Ticket {
  id: Uint8Array;
  secret: Uint8Array;
}

/** What a handshake makes: both directions, a name, and the next ticket. */
export interface Channel {
  sealer: Sealer;
  opener: Opener;
  sid: Uint8Array;
  ticket: Ticket;
}

export function channelOf({ hash, toNode, toClient, ticketId, ticketSecret }: Finished): Channel {
  const sid = hash.slice(0, 16);
  return {
    sealer: new Sealer(toNode, sid, TO_NODE),
    opener: new Opener(toClient, sid, TO_CLIENT),
    sid,
    ticket: { id: ticketId, secret: ticketSecret },
  };
}

/** Who asks: a key, and what lets it speak for a wallet. */
export interface ClientIdentity {
  key: PrivateKey;
  delegation?: SignedDelegation | undefined;
}

/** What is drawn at random; given by tests and vectors alone. */
export interface Randomness {
  ephemeral?: PrivateKey;
  kemSeed?: Uint8Array;
}

/** Message 1 is out. */
export class AwaitingM2 {
  readonly #state: HandshakeState;
  readonly #decapsulationKey: Uint8Array;

  private constructor(state: HandshakeState, decapsulationKey: Uint8Array) {
    this.#state = state;
    this.#decapsulationKey = decapsulationKey;
  }

  static start(
    node: VerifiedNode,
    key: PrivateKey,
    random: Randomness = {},
  ): { m1: Uint8Array; waiting: AwaitingM2 } {
    const seed = random.kemSeed ?? randomBytes(64);
    const { publicKey, secretKey } = ml_kem768.keygen(seed);
    wipe(seed);
    const keys = { e: random.ephemeral, s: key, rs: node.channelKey };
    const state = new HandshakeState(XK_PSK3, true, node.prologue, keys);
    const m1 = frame('m1', hint(node.channelKey), state.write(publicKey));
    return { m1, waiting: new AwaitingM2(state, secretKey) };
  }

  /**
   * Message 3, and the channel. It is not open before the node's welcome opened: decapsulation never fails.
   *
   * @throws {HandshakeError}
   */
  finish(
    m2: Uint8Array,
    delegation: SignedDelegation | undefined,
    hello: Hello,
  ): { m3: Uint8Array; channel: Channel } {
    try {
      return this.#finish(m2, delegation?.toBytes() ?? new Uint8Array(0), encode(hello));
    } catch {
      throw new HandshakeError();
    } finally {
      wipe(this.#decapsulationKey);
      this.#state.wipe();
    }
  }

  #finish(m2: Uint8Array, delegation: Uint8Array, hello: Uint8Array): { m3: Uint8Array; channel: Channel } {
    const message = expect('m2', m2);
    if (message.length !== M2_LEN) throw new HandshakeError();
    const ciphertext = this.#state.read(message);
    this.#state.psk = ml_kem768.decapsulate(ciphertext, this.#decapsulationKey);
    const m3 = frame('m3', this.#state.write(pad(delegation, hello)));
    return { m3, channel: channelOf(this.#state.finish()) };
  }
}
