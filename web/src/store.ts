/** What the page knows, and who is told when it changes. */

import { useEffect, useState } from 'preact/hooks';

export class Store<T extends object> {
  #state: T;
  readonly #listeners = new Set<() => void>();
  #due = false;

  constructor(state: T) {
    this.#state = state;
  }

  get state(): T {
    return this.#state;
  }

  /** Changes are told together, once a frame: words come faster than anybody sees. */
  set(change: Partial<T>): void {
    this.#state = { ...this.#state, ...change };
    if (this.#due) return;
    this.#due = true;
    const tell = () => {
      this.#due = false;
      for (const listener of this.#listeners) listener();
    };
    // A hidden page has no frames.
    if (document.hidden) setTimeout(tell, 100);
    else requestAnimationFrame(tell);
  }

  use(): T {
    const [, again] = useState(0);
    useEffect(() => {
      const listener = () => again((count) => count + 1);
      this.#listeners.add(listener);
      return () => {
        this.#listeners.delete(listener);
      };
    }, []);
    return this.#state;
  }
}
