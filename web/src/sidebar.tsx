/** The conversations, and whether they are kept. */

import { useState } from 'preact/hooks';
import { Icon } from './icons.js';
import type { State } from './state.js';
import type { Talk } from './talk.js';
import { forget, isPossible } from './vault.js';

export function Sidebar({
  talk,
  state,
  open,
  close,
}: {
  talk: Talk;
  state: State;
  open: boolean;
  close: () => void;
}) {
  const then = (work: () => void) => () => {
    work();
    close();
  };
  return (
    <nav class="sidebar" data-open={open} aria-label="Conversations">
      <button type="button" class="new" onClick={then(() => talk.start())}>
        <Icon name="plus" /> New conversation
      </button>
      <ul>
        {state.conversations.map(({ id, title }) => (
          <li key={id} class={id === state.current ? 'current' : ''}>
            <button type="button" aria-current={id === state.current} onClick={then(() => talk.choose(id))}>
              {title}
            </button>
            <button
              type="button"
              class="plain"
              aria-label={`Delete: ${title}`}
              onClick={() => talk.remove(id)}
            >
              <Icon name="trash" />
            </button>
          </li>
        ))}
      </ul>
      <Keeping talk={talk} keeping={state.keeping} />
    </nav>
  );
}

const TEXT = {
  no: 'Kept in this page alone: gone when it is closed.',
  locked: 'There are conversations of before, sealed.',
  yes: 'Kept on this device, sealed under your passphrase.',
};

function Keeping({ talk, keeping }: { talk: Talk; keeping: State['keeping'] }) {
  const [asking, setAsking] = useState(false);
  const [passphrase, setPassphrase] = useState('');
  const [problem, setProblem] = useState('');
  const submit = async (event: Event) => {
    event.preventDefault();
    setProblem('');
    if (keeping === 'no' && passphrase.length < 12) return setProblem('Twelve characters at least.');
    if (keeping === 'no') await talk.keep(passphrase);
    else if (!(await talk.unlock(passphrase)))
      return setProblem('Another passphrase, or something was changed.');
    setPassphrase('');
    setAsking(false);
  };
  const drop = () => {
    forget();
    talk.dropVault();
    setAsking(false);
  };
  return (
    <section class="keeping" aria-label="Keeping conversations">
      <p>{TEXT[keeping]}</p>
      {!isPossible && keeping === 'no' && (
        <p>They cannot be kept: this page did not come over TLS or from this machine.</p>
      )}
      {isPossible && keeping !== 'yes' && !asking && (
        <button type="button" onClick={() => setAsking(true)}>
          {keeping === 'no' ? 'Keep them on this device' : 'Unlock'}
        </button>
      )}
      {asking && keeping !== 'yes' && (
        <form onSubmit={submit}>
          <label>
            Passphrase
            <input
              type="password"
              autocomplete={keeping === 'no' ? 'new-password' : 'current-password'}
              value={passphrase}
              onInput={(event) => setPassphrase(event.currentTarget.value)}
            />
          </label>
          {keeping === 'no' && <small>Nobody can help if it is lost.</small>}
          {problem && (
            <p class="problem" role="alert">
              {problem}
            </p>
          )}
          <p class="row">
            <button type="submit" class="primary">
              {keeping === 'no' ? 'Keep' : 'Unlock'}
            </button>
            <button type="button" onClick={() => setAsking(false)}>
              Cancel
            </button>
          </p>
        </form>
      )}
      {keeping !== 'no' && (
        <button type="button" class="plain" onClick={drop}>
          Forget what is kept
        </button>
      )}
    </section>
  );
}
