/** An answer as it comes: piece by piece, or whole. */

import type { Sink } from './asked.js';
import { type FabstirError, ProtocolError } from './error.js';
import type { End, Usage } from './v2/body.js';

/** Part of a call of one of the caller's functions, as OpenAI's chat completions have it. */
export interface ToolCall {
  id: string;
  type: 'function';
  function: { name: string; arguments: string };
}

/** `choices[0]` of a `chat.completion.chunk`. */
export interface Choice {
  delta?: {
    content?: string | null;
    reasoning_content?: string | null;
    tool_calls?: (ToolCall & { index?: number })[];
  };
  logprobs?: { content?: unknown[] | null } | null;
  [field: string]: unknown;
}

/** A piece of an answer. */
export interface Piece {
  /** The next words; empty where the piece is something else. */
  text: string;
  /** What is more than words: reasoning, tool calls, log probabilities. */
  choice?: Choice;
}

/** A whole answer. */
export interface Completion {
  text: string;
  reasoning: string;
  toolCalls: ToolCall[];
  logprobs: unknown[];
  /** `stop`, `length`, `tool_calls`, or `cancelled`. */
  finishReason: string;
  usage: Usage;
  /** Messages of the conversation that did not fit. */
  droppedMessages: number;
}

/**
 * Iterate over it for its pieces, await it for the whole; both at once if you like. It is over only with its sealed end:
 * an answer that was cut off throws {@link Truncated}, whatever came of it. Leaving the loop early cancels it.
 */
export class Answer implements AsyncIterable<Piece>, PromiseLike<Completion> {
  readonly #pieces: Piece[] = [];
  #end: End | undefined;
  #error: unknown;
  #over = false;
  #wake: (() => void)[] = [];
  #cancel: () => void = () => {};
  #release: () => void = () => {};

  /** @internal */
  constructor(ask: (sink: Sink) => () => void, signal?: AbortSignal) {
    const finish = (error?: unknown, end?: End) => {
      if (this.#over) return;
      this.#over = true;
      this.#error = error;
      this.#end = end;
      this.#release();
      this.#tell();
    };
    if (signal?.aborted) {
      finish(reasonOf(signal));
      return;
    }
    this.#cancel = ask({
      text: (text) => this.#put({ text }),
      event: (value) => this.#put(pieceOf(value)),
      end: (end) => finish(undefined, end),
      fail: (error: FabstirError) => finish(error),
    });
    if (signal) {
      const abort = () => {
        this.#cancel();
        finish(reasonOf(signal));
      };
      signal.addEventListener('abort', abort);
      this.#release = () => signal.removeEventListener('abort', abort);
    }
  }

  /** Asks the node to stop; the answer then ends with `cancelled`, or with what was sooner. */
  cancel(): void {
    if (!this.#over) this.#cancel();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Piece, void, undefined> {
    let at = 0;
    try {
      for (;;) {
        const piece = this.#pieces[at];
        if (piece) {
          at++;
          yield piece;
        } else if (this.#over) {
          if (!this.#end) throw this.#error;
          return;
        } else await this.#more();
      }
    } finally {
      this.cancel();
    }
  }

  // biome-ignore lint/suspicious/noThenProperty: it is a promise of the whole answer
  then<A = Completion, B = never>(
    fulfilled?: ((whole: Completion) => A | PromiseLike<A>) | null,
    rejected?: ((reason: unknown) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    return this.#whole().then(fulfilled, rejected);
  }

  catch<B = never>(rejected?: ((reason: unknown) => B | PromiseLike<B>) | null): Promise<Completion | B> {
    return this.#whole().catch(rejected);
  }

  finally(done?: (() => void) | null): Promise<Completion> {
    return this.#whole().finally(done);
  }

  /** How it ended, once it has. */
  get end(): End | undefined {
    return this.#end;
  }

  async #whole(): Promise<Completion> {
    while (!this.#over) await this.#more();
    if (!this.#end) throw this.#error;
    try {
      return gather(this.#pieces, this.#end);
    } catch {
      // Pieces that are not of their form.
      throw new ProtocolError();
    }
  }

  #put(piece: Piece): void {
    if (this.#over) return;
    this.#pieces.push(piece);
    this.#tell();
  }

  #more(): Promise<void> {
    return new Promise((resolve) => this.#wake.push(resolve));
  }

  #tell(): void {
    for (const wake of this.#wake.splice(0)) wake();
  }
}

/** `abort(null)` is a reason that nobody could catch. */
function reasonOf(signal: AbortSignal): unknown {
  return signal.reason ?? new DOMException('This operation was aborted', 'AbortError');
}

function pieceOf(value: unknown): Piece {
  const choice = (value ?? {}) as Choice;
  const content = choice.delta?.content;
  return { text: typeof content === 'string' ? content : '', choice };
}

function gather(pieces: Piece[], end: End): Completion {
  const calls = new Map<number, ToolCall>();
  const logprobs: unknown[] = [];
  let reasoning = '';
  for (const { choice } of pieces) {
    const thought = choice?.delta?.reasoning_content;
    if (typeof thought === 'string') reasoning += thought;
    for (const one of choice?.logprobs?.content ?? []) logprobs.push(one);
    for (const [i, { index = i, ...call }] of (choice?.delta?.tool_calls ?? []).entries())
      calls.set(index, call);
  }
  return {
    text: pieces.map(({ text }) => text).join(''),
    reasoning,
    toolCalls: [...calls].sort(([one], [other]) => one - other).map(([, call]) => call),
    logprobs,
    finishReason: end.finish_reason,
    usage: end.usage,
    droppedMessages: end.dropped_messages,
  };
}
