/** What the page knows and shows. */

import type { Address, Model, Shape } from '@fabstir/sdk';

/** Where the pin comes from, from the best to the least. */
export type Pin = 'proxy' | 'link' | 'compared' | 'unknown';

export interface Who {
  address: Address;
  words: string;
  pin: Pin;
  servedBy: 'node' | 'proxy';
}

export interface Message {
  role: 'user' | 'assistant';
  text: string;
  reasoning?: string;
  state: 'streaming' | 'done' | 'stopped' | 'failed';
  /** Why it failed, for a person. */
  problem?: string;
  tokens?: number;
  /** How a record of it travelled. */
  wire?: string;
}

export interface Conversation {
  id: string;
  title: string;
  messages: Message[];
}

/** A frame as it travels. */
export interface Frame {
  at: number;
  direction: 'sent' | 'received';
  what: string;
  length: number;
  shown: string;
}

export interface Problem {
  title: string;
  text: string;
  /** Who is there instead of who was expected. */
  shown?: { expected: Address; found: Address };
  mayRetry: boolean;
}

export interface State {
  phase: 'connecting' | 'open' | 'lost' | 'ended';
  problem: Problem | undefined;
  who: Who | undefined;
  shape: Shape | undefined;
  models: Model[];
  model: string | undefined;
  wallet: string | undefined;
  /** The wallet that is being asked. */
  asking: string | undefined;
  system: string;
  temperature: number;
  longest: number;
  conversations: Conversation[];
  current: string;
  frames: Frame[];
  keeping: 'no' | 'locked' | 'yes';
  /** Read out by screen readers. */
  announcement: string;
}
