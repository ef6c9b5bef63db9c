/** The page: who is there, what is said, and what travels. */

import { useEffect, useRef, useState } from 'preact/hooks';
import { Composer } from './composer.js';
import { Icon } from './icons.js';
import { Identity } from './identity.js';
import { Messages } from './messages.js';
import { Sidebar } from './sidebar.js';
import type { Talk } from './talk.js';
import { Wire } from './wire.js';

export type Panel = 'none' | 'identity' | 'wire' | 'conversations';

export function App({ talk }: { talk: Talk }) {
  const state = talk.store.use();
  const [panel, setPanel] = useState<Panel>('none');
  /** What opened the panel gets the focus back. */
  const opener = useRef<HTMLElement | null>(null);
  const close = () => {
    setPanel('none');
    opener.current?.focus();
  };
  const toggle = (which: Panel) => {
    opener.current = document.activeElement as HTMLElement | null;
    if (panel === which) close();
    else setPanel(which);
  };

  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      if (event.key !== 'Escape') return;
      if (talk.isAnswering) talk.stop();
      else close();
    };
    window.addEventListener('keydown', onKey);
    return () => window.removeEventListener('keydown', onKey);
  });

  return (
    <div class="app" data-panel={panel} data-phase={state.phase}>
      <a class="skip" href="#question">
        Skip to the question
      </a>
      <Sidebar talk={talk} state={state} open={panel === 'conversations'} close={close} />
      <div class="middle">
        <header class="bar">
          <button
            type="button"
            class="plain only-narrow"
            aria-expanded={panel === 'conversations'}
            aria-label="Conversations"
            onClick={() => toggle('conversations')}
          >
            <Icon name="menu" />
          </button>
          <Status talk={talk} open={panel === 'identity'} toggle={() => toggle('identity')} />
          <button
            type="button"
            class="plain"
            aria-expanded={panel === 'wire'}
            aria-label="What travels on the wire"
            onClick={() => toggle('wire')}
          >
            <Icon name="wire" />
            <span class="only-wide">On the wire</span>
          </button>
        </header>
        <main>
          <div class={state.problem && talk.conversation.messages.length > 0 ? 'both' : 'one'}>
            {state.problem && <Refusal talk={talk} />}
            {(!state.problem || talk.conversation.messages.length > 0) && (
              <Messages talk={talk} conversation={talk.conversation} />
            )}
          </div>
          <Composer talk={talk} />
        </main>
      </div>
      {panel === 'identity' && <Identity talk={talk} close={close} />}
      {panel === 'wire' && <Wire talk={talk} close={close} />}
      <p class="hidden" role="status" aria-live="polite">
        {state.announcement}
      </p>
    </div>
  );
}

const PHASES = {
  connecting: 'Opening a sealed session…',
  open: 'Sealed end to end',
  lost: 'Connection lost, trying again…',
  ended: 'No session',
};

function Status({ talk, open, toggle }: { talk: Talk; open: boolean; toggle: () => void }) {
  const { phase, who, wallet } = talk.store.state;
  const first = who?.words.split(' ').slice(0, 3).join(' ');
  return (
    <button type="button" class="status" aria-expanded={open} onClick={toggle}>
      <span class={`dot ${phase}`} />
      <span class="status-text">
        <strong>{PHASES[phase]}</strong>
        {who && (
          <small>
            {who.pin === 'unknown' ? 'not compared yet · ' : ''}
            {first} … · {wallet ? `as ${wallet}` : 'anonymous'}
          </small>
        )}
      </span>
    </button>
  );
}

function Refusal({ talk }: { talk: Talk }) {
  const { problem, phase } = talk.store.state;
  if (!problem) return null;
  return (
    <section class="refusal" role="alert">
      <Icon name="alert" />
      <h1>{problem.title}</h1>
      <p>{problem.text}</p>
      {problem.shown && (
        <dl>
          <dt>Expected</dt>
          <dd class="mono">{problem.shown.expected}</dd>
          <dt>Found</dt>
          <dd class="mono">{problem.shown.found}</dd>
        </dl>
      )}
      <p class="row">
        {problem.mayRetry && (
          <button type="button" class="primary" onClick={() => talk.connect()}>
            Try again
          </button>
        )}
        {phase === 'open' && (
          <button type="button" onClick={() => talk.dismiss()}>
            Go on as before
          </button>
        )}
        {problem.shown && (
          <button type="button" class="danger" onClick={() => talk.acceptOther()}>
            The operator told me: accept the new identity
          </button>
        )}
      </p>
    </section>
  );
}
