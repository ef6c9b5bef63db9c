// A client of version 2 of the protocol (protocol.md, part 2): one question, one answer.
//
//   node client.mjs ws://127.0.0.1:8080/v1/ws 0x<the node's address> "the question"

import { pathToFileURL } from 'node:url';
import { secp256k1 } from '@noble/curves/secp256k1.js';
import WebSocket from 'ws';
import { Refused, hex, utf8 } from './bytes.mjs';
import { verifyNode, delegate } from './certificates.mjs';
import { FullHandshake, Resumption } from './noise.mjs';
import { Sealer, Opener, MAX_BODY, TO_NODE, TO_CLIENT } from './records.mjs';
import { Answers, readWelcome, readError } from './answers.mjs';

const ACK_EVERY = 64; // 2.5.4
const NAME = 'fabstir-example/0.1';

export class Lost extends Error {}

// What the node refuses by a code of part 3.
export class NodeError extends Error {
  constructor({ code, message, retry_after_ms }) {
    super(`${code}: ${message}`);
    Object.assign(this, { code, retryAfter: retry_after_ms });
  }
}

// A WebSocket whose frames are waited for, one after the other.
class Frames {
  static open(url) {
    return new Promise((resolve, reject) => {
      const socket = new WebSocket(url, { perMessageDeflate: false }); // 1.1.1
      const frames = new Frames(socket);
      socket.once('open', () => resolve(frames));
      socket.once('error', reject);
    });
  }

  constructor(socket) {
    this.socket = socket;
    this.came = [];
    const put = (frame) => {
      this.came.push(frame);
      this.wake?.();
    };
    socket.on('message', (data, binary) => put(binary ? new Uint8Array(data) : data.toString('utf8')));
    socket.on('close', () => put(null));
    socket.on('error', () => {});
  }

  async next() {
    while (!this.came.length) await new Promise((resolve) => { this.wake = resolve; });
    if (this.came[0] === null) throw new Lost('the connection was lost');
    return this.came.shift();
  }

  // Until the session is open a text frame is an error, which ends the attempt (2.1.4); later it means nothing.
  async binary(open) {
    for (;;) {
      const frame = await this.next();
      if (typeof frame !== 'string') return frame;
      if (!open) throw new NodeError(readError(frame));
    }
  }

  send(bytes) {
    this.socket.send(bytes);
  }
}

export class Client {
  // options: pinned (the node's address), staticKey and delegation where the client is not anonymous, shape, ticket.
  constructor(url, { pinned, staticKey, delegation, shape = 'bucket', ticket = true }) {
    Object.assign(this, { url, pinned, delegation, shape, ticket });
    this.staticKey = staticKey ?? secp256k1.utils.randomSecretKey();
    this.answers = new Answers();
    this.requests = new Map(); // what was sent and is not answered
    this.lastRequest = 0;
  }

  // A full handshake (2.3). With a session's name it is claimed back (2.6.4).
  async connect() {
    await this.attempt(async (frames, first) => {
      const node = verifyNode(first, this.pinned, Math.floor(Date.now() / 1000));
      const handshake = new FullHandshake(node, this.staticKey);
      frames.send(handshake.m1());
      const hello = { client: NAME, shape: this.shape, ticket: this.ticket };
      if (this.session) hello.claim = { session: this.session, received: this.answers.received() };
      const m2 = await frames.binary(false);
      frames.send(handshake.m3(m2, this.delegation ?? new Uint8Array(0), JSON.stringify(hello)));
      this.begin(frames, handshake.end());

      // Nothing holds before the node's welcome opened (2.3.9, 2.5.1).
      const said = this.answers.take(this.opener.open(await frames.binary(false)));
      if (said.type === 'error' && said.end) throw new NodeError(said.error);
      if (said.type !== 'welcome') throw new Refused('order', 'no welcome');
      if (!this.session || !said.welcome.known) this.session = hex(this.sid);
      this.welcomed(said.welcome);
    });
  }

  // A resumption (2.6). False where there is no ticket or the node refuses it: then connect() claims the session.
  async resume() {
    const ticket = this.resumeWith;
    this.resumeWith = undefined; // it works once
    if (!ticket) return false;
    try {
      await this.attempt(async (frames) => {
        const handshake = new Resumption(ticket); // its secret proves the node, whatever `connected` says
        frames.send(handshake.r1(JSON.stringify({ received: this.answers.received(), shape: this.shape })));
        const welcome = readWelcome(handshake.welcome(await frames.binary(false)));
        this.begin(frames, handshake.end());
        this.welcomed(welcome);
      });
      return true;
    } catch (error) {
      if (error.code === 'RESUMPTION_REFUSED') return false;
      throw error;
    }
  }

  // A new connection; it is closed where `handshake` fails.
  async attempt(handshake) {
    const frames = await Frames.open(this.url);
    try {
      const first = await frames.next();
      if (typeof first !== 'string') throw new Refused('malformed', 'the first frame is not text');
      await handshake(frames, first);
    } catch (error) {
      frames.socket.terminate();
      throw error;
    }
  }

  begin(frames, { sid, toNode, toClient, ticket }) {
    this.frames = frames;
    this.sid = sid;
    this.sealer = new Sealer(toNode, sid, TO_NODE);
    this.opener = new Opener(toClient, sid, TO_CLIENT);
    this.sealer.shape = this.shape;
    this.nextTicket = ticket;
    this.answers.newHandshake();
    this.control = 0; // the next index of our records under request 0
  }

  welcomed(welcome) {
    this.welcome = welcome;
    this.sealer.shape = welcome.shape === 'off' ? 'off' : 'bucket';
    this.resumeWith = welcome.ticket ? this.nextTicket : undefined;
    // 2.6.3: what the node does not know is sent again; of a new session nothing is (2.6.4).
    for (const [request, body] of this.requests) {
      if (!welcome.known) this.drop(request);
      else if (!welcome.known.includes(request)) {
        this.answers.expect(request);
        this.sendRequest(request, body);
      }
    }
  }

  drop(request) {
    this.requests.delete(request);
    this.answers.open.delete(request);
  }

  // Sends a request (2.5.2) and gives its id.
  request(op, body) {
    const request = ++this.lastRequest;
    const whole = utf8(JSON.stringify({ op, body }));
    this.requests.set(request, whole);
    this.answers.expect(request);
    this.sendRequest(request, whole);
    return request;
  }

  sendRequest(request, whole) {
    for (let at = 0, index = 0; at < whole.length; at += MAX_BODY, index++) {
      const last = at + MAX_BODY >= whole.length;
      const body = whole.subarray(at, at + MAX_BODY);
      this.frames.send(this.sealer.seal({ type: 'request', request, index, last, body }));
    }
  }

  sendControl(type, value, last = false) {
    const body = utf8(JSON.stringify(value));
    this.frames.send(this.sealer.seal({ type, request: 0, index: this.control++, last, body }));
  }

  // The answer to a request, piece by piece, to its end. After a Lost and a resume() it goes on; where it comes
  // with index 0 once more, it begins anew, and what came before is void. One answer at a time: what comes of
  // others meanwhile is passed over.
  async *answer(request) {
    for (;;) {
      if (!this.requests.has(request)) throw new Error('the answer was truncated');
      const said = this.answers.take(this.opener.open(await this.frames.binary(true)));
      if (said.request === 0 && said.end) {
        throw said.error ? new NodeError(said.error) : new Lost('the node said goodbye');
      }
      if (said.request !== request) continue;
      if (said.end) this.requests.delete(request);
      if (said.end || (said.index + 1) % ACK_EVERY === 0) {
        this.sendControl('ack', { received: [[request, said.index]] });
      }
      if (said.type === 'error') throw new NodeError(said.error);
      if (said.type !== 'part') yield said;
      if (said.end) return;
    }
  }

  goodbye() {
    this.sendControl('goodbye', {}, true);
    this.sealer.wipe();
    this.opener.wipe();
    this.frames.socket.close();
  }
}

// A delegate key for a day, signed by the wallet whose key is at hand (2.2.3).
export function delegateOf(walletKey, options = {}) {
  const staticKey = secp256k1.utils.randomSecretKey();
  const now = Math.floor(Date.now() / 1000);
  const delegation = delegate(walletKey, secp256k1.getPublicKey(staticKey),
    { notBefore: now - 60, notAfter: now + 24 * 3600, ...options });
  return { staticKey, delegation };
}

async function main([url, pinned, question]) {
  if (!question) {
    console.error('usage: node client.mjs <ws://…/v1/ws> <0x address of the node> <question>');
    process.exit(2);
  }
  const client = new Client(url, { pinned: pinned.toLowerCase() });
  await client.connect();
  const request = client.request('chat', { model: client.welcome.models[0].id, prompt: question });
  for await (const said of client.answer(request)) {
    if (said.type === 'text') process.stdout.write(said.text);
    else if (said.end) console.log(`\n[${said.value.finish_reason}]`);
    else process.stdout.write(said.value?.delta?.content ?? '');
  }
  client.goodbye();
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) await main(process.argv.slice(2));
