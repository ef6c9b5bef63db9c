/** What was said. */

import { useEffect, useMemo, useRef, useState } from 'preact/hooks';
import { Icon } from './icons.js';
import { render } from './markdown.js';
import type { Conversation, Message } from './state.js';
import type { Talk } from './talk.js';

export function Messages({ talk, conversation }: { talk: Talk; conversation: Conversation }) {
  const list = useRef<HTMLDivElement>(null);
  const stuck = useRef(true);
  const { messages } = conversation;
  const last = messages.at(-1);
  useEffect(() => {
    if (stuck.current && list.current) list.current.scrollTop = list.current.scrollHeight;
  }, [last?.text, messages.length]);
  if (messages.length === 0) return <Welcome talk={talk} />;
  return (
    <div
      class="messages"
      ref={list}
      role="log"
      aria-label="Conversation"
      aria-live="off"
      // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reached by the keyboard
      tabIndex={0}
      onScroll={(event) => {
        const { scrollTop, scrollHeight, clientHeight } = event.currentTarget;
        stuck.current = scrollHeight - scrollTop - clientHeight < 60;
      }}
    >
      <h1 class="hidden">{conversation.title}</h1>
      {messages.map((message, i) => (
        <Said key={i} message={message} talk={talk} isLast={i === messages.length - 1} />
      ))}
    </div>
  );
}

const SUGGESTIONS = [
  'What is the capital of France?',
  'Explain forward secrecy to a child.',
  'Write a haiku about the sea.',
];

function Welcome({ talk }: { talk: Talk }) {
  const { phase } = talk.store.state;
  return (
    <div class="welcome">
      <Icon name="lock" />
      <h1>Nobody on the way reads this</h1>
      <p>
        What you ask is sealed in this page and opened by the node, and the answer comes back the same way.
        The node's operator can read it; proxies, networks and whoever records them cannot.
      </p>
      <div class="suggestions">
        {SUGGESTIONS.map((text) => (
          <button key={text} type="button" disabled={phase !== 'open'} onClick={() => talk.ask(text)}>
            {text}
          </button>
        ))}
      </div>
    </div>
  );
}

function Said({ message, talk, isLast }: { message: Message; talk: Talk; isLast: boolean }) {
  const { role, text, state, problem, reasoning, tokens } = message;
  const name = role === 'user' ? 'You' : 'The model';
  return (
    <article class={`said ${role} ${state}`} aria-label={name} aria-busy={state === 'streaming'}>
      <h2 class="hidden">{name}</h2>
      {reasoning && (
        <details class="reasoning">
          <summary>Thoughts</summary>
          <p>{reasoning}</p>
        </details>
      )}
      {role === 'user' ? (
        <p class="text">{text}</p>
      ) : (
        <Markdown text={text} streaming={state === 'streaming'} />
      )}
      {problem && (
        <p class="problem">
          <Icon name="alert" /> {problem}
        </p>
      )}
      {role === 'assistant' && state !== 'streaming' && (
        <p class="actions">
          <Copy text={text} what="the answer" />
          {isLast && (
            <button type="button" class="plain" onClick={() => talk.again()}>
              <Icon name="again" /> Regenerate
            </button>
          )}
          <small>
            {state === 'stopped' ? 'stopped · ' : ''}
            {tokens !== undefined ? `${tokens} tokens` : ''}
          </small>
        </p>
      )}
    </article>
  );
}

const LONG = 8192;
const STEP = 1024;

function Markdown({ text, streaming }: { text: string; streaming: boolean }) {
  // All of it is made anew with every word: of a long one less often, until it is whole.
  const shown = streaming && text.length > LONG ? text.slice(0, text.length - (text.length % STEP)) : text;
  const html = useMemo(() => ({ __html: render(shown) }), [shown]);
  const body = useRef<HTMLDivElement>(null);
  useEffect(() => {
    for (const code of body.current?.querySelectorAll('pre') ?? []) addCopy(code);
  }, [shown]);
  if (streaming && !text) {
    return (
      <p class="waiting">
        <span class="hidden">Waiting for the first words</span>
        <i />
        <i />
        <i />
      </p>
    );
  }
  return <div class="markdown" ref={body} dangerouslySetInnerHTML={html} />;
}

function addCopy(pre: HTMLPreElement): void {
  const button = document.createElement('button');
  button.type = 'button';
  button.className = 'copy-code';
  button.textContent = 'Copy';
  button.setAttribute('aria-label', 'Copy this code');
  const code = pre.textContent ?? '';
  button.addEventListener('click', async () => {
    button.textContent = (await copy(code)) ? 'Copied' : 'Not allowed';
  });
  pre.tabIndex = 0;
  pre.append(button);
}

/** Pages that are not secure get no clipboard. */
async function copy(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}

function Copy({ text, what }: { text: string; what: string }) {
  const [outcome, setOutcome] = useState<'none' | 'done' | 'refused'>('none');
  const words = { none: 'Copy', done: 'Copied', refused: 'Not allowed here' }[outcome];
  return (
    <button
      type="button"
      class="plain"
      aria-label={outcome === 'none' ? `Copy ${what}` : words}
      onClick={async () => setOutcome((await copy(text)) ? 'done' : 'refused')}
    >
      <Icon name={outcome === 'done' ? 'done' : 'copy'} /> {words}
    </button>
  );
}
