// Against a live node with ENGINE=echo: node live.mjs <ws://…/v1/ws> <0x address>

import { Client, Lost, delegateOf } from './client.mjs';
import { addressOf, writeAddress, readAddress } from './certificates.mjs';
import { secp256k1 } from '@noble/curves/secp256k1.js';

const [url, pinned] = process.argv.slice(2);
const prompt = Array.from({ length: 900 }, (_, i) => `word${i}`).join(' ');
let bad = 0;
const say = (what, ok) => {
  console.log(`${ok ? 'ok  ' : 'BAD '} ${what}`);
  if (!ok) bad++;
};

async function ask(client, question) {
  let answer = '';
  const request = client.request('chat', { model: 'echo', prompt: question });
  for await (const said of client.answer(request)) answer += said.text ?? '';
  return answer;
}

// Reads a few records, cuts the socket, comes back by `again`, and reads the rest.
async function cut(client, after, again) {
  const request = client.request('chat', { model: 'echo', messages: [{ role: 'user', content: prompt }] });
  let answer = '';
  let records = 0;
  let end;
  const read = async () => {
    for await (const said of client.answer(request)) {
      if (said.index === 0) answer = '';
      answer += said.text ?? '';
      end = said.end ? said.value : undefined;
      if (++records === after) {
        client.frames.socket.terminate();
        client.frames.came.length = 0;
      }
    }
  };
  if (after === 0) client.frames.socket.terminate();
  const lost = await read().then(() => false, (error) => error instanceof Lost);
  const before = answer.length;
  await again();
  await read();
  return { lost, before, whole: answer === prompt, answer, records, end, known: client.welcome.known };
}

const anonymous = new Client(url, { pinned });
await anonymous.connect();
say('an anonymous question', (await ask(anonymous, 'one two three')) === 'one two three');
const first = await cut(anonymous, 1, async () => say('  a ticket is taken', await anonymous.resume()));
say(`a cut and a ticket: ${first.before} of ${prompt.length} characters before, known ${first.known}`,
  first.lost && first.whole && first.end);
const second = await cut(anonymous, 1, async () => say('  the next ticket is taken', await anonymous.resume()));
say(`again, with the ticket of r2: ${second.before} before, known ${second.known}`, second.lost && second.whole);
const third = await cut(anonymous, 1, () => anonymous.connect());
say(`a cut and a claim: ${third.before} before, known ${third.known}`, third.lost && third.whole);
const fourth = await cut(anonymous, 1, async () => {
  anonymous.resumeWith = { ...anonymous.resumeWith, id: new Uint8Array(32) };
  say('  an unknown ticket is refused', !(await anonymous.resume()));
  await anonymous.connect();
});
say(`a ticket that is unknown, then a claim: ${fourth.before} before`, fourth.lost && fourth.whole);
anonymous.goodbye();

const walletKey = secp256k1.utils.randomSecretKey();
const wallet = writeAddress(addressOf(secp256k1.getPublicKey(walletKey)));
const delegated = new Client(url, { pinned, ...delegateOf(walletKey, { node: readAddress(pinned) }) });
await delegated.connect();
say(`a delegation of ${wallet}`, (await ask(delegated, 'for my wallet')) === 'for my wallet');
const claimed = await cut(delegated, 1, () => delegated.connect());
say('a claim with a delegation', claimed.lost && claimed.whole);
delegated.goodbye();

const wrong = delegateOf(walletKey, { node: new Uint8Array(20).fill(1) });
for (const [what, options, wanted] of [
  ['a delegation for another node', { pinned, ...wrong }, 'CERTIFICATE_INVALID'],
  ['another key than is delegated', { pinned, ...delegateOf(walletKey), staticKey: walletKey }, 'CERTIFICATE_INVALID'],
  ['another identity', { pinned: '0x' + '11'.repeat(20) }, undefined],
]) {
  const refused = await new Client(url, options).connect().then(() => null, (error) => error);
  say(`${what}: ${refused?.message}`, refused && refused.code === wanted);
}

const off = new Client(url, { pinned, shape: 'off', ticket: false });
await off.connect();
say(`without padding (${off.welcome.shape}, ticket ${off.welcome.ticket})`, (await ask(off, 'a b')) === 'a b');
off.goodbye();

const many = new Client(url, { pinned, shape: 'off' });
await many.connect();
for (const after of [0, 0, 1, 1, 1, 1, 1, 1]) {
  const one = await cut(many, after, async () => say('  a ticket is taken', await many.resume()));
  say(`unpadded, cut after ${after}: ${one.before} characters before, known ${one.known}`, one.lost && one.whole);
}
many.goodbye();

// From TCP to the opened welcome, node's work included.
const times = [];
for (let i = 0; i < 50; i++) {
  const client = new Client(url, { pinned });
  const begin = performance.now();
  await client.connect();
  times.push(performance.now() - begin);
  client.goodbye();
}
times.sort((a, b) => a - b);
console.log(`connect to welcome: median ${times[25].toFixed(1)} ms, ${times[0].toFixed(1)} to ${times[49].toFixed(1)}`);
process.exitCode = bad ? 1 : 0;
