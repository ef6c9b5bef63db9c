// What a handshake costs the client, without a network: npm run build && npm run bench. docs/performance.md has figures.

import { readFileSync } from 'node:fs';
import { PrivateKey } from '../dist/index.js';
import { verifyAdvertisement } from '../dist/v2/advertisement.js';
import { AwaitingM2 } from '../dist/v2/handshake.js';
import { Opener, Sealer, TO_CLIENT } from '../dist/v2/record.js';

const file = new URL('../../../vectors/v2/handshake.json', import.meta.url);
const { cases } = JSON.parse(readFileSync(file, 'utf8'));
const unhex = (text) => Uint8Array.from(Buffer.from(text, 'hex'));
const key = (text) => PrivateKey.read(unhex(text));
const [one] = cases;

function handshake() {
  const node = verifyAdvertisement(one.connected, one.node_address, one.now);
  const random = { ephemeral: key(one.client_ephemeral_key), kemSeed: unhex(one.kem_seed) };
  const { waiting } = AwaitingM2.start(node, key(one.client_static_key), random);
  waiting.finish(unhex(one.m2), undefined, JSON.parse(one.hello));
}

function records() {
  const [secret, sid] = [new Uint8Array(32), new Uint8Array(16)];
  const [sealer, opener] = [new Sealer(secret, sid, TO_CLIENT), new Opener(secret, sid, TO_CLIENT)];
  const record = { type: 'text', request: 1, index: 0, body: new TextEncoder().encode(' word') };
  for (; record.index < 1000; record.index++) opener.open(sealer.seal(record));
}

function measure(name, work, runs, unit = 1) {
  for (let i = 0; i < 10; i++) work();
  const times = [];
  for (let i = 0; i < runs; i++) {
    const begin = performance.now();
    work();
    times.push((performance.now() - begin) / unit);
  }
  times.sort((a, b) => a - b);
  const at = (share) => times[Math.floor(share * times.length)].toFixed(3);
  console.log(`${name}: median ${at(0.5)} ms, p95 ${at(0.95)} ms (${runs} runs)`);
}

measure('handshake, the client, certificate included', handshake, 100);
measure('a record of one token, sealed and opened', records, 20, 1000);
