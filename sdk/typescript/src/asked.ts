/** What was asked, and how it may end. */

import {
  ConnectError,
  DidNotOpen,
  type FabstirError,
  ProtocolError,
  Refused,
  SessionLost,
  Silent,
  Truncated,
} from './error.js';
import type { End } from './v2/body.js';

/** Codes of what may have passed by the next attempt. */
const PASSING = ['RESUMPTION_REFUSED', 'HANDSHAKE_FAILED', 'RATE_LIMITED', 'NODE_BUSY', 'DRAINING'];

/** Who waits for an answer. */
export interface Sink {
  text(words: string): void;
  event(value: unknown): void;
  end(end: End): void;
  fail(error: FabstirError): void;
}

export interface Asked {
  body: Uint8Array;
  sink: Sink;
  /** Its user wants no more of it. */
  cancelled: boolean;
}

/** A request that waits for a connection. */
export interface Waiting extends Asked {
  keeps: boolean;
  sent: (request: number) => void;
}

/** Whether an attempt to connect may end better next time. */
export function isPassing(error: FabstirError): boolean {
  return error instanceof ConnectError || error instanceof Silent || PASSING.includes(error.code);
}

/** What who waits for an answer hears, where the session ended by `error`. */
export function again(error: FabstirError): FabstirError {
  const itself =
    error instanceof DidNotOpen || error instanceof ProtocolError || error instanceof SessionLost;
  return itself || error instanceof Refused ? error : new Truncated();
}

/** The end of what was never sent. */
export function nothingOf(): End {
  const usage = {
    prompt_tokens: 0,
    completion_tokens: 0,
    total_tokens: 0,
    context_window_size: 0,
    prompt_tokens_details: { cached_tokens: 0 },
    estimated: false,
  };
  return { finish_reason: 'cancelled', usage, dropped_messages: 0 };
}
