/** Where one asks. */

import { useEffect, useRef, useState } from 'preact/hooks';
import { Icon } from './icons.js';
import type { Talk } from './talk.js';

export function Composer({ talk }: { talk: Talk }) {
  const { phase, current } = talk.store.state;
  const [text, setText] = useState('');
  const field = useRef<HTMLTextAreaElement>(null);
  const answering = talk.isAnswering;
  const ready = (phase === 'open' || phase === 'lost') && !answering && text.trim() !== '';

  useEffect(() => {
    field.current?.focus();
  }, [current]);
  useEffect(() => {
    const area = field.current;
    if (!area) return;
    area.style.height = 'auto';
    area.style.height = `${Math.min(area.scrollHeight, 220)}px`;
  }, [text]);

  const send = () => {
    if (!ready) return;
    void talk.ask(text);
    setText('');
  };
  return (
    <form
      class="composer"
      onSubmit={(event) => {
        event.preventDefault();
        send();
      }}
    >
      <label class="hidden" for="question">
        Your question
      </label>
      <textarea
        id="question"
        ref={field}
        rows={1}
        placeholder="Ask something"
        value={text}
        onInput={(event) => setText(event.currentTarget.value)}
        onKeyDown={(event) => {
          if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
          event.preventDefault();
          send();
        }}
      />
      {answering ? (
        <button type="button" class="round" aria-label="Stop" onClick={() => talk.stop()}>
          <Icon name="stop" />
        </button>
      ) : (
        <button type="submit" class="round" aria-label="Send" disabled={!ready}>
          <Icon name="send" />
        </button>
      )}
      <p class="hint">
        <Icon name="lock" /> Sealed before it leaves this page. The operator of the node can read it.
      </p>
    </form>
  );
}
