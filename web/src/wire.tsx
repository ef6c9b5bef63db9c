/** What really travels, beside what is said. */

import { Aside } from './aside.js';
import type { Talk } from './talk.js';

const time = (at: number) => new Date(at).toLocaleTimeString(undefined, { hour12: false });

export function Wire({ talk, close }: { talk: Talk; close: () => void }) {
  const { frames } = talk.store.state;
  const { messages } = talk.conversation;
  const bytes = frames.reduce((sum, { length }) => sum + length, 0);
  const said = messages.slice(-2);
  return (
    <Aside title="On the wire" close={close}>
      <p>
        On the left of each pair what was said, on the right all that anybody on the way has of it. Sizes come
        in buckets; which record asks, answers or ends cannot be told.
      </p>
      {said.length > 0 && (
        <dl class="pairs">
          {said.map(({ role, text, wire }) => (
            <div key={role}>
              <dt>{text.slice(0, 140) || '…'}</dt>
              <dd class="mono">{wire ? `${wire} …` : '…'}</dd>
            </div>
          ))}
        </dl>
      )}
      <p>
        <small>
          {frames.length} frames, {bytes.toLocaleString()} bytes
        </small>
      </p>
      <table>
        <caption class="hidden">Frames, the newest first</caption>
        <thead>
          <tr>
            <th scope="col">Time</th>
            <th scope="col">Frame</th>
            <th scope="col">Bytes</th>
            <th scope="col">Begins with</th>
          </tr>
        </thead>
        <tbody>
          {frames.toReversed().map(({ at, direction, what, length, shown }, i) => (
            <tr key={frames.length - i} class={direction}>
              <td>{time(at)}</td>
              <td>
                <span aria-hidden="true">{direction === 'sent' ? '↑ ' : '↓ '}</span>
                <span class="hidden">{direction} </span>
                {what}
              </td>
              <td>{length}</td>
              <td class="mono">{shown}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Aside>
  );
}
