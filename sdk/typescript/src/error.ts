/** What can go wrong, by whose doing. Each has a `code`; none has anything of what was said. */

import { type Retry, retryOf } from './code.js';
import type { Address } from './ethereum.js';
import type { AdvertisementError } from './v2/advertisement.js';

const MOST_MESSAGE = 500;

/** What every error of this package is. */
export abstract class FabstirError extends Error {
  /** A code of docs/protocol.md, part 3, or one of this package's own. */
  abstract readonly code: string;
  /** Whether the same may be tried again. */
  readonly retry: Retry = 'no';
}

/** The node refused, and says why. */
export class Refused extends FabstirError {
  override name = 'Refused';
  readonly code: string;
  override readonly retry: Retry;
  /** When to try again, where the node says. */
  readonly retryAfterMs: number | undefined;
  constructor(code: string, message: string, retryAfterMs?: number) {
    // Before the channel is open anybody may have written this: it is shown on terminals, so it is text and no more.
    const known = /^[A-Z0-9_]{1,64}$/.test(code) ? code : 'UNKNOWN';
    const plain = message.slice(0, MOST_MESSAGE).replaceAll(/[\p{Cc}\p{Cf}]/gu, ' ');
    super(`the node refused: ${plain} (${known})`);
    this.code = known;
    this.retry = retryOf(known);
    this.retryAfterMs = retryAfterMs;
  }
}

/** The node cannot be reached. */
export class ConnectError extends FabstirError {
  override name = 'ConnectError';
  readonly code = 'CONNECT_FAILED';
  override readonly retry: Retry = 'later';
  constructor(why: string) {
    super(`cannot connect to the node: ${why}`);
  }
}

/** The node is not the pinned one, or does not prove to be. Stop: somebody may be in between. */
export class IdentityError extends FabstirError {
  override name = 'IdentityError';
  readonly code = 'WRONG_IDENTITY';
  readonly reason: AdvertisementError['reason'];
  /** Who is there instead. */
  readonly shown: Address | undefined;
  constructor({ reason, message, shown }: AdvertisementError) {
    super(message);
    this.reason = reason;
    this.shown = shown;
  }
}

/** The handshake did not complete: someone changed it on the way, or the node's keys have just changed. */
export class HandshakeFailed extends FabstirError {
  override name = 'HandshakeFailed';
  readonly code = 'HANDSHAKE_FAILED';
  override readonly retry = retryOf('HANDSHAKE_FAILED');
  constructor() {
    super('the handshake with the node did not complete');
  }
}

/** Something that the node sent did not open. The session is closed and its keys are overwritten. */
export class DidNotOpen extends FabstirError {
  override name = 'DidNotOpen';
  readonly code = 'DECRYPTION_FAILED';
  override readonly retry = retryOf('DECRYPTION_FAILED');
  constructor() {
    super('a frame from the node did not open: the session is closed');
  }
}

/** What the node sent is not of this protocol. */
export class ProtocolError extends FabstirError {
  override name = 'ProtocolError';
  readonly code = 'PROTOCOL_VIOLATED';
  constructor() {
    super('the node does not speak this protocol');
  }
}

/** The answer ended without its sealed end: what came of it is not the whole answer. */
export class Truncated extends FabstirError {
  override name = 'Truncated';
  readonly code = 'TRUNCATED';
  constructor() {
    super('the answer was cut off: what came of it is not the whole answer');
  }
}

/** The request is larger than the node takes. */
export class TooLarge extends FabstirError {
  override name = 'TooLarge';
  readonly code = 'REQUEST_TOO_LARGE';
  constructor(bytes: number, most: number) {
    super(`the request has ${bytes} bytes, and the node takes ${most}`);
  }
}

/** The node said nothing for too long. */
export class Silent extends FabstirError {
  override name = 'Silent';
  readonly code = 'SILENT';
  override readonly retry: Retry = 'later';
  constructor(milliseconds: number) {
    super(`the node said nothing for ${Math.ceil(milliseconds / 1000)} seconds`);
  }
}

/** The node has the session no more, and with it the conversation that it kept. */
export class SessionLost extends FabstirError {
  override name = 'SessionLost';
  readonly code = 'SESSION_LOST';
  override readonly retry: Retry = 'after a new init';
  constructor() {
    super('the node has lost the session, and what was said in it');
  }
}

/** The session was closed: by its user, or by the node's goodbye. */
export class Closed extends FabstirError {
  override name = 'Closed';
  readonly code = 'SESSION_CLOSED';
  override readonly retry: Retry = 'after a new init';
  constructor() {
    super('the session is closed');
  }
}

/** Something that the caller gave cannot be used. */
export class UsageError extends FabstirError {
  override name = 'UsageError';
  readonly code = 'USAGE';
}

/** A wallet did not sign what it was asked to, or signed something else. */
export class WalletError extends FabstirError {
  override name = 'WalletError';
  readonly code = 'WALLET_REFUSED';
}
