/** The client's side of a resumption (docs/protocol.md, 2.6). */

import { join, utf8 } from '../bytes.js';
import type { PrivateKey } from '../identity.js';
import { encode, pad, type Resume, unpad, type Welcome, welcome } from './body.js';
import { expect, frame } from './frame.js';
import { type Channel, channelOf, type Ticket } from './handshake.js';
import { decode } from './json.js';
import { HandshakeError, HandshakeState, NN_PSK0, RESUME_LABEL } from './noise.js';

/** Message 1 of a resumption is out. */
export class AwaitingR2 {
  readonly #state: HandshakeState;

  private constructor(state: HandshakeState) {
    this.#state = state;
  }

  /** Spends the ticket. */
  static start(
    ticket: Ticket,
    resume: Resume,
    ephemeral?: PrivateKey,
  ): { r1: Uint8Array; waiting: AwaitingR2 } {
    const prologue = join(utf8(RESUME_LABEL), ticket.id);
    const state = new HandshakeState(NN_PSK0, true, prologue, { e: ephemeral, psk: ticket.secret });
    return { r1: frame('r1', ticket.id, state.write(pad(encode(resume)))), waiting: new AwaitingR2(state) };
  }

  /** @throws {HandshakeError} */
  finish(r2: Uint8Array): { welcome: Welcome; channel: Channel } {
    try {
      const [body] = unpad(this.#state.read(expect('r2', r2)), 1) as [Uint8Array];
      const said = decode(body, welcome);
      const channel = channelOf(this.#state.finish());
      channel.sealer.shape = said.shape;
      return { welcome: said, channel };
    } catch {
      throw new HandshakeError();
    } finally {
      this.#state.wipe();
    }
  }
}
