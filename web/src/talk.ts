/** The talk with the node: who it is, the session, and what is said. */

import {
  type Address,
  type Answer,
  type Capture,
  ConnectError,
  connect,
  type FabstirError,
  parseAddress,
  Refused,
  type Session,
  safetyWords,
} from '@fabstir/sdk';
import { wordlist } from '@scure/bip39/wordlists/english.js';
import { ended, problemOf, sentence } from './problem.js';
import type { Conversation, Frame, Message, Pin, State, Who } from './state.js';
import { Store } from './store.js';
import { isThere, onOthers, Vault } from './vault.js';
import type { Found } from './wallets.js';

const MOST_FRAMES = 400;
const SHOWN_BYTES = 20;
const KINDS = ['', 'handshake 1', 'handshake 2', 'handshake 3', 'resume 1', 'resume 2', 'record'];
const PIN = 'node';

const words = (address: Address) => safetyWords(address, wordlist);
const hex = (bytes: Uint8Array) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join(' ');

export function emptyConversation(): Conversation {
  return {
    id: crypto.getRandomValues(new Uint32Array(2)).join('-'),
    title: 'New conversation',
    messages: [],
  };
}

export class Talk {
  readonly store: Store<State>;
  #session: Session | undefined;
  /** Those that are coming, by their conversations. */
  readonly #answers = new Map<string, Answer>();
  #vault: Vault | undefined;
  #pin: { address: Address; from: Pin } | undefined;

  constructor() {
    const first = emptyConversation();
    this.store = new Store<State>({
      phase: 'connecting',
      problem: undefined,
      who: undefined,
      shape: undefined,
      models: [],
      model: undefined,
      wallet: undefined,
      asking: undefined,
      system: 'You are a helpful assistant.',
      temperature: 0.7,
      longest: 1024,
      conversations: [first],
      current: first.id,
      frames: [],
      keeping: isThere() ? 'locked' : 'no',
      announcement: '',
    });
    // Two tabs that keep would overwrite each other's: whoever hears of the other unlocks again, which puts both together.
    onOthers((there) => {
      this.#vault = undefined;
      this.store.set({ keeping: there ? 'locked' : 'no' });
    });
  }

  get #state(): State {
    return this.store.state;
  }

  get conversation(): Conversation {
    const { conversations, current } = this.#state;
    return conversations.find(({ id }) => id === current) ?? (conversations[0] as Conversation);
  }

  get isAnswering(): boolean {
    return this.conversation.messages.at(-1)?.state === 'streaming';
  }

  /** Opens a session; with a wallet, in its name. What there was stays until the new one is open. */
  async connect(wallet?: Found): Promise<void> {
    const before = this.#session?.isOpen ? this.#session : undefined;
    this.store.set({ problem: undefined, ...(before ? { asking: wallet?.name } : { phase: 'connecting' }) });
    let who = this.#state.who;
    try {
      who = await this.#whoIsThere();
      if (!before) this.store.set({ who });
      const session = await this.#open(who, wallet);
      this.#session = session;
      const { shape, welcome } = session;
      this.store.set({
        phase: 'open',
        who,
        shape,
        models: welcome.models,
        model: this.#state.model ?? welcome.models[0]?.id,
        wallet: wallet?.name,
        asking: undefined,
        announcement: 'Connected.',
      });
      // What it was answering it still answers.
      if (before) void Promise.allSettled(this.#answers.values()).then(() => before.close());
    } catch (error) {
      const phase = before?.isOpen ? this.#state.phase : 'ended';
      this.store.set({ phase, asking: undefined, problem: problemOf(error, who) });
    }
  }

  async #open(who: Who, wallet: Found | undefined): Promise<Session> {
    let session: Session | undefined;
    session = await connect({
      url: `${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/v1/ws`,
      nodeKey: who.address,
      ...(wallet && { wallet: wallet.provider }),
      onFrame: this.#capture,
      onConnection: (state, why) => session && this.#session === session && this.#connection(state, why),
    });
    return session;
  }

  /** The page is left: the node need not go on for nobody. */
  leave(): void {
    const session = this.#session;
    this.#session = undefined;
    session?.close();
  }

  /** Another link to this page: it may pin another node. */
  repin(): void {
    this.leave();
    this.#pin = undefined;
    void this.connect();
  }

  /** Goes on with the session that there is. */
  dismiss(): void {
    this.store.set({ problem: undefined });
  }

  /** The person has compared the words: from now on this node must prove to be this one. */
  compared(): void {
    const { who } = this.#state;
    if (!who) return;
    localStorage.setItem(PIN, who.address);
    this.store.set({ who: { ...who, pin: 'compared' } });
  }

  /** The person knows that the node has another identity now. */
  acceptOther(): void {
    localStorage.removeItem(PIN);
    history.replaceState(null, '', location.pathname);
    this.#pin = undefined;
    void this.connect();
  }

  /** Asks, and lets the answer come. */
  async ask(text: string): Promise<void> {
    const { conversation } = this;
    if (!this.#session || this.isAnswering || text.trim() === '') return;
    const title = conversation.messages.length === 0 ? text.trim().slice(0, 60) : conversation.title;
    this.#change(conversation.id, {
      title,
      messages: [...conversation.messages, { role: 'user', text, state: 'done' }],
    });
    await this.#answerTo(conversation.id);
  }

  /** The last answer once more. */
  async again(): Promise<void> {
    const { id, messages } = this.conversation;
    if (this.isAnswering) return;
    const last = messages.findLastIndex(({ role }) => role === 'user');
    if (last < 0) return;
    this.#change(id, { messages: messages.slice(0, last + 1) });
    await this.#answerTo(id);
  }

  stop(): void {
    this.#answers.get(this.conversation.id)?.cancel();
  }

  start(): void {
    const empty = this.#state.conversations.find(({ messages }) => messages.length === 0);
    const next = empty ?? emptyConversation();
    const conversations = empty ? this.#state.conversations : [next, ...this.#state.conversations];
    this.store.set({ conversations, current: next.id });
  }

  choose(id: string): void {
    this.store.set({ current: id });
  }

  async remove(id: string): Promise<void> {
    this.#answers.get(id)?.cancel();
    const left = this.#state.conversations.filter((one) => one.id !== id);
    const conversations = left.length > 0 ? left : [emptyConversation()];
    const current = this.#state.current === id ? (conversations[0] as Conversation).id : this.#state.current;
    this.store.set({ conversations, current });
    await this.#save();
  }

  /** From now on conversations are kept on this device. */
  async keep(passphrase: string): Promise<void> {
    this.#vault = await Vault.make(passphrase);
    this.store.set({ keeping: 'yes' });
    await this.#save();
  }

  /** False for another passphrase. */
  async unlock(passphrase: string): Promise<boolean> {
    const opened = await Vault.open(passphrase);
    if (!opened) return false;
    this.#vault = opened.vault;
    const kept = (opened.kept as Conversation[]).filter(({ messages }) => messages.length > 0);
    const ours = this.#state.conversations.filter(({ messages }) => messages.length > 0);
    const conversations = [...ours, ...kept.filter(({ id }) => !ours.some((one) => one.id === id))];
    if (conversations.length === 0) conversations.push(emptyConversation());
    this.store.set({ keeping: 'yes', conversations, current: (conversations[0] as Conversation).id });
    await this.#save();
    return true;
  }

  dropVault(): void {
    this.#vault = undefined;
    this.store.set({ keeping: 'no' });
  }

  async #answerTo(id: string): Promise<void> {
    const session = this.#session;
    const asked = this.#state.conversations.find((one) => one.id === id);
    if (!session || !asked) return;
    const { system, temperature, longest, model } = this.#state;
    const history = asked.messages
      .filter(({ state }) => state !== 'failed')
      .map(({ role, text }) => ({ role, content: text }));
    const messages = system.trim() ? [{ role: 'system' as const, content: system }, ...history] : history;
    const answer = session.chat({ messages, temperature, max_tokens: longest, ...(model && { model }) });
    this.#answers.set(id, answer);
    const question: Message = { ...(asked.messages.at(-1) as Message), ...this.#lastRecord('sent') };
    let said: Message = { role: 'assistant', text: '', state: 'streaming' };
    const show = (change: Partial<Message>) => {
      said = { ...said, ...change };
      this.#change(id, { messages: [...asked.messages.slice(0, -1), question, said] });
    };
    show({});
    try {
      for await (const { text, choice } of answer) {
        const reasoning = choice?.delta?.reasoning_content;
        const wire = said.wire === undefined ? this.#lastRecord('received') : {};
        show({
          text: said.text + text,
          ...wire,
          ...(reasoning && { reasoning: (said.reasoning ?? '') + reasoning }),
        });
      }
      const { finishReason, usage } = await answer;
      const stopped = finishReason === 'cancelled';
      show({ state: stopped ? 'stopped' : 'done', tokens: usage.completion_tokens });
      if (finishReason === 'length') show({ problem: 'The answer reached its longest length.' });
      this.store.set({ announcement: stopped ? 'Stopped.' : 'The answer is complete.' });
    } catch (error) {
      show({ state: 'failed', problem: sentence(error) });
      this.store.set({ announcement: `The answer failed. ${sentence(error)}` });
    } finally {
      this.#answers.delete(id);
    }
    await this.#save();
  }

  #lastRecord(direction: Frame['direction']): { wire?: string } {
    const record = this.#state.frames.findLast(
      (frame) => frame.what === 'record' && frame.direction === direction,
    );
    return record ? { wire: record.shown } : {};
  }

  #change(id: string, change: Partial<Conversation>): void {
    const conversations = this.#state.conversations.map((one) =>
      one.id === id ? { ...one, ...change } : one,
    );
    this.store.set({ conversations });
  }

  async #save(): Promise<void> {
    // An answer that is still coming is kept as far as it is.
    const settled = (message: Message): Message =>
      message.state === 'streaming' ? { ...message, state: 'stopped' } : message;
    const kept = this.#state.conversations.map((one) => ({ ...one, messages: one.messages.map(settled) }));
    await this.#vault?.save(kept);
  }

  async #whoIsThere(): Promise<Who> {
    const answer = await fetch('/page.json', { cache: 'no-store' }).catch(() => undefined);
    if (!answer?.ok) throw new ConnectError('it does not answer');
    const { served_by: servedBy, node } = (await answer.json()) as {
      served_by: Who['servedBy'];
      node: string | null;
    };
    if (!node)
      throw new Refused('ENCRYPTION_NOT_SUPPORTED', 'it has no key, and this page says nothing in the clear');
    this.#pin ??= pinned(servedBy, parseAddress(node));
    const { address, from } = this.#pin;
    return { address, words: words(address), pin: from, servedBy };
  }

  #connection(state: 'open' | 'lost' | 'closed', why: FabstirError | undefined): void {
    if (state === 'lost')
      this.store.set({ phase: 'lost', announcement: 'The connection was lost. Trying again.' });
    else if (state === 'open') this.store.set({ phase: 'open', announcement: 'Connected.' });
    else this.store.set({ phase: 'ended', problem: ended(why, this.#state.who) });
  }

  readonly #capture: Capture = (direction, frame) => {
    const bytes = typeof frame === 'string' ? new TextEncoder().encode(frame) : frame;
    const shown =
      typeof frame === 'string' ? frame.slice(0, 3 * SHOWN_BYTES) : hex(bytes.subarray(0, SHOWN_BYTES));
    const what = typeof frame === 'string' ? 'text' : (KINDS[bytes[1] ?? 0] ?? 'unknown');
    const entry: Frame = { at: Date.now(), direction, what, length: bytes.length, shown };
    this.store.set({ frames: [...this.#state.frames.slice(1 - MOST_FRAMES), entry] });
  };
}

/** Who the node must be: by the proxy, by the link that led here, by an earlier comparison, or by its own word. */
function pinned(servedBy: Who['servedBy'], own: Address): { address: Address; from: Pin } {
  if (servedBy === 'proxy') return { address: own, from: 'proxy' };
  const link = new URLSearchParams(location.hash.slice(1)).get('node');
  if (link) return { address: parseAddress(link), from: 'link' };
  const kept = localStorage.getItem(PIN);
  if (kept && /^0x[0-9a-f]{40}$/.test(kept)) return { address: parseAddress(kept), from: 'compared' };
  return { address: own, from: 'unknown' };
}
