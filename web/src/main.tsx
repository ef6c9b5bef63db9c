/** Begins. */

import { render } from 'preact';
import { App } from './app.js';
import { Talk } from './talk.js';
import { askForWallets } from './wallets.js';

const talk = new Talk();
askForWallets();
render(<App talk={talk} />, document.getElementById('page') as HTMLElement);
void talk.connect();

window.addEventListener('hashchange', () => talk.repin());
window.addEventListener('pagehide', () => talk.leave());
// The way back may lead to the page as it was, without its session.
window.addEventListener('pageshow', ({ persisted }) => persisted && talk.connect());
