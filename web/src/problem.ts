/** What went wrong, in words for a person. */

import { FabstirError, IdentityError, Refused, Truncated } from '@fabstir/sdk';
import type { Problem, Who } from './state.js';

export function ended(why: FabstirError | undefined, who: Who | undefined): Problem {
  if (why instanceof IdentityError) return problemOf(why, who);
  const text = why ? sentence(why) : 'The node or the network ended it.';
  return { title: 'The session has ended', text, mayRetry: true };
}

export function problemOf(error: unknown, who: Who | undefined): Problem {
  if (error instanceof IdentityError && error.shown && who) {
    const title = error.reason === 'moved' ? 'The node has moved' : 'This is not the node you know';
    const text =
      error.reason === 'moved'
        ? 'The identity you know says, signed, that the node goes by another one now. Ask its operator before you go on.'
        : 'Somebody in between may be pretending to be it, or its operator has changed its key. Nothing was said to it. Ask the operator, by another way than this page, before you go on.';
    return { title, text, shown: { expected: who.address, found: error.shown }, mayRetry: false };
  }
  if (error instanceof IdentityError) {
    const text = `It cannot prove to be who it says: ${error.message}. Nothing was said to it.`;
    return { title: 'The node is refused', text, mayRetry: true };
  }
  return { title: 'No session', text: sentence(error), mayRetry: true };
}

export function sentence(error: unknown): string {
  if (error instanceof Truncated) return 'The answer was cut off: what is shown is not all of it.';
  if (error instanceof Refused && error.code === 'CLIENT_NOT_ALLOWED') {
    return 'This node serves known wallets alone: connect a wallet that its operator has let in.';
  }
  const text = error instanceof FabstirError || error instanceof Error ? error.message : String(error);
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;
}
