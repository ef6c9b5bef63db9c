/** Begins. */

import { render } from 'preact';
import { App } from './app.js';
import { Talk } from './talk.js';
import { askForWallets } from './wallets.js';

const talk = new Talk();
askForWallets();
render(<App talk={talk} />, document.getElementById('page') as HTMLElement);
void talk.connect();
