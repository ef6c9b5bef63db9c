/** Whom one talks to, and what that is worth. */

import { checksum } from '@fabstir/sdk';
import { useState } from 'preact/hooks';
import { Aside } from './aside.js';
import type { Pin } from './state.js';
import type { Talk } from './talk.js';
import { wallets } from './wallets.js';

const PINS: Record<Pin, string> = {
  proxy: 'Your own proxy says which node it must be, and the node has proved it.',
  link: 'The link that led here says which node it must be, and the node has proved it.',
  compared: 'You have compared its words before, and the node has proved to be the same.',
  unknown:
    'The node has proved that it holds the key of this address. Whether it is the address of the node that you mean, only its operator can tell you, by another way.',
};

export function Identity({ talk, close }: { talk: Talk; close: () => void }) {
  const { who, shape, wallet, system, temperature, longest, models, model } = talk.store.state;
  return (
    <Aside title="Who is there" close={close}>
      {who && (
        <>
          <h3>The node</h3>
          <p class="mono address">{checksum(who.address)}</p>
          <p class="words">{who.words}</p>
          <p>{PINS[who.pin]}</p>
          {who.pin === 'unknown' && (
            <button type="button" class="primary" onClick={() => talk.compared()}>
              I have compared the words: they match
            </button>
          )}
          <h3>The channel</h3>
          <dl>
            <dt>Protocol</dt>
            <dd>version 2: forward secret, with a post-quantum key exchange</dd>
            <dt>Lengths</dt>
            <dd>{shape === 'off' ? 'shown as they are' : 'padded to buckets'}</dd>
            <dt>You</dt>
            <dd>{wallet ? `in the name of ${wallet}` : 'anonymous: a fresh key for this visit'}</dd>
          </dl>
          <Wallets talk={talk} />
          <h3>What it does not do</h3>
          <p>
            The node's operator can read what you say and what is answered: it has to open it to answer.
            Nobody in between can.
          </p>
          {who.servedBy === 'node' ? (
            <p>
              This page came from the node itself, so it can be trusted as far as the TLS that brought it. The
              page that <code>fabstir proxy</code> serves comes from your own machine.
            </p>
          ) : (
            <p>This page came from the proxy on your own machine; the node had no hand in it.</p>
          )}
        </>
      )}
      <h3>The conversation</h3>
      {models.length > 1 && (
        <label>
          Model
          <select value={model} onChange={(event) => talk.store.set({ model: event.currentTarget.value })}>
            {models.map(({ id }) => (
              <option key={id}>{id}</option>
            ))}
          </select>
        </label>
      )}
      {models.length === 1 && <p class="mono">{models[0]?.id}</p>}
      <label>
        What the model is told first
        <textarea
          rows={2}
          value={system}
          onInput={(event) => talk.store.set({ system: event.currentTarget.value })}
        />
      </label>
      <label>
        Temperature, {temperature.toFixed(1)}
        <input
          type="range"
          min="0"
          max="1.5"
          step="0.1"
          value={temperature}
          onInput={(event) => talk.store.set({ temperature: Number(event.currentTarget.value) })}
        />
      </label>
      <label>
        Longest answer, in tokens
        <input
          type="number"
          min="1"
          max="100000"
          value={longest}
          onInput={(event) =>
            talk.store.set({ longest: Math.max(1, event.currentTarget.valueAsNumber || 1) })
          }
        />
      </label>
    </Aside>
  );
}

function Wallets({ talk }: { talk: Talk }) {
  const { wallet, asking } = talk.store.state;
  const [found] = useState(wallets);
  if (wallet) {
    return (
      <button type="button" onClick={() => talk.connect()}>
        Go on without a wallet
      </button>
    );
  }
  if (asking) return <p>Waiting for {asking} to sign. Until then you go on as before.</p>;
  if (found.length === 0) return null;
  return (
    <p>
      {found.map((one) => (
        <button key={one.name} type="button" onClick={() => talk.connect(one)}>
          Ask in the name of {one.name}
        </button>
      ))}
      <small>It signs once, for a key that is kept in this page and ends after a day.</small>
    </p>
  );
}
