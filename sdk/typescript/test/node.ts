/** The node's side of the handshakes, enough of it to judge what clients send. For tests alone. */

import { ml_kem768 } from '@noble/post-quantum/ml-kem.js';
import { join, same, utf8 } from '../src/bytes.js';
import type { PrivateKey } from '../src/identity.js';
import { pad, unpad } from '../src/v2/body.js';
import { expect, frame, hint } from '../src/v2/frame.js';
import { channelOf, type Ticket } from '../src/v2/handshake.js';
import { type Finished, HandshakeState, NN_PSK0, RESUME_LABEL, XK_PSK3 } from '../src/v2/noise.js';

const M1_LEN = 4 + 33 + 1184 + 16;
const M3_OVERHEAD = 33 + 16 + 16;
const PAYLOADS = [512, 1024, 2048, 4096];

/** Where a message was refused. */
export class RefusedAt extends Error {
  readonly at: string;
  constructor(at: string, cause?: unknown) {
    super(at, { cause });
    this.at = at;
  }
}

function at<T>(where: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    throw new RefusedAt(where, error);
  }
}

export class Responder {
  readonly state: HandshakeState;
  readonly #channelKey: PrivateKey;

  constructor(prologue: Uint8Array, channelKey: PrivateKey, ephemeral?: PrivateKey) {
    this.#channelKey = channelKey;
    this.state = new HandshakeState(XK_PSK3, false, prologue, { s: channelKey, e: ephemeral });
  }

  m2(m1: Uint8Array, kemM?: Uint8Array): Uint8Array {
    const message = at('read', () => {
      const message = expect('m1', m1);
      if (message.length !== M1_LEN) throw new Error('its length');
      return message;
    });
    at('hint', () => {
      if (!same(message.subarray(0, 4), hint(this.#channelKey.publicKey))) throw new Error('another key');
    });
    const key = at('open', () => this.state.read(message.subarray(4)));
    return at('respond', () => {
      const { cipherText, sharedSecret } = ml_kem768.encapsulate(key, kemM);
      this.state.psk = sharedSecret;
      return frame('m2', this.state.write(cipherText));
    });
  }

  m3(m3: Uint8Array): { delegation: Uint8Array; hello: Uint8Array } {
    return at('handshake', () => {
      const message = expect('m3', m3);
      if (!PAYLOADS.includes(message.length - M3_OVERHEAD)) throw new Error('its length');
      const [delegation, hello] = unpad(this.state.read(message), 2) as [Uint8Array, Uint8Array];
      return { delegation, hello };
    });
  }
}

/** The channel as the node has it: the directions are the other way around. */
export function nodeChannel(finished: Finished) {
  const { sealer, opener, ...rest } = channelOf(finished);
  return { sealer: opener, opener: sealer, ...rest };
}

export class ResumptionResponder {
  readonly state: HandshakeState;

  constructor(ticket: Ticket, ephemeral?: PrivateKey) {
    const prologue = join(utf8(RESUME_LABEL), ticket.id);
    this.state = new HandshakeState(NN_PSK0, false, prologue, { e: ephemeral, psk: ticket.secret.slice() });
  }

  r1(r1: Uint8Array, ticketId: Uint8Array): Uint8Array {
    const message = at('read', () => {
      const message = expect('r1', r1);
      if (message.length < 32 + 33 + 16 || message.length > 32 + 33 + 16 + 4096)
        throw new Error('its length');
      return message;
    });
    at('ticket', () => {
      if (!same(message.subarray(0, 32), ticketId)) throw new Error('another ticket');
    });
    return at('open', () => {
      const [resume] = unpad(this.state.read(message.subarray(32)), 1) as [Uint8Array];
      return resume;
    });
  }

  r2(welcome: Uint8Array): Uint8Array {
    return frame('r2', this.state.write(pad(welcome)));
  }
}
