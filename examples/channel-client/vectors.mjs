// Holds this client to the vectors of version 2: node vectors.mjs [folder]

import { readFileSync } from 'node:fs';
import { secp256k1 } from '@noble/curves/secp256k1.js';
import { sha256 } from '@noble/hashes/sha2.js';
import { ml_kem768 } from '@noble/post-quantum/ml-kem.js';
import {
  Refused, hex, unhex, join, utf8, text, same, readJson, object, list, pair, string, flag, integer, hexOf,
} from './bytes.mjs';
import * as certificates from './certificates.mjs';
import {
  FullHandshake, Resumption, fullNoise, resumptionNoise, hintOf, unframe, pack, unpack,
} from './noise.mjs';
import { Sealer, Opener, checkRecord, TO_NODE, TO_CLIENT } from './records.mjs';
import { Answers, readWelcome } from './answers.mjs';

const folder = process.argv[2] ?? new URL('../../vectors/v2', import.meta.url).pathname;
const load = (name) => JSON.parse(readFileSync(`${folder}/${name}.json`, 'utf8'));

let met = 0;
let all = 0;
function group(name, cases, test) {
  let good = 0;
  for (const one of cases) {
    try {
      test(one);
      good++;
    } catch (error) {
      console.log(`  ${name}, ${one.name ?? one.why}: ${process.env.STACK ? error.stack : error.message}`);
    }
  }
  console.log(`${name}: ${good} of ${cases.length}`);
  met += good;
  all += cases.length;
}

function equal(what, got, wanted) {
  const written = got instanceof Uint8Array ? hex(got) : got;
  if (written !== wanted) throw new Error(`${what} is ${written}, not ${wanted}`);
}

function refuses(action, reason) {
  try {
    action();
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    if (reason) equal('the reason', error.reason, reason);
    return;
  }
  throw new Error('it was taken');
}

// --- Handshakes ---

const full = load('handshake');
const resumed = load('resume');
const rejected = load('rejected');
const caseOf = (file, name) => file.cases.find((one) => one.name === name);

function checkState(noise, state) {
  equal('ck', noise.ck, state.ck);
  equal('h', noise.h, state.h);
}

function checkEnd(end, wanted) {
  equal('h', end.h, wanted.h);
  equal('sid', end.sid, wanted.sid);
  equal('to_node_key', end.toNode, wanted.to_node_key);
  equal('to_client_key', end.toClient, wanted.to_client_key);
  equal('ticket_id', end.ticket.id, wanted.ticket_id);
  equal('ticket_psk', end.ticket.secret, wanted.ticket_psk);
}

function clientOf(one) {
  const node = certificates.verifyNode(one.connected, one.node_address, one.now);
  return new FullHandshake(node, unhex(one.client_static_key),
    { ephemeral: unhex(one.client_ephemeral_key), kemSeed: unhex(one.kem_seed) });
}

group('handshake.json, the client', full.cases, (one) => {
  const client = clientOf(one);
  equal('prologue', client.node.prologue, one.prologue);
  equal('m1', client.m1(), one.m1);
  checkState(client.noise, one.states[0]);
  const m3 = client.m3(unhex(one.m2), unhex(one.delegation), one.hello);
  equal('kem_secret', client.noise.psk, one.kem_secret);
  equal('m3', m3, one.m3);
  checkState(client.noise, one.states[2]);
  checkEnd(client.end(), one.end);
});

// The node's side, enough of it to judge the messages of clients.
class Node {
  constructor(one) {
    this.one = one;
    this.noise = fullNoise(false, unhex(one.prologue), { s: unhex(one.channel_key), e: unhex(one.node_ephemeral_key) });
  }

  m2(m1) {
    this.at = 'read';
    const message = unframe('m1', m1, (length) => length === 1239);
    this.at = 'hint';
    if (!same(message.subarray(0, 4), hintOf(unhex(this.one.channel_public_key)))) throw new Refused('hint');
    this.at = 'open';
    const encapsulationKey = this.noise.read(message.subarray(4));
    this.at = 'respond';
    try {
      const { cipherText, sharedSecret } = ml_kem768.encapsulate(encapsulationKey, unhex(this.one.kem_m));
      this.noise.psk = sharedSecret;
      return join([2, 2], this.noise.write(cipherText));
    } catch {
      throw new Refused('encapsulation');
    }
  }

  take(m3) {
    this.at = 'handshake';
    const message = unframe('m3', m3, (length) => [512, 1024, 2048, 4096].includes(length - 67));
    const [delegation, hello] = unpack(this.noise.read(message), 2);
    return { delegation, hello };
  }

  wallet(delegation) {
    this.at = 'delegation';
    if (!delegation.length) return null;
    return certificates.checkDelegation(delegation, this.noise.rs, unhex(this.one.node_address.slice(2)), this.one.now);
  }
}

group('handshake.json, the node', full.cases, (one) => {
  const node = new Node(one);
  equal('m2', node.m2(unhex(one.m1)), one.m2);
  checkState(node.noise, one.states[1]);
  const { delegation, hello } = node.take(unhex(one.m3));
  equal('client', node.noise.rs, one.client_static_public_key);
  equal('wallet', node.wallet(delegation), one.wallet);
  equal('hello', text(hello), one.hello);
  equal('m3 payload', pack(delegation, hello).length, one.m3_payload_length);
  checkEnd(node.noise.end(), one.end);
});

// What a client writes in m3 and r1, as the node reads it (2.3.5, 2.6.2).
const U32 = integer(0xffffffff);
const RECEIVED = list(pair(U32, U32));
const CLAIM = object({ session: hexOf(16), received: RECEIVED });
const HELLO = object({ client: string, 'shape?': string, 'ticket?': flag, 'claim?': CLAIM });
const RESUME = object({ received: RECEIVED, 'shape?': string });

const ticketOf = (one) => ({ id: unhex(one.ticket_id), secret: unhex(one.ticket_psk) });

group('resume.json, the client', resumed.cases, (one) => {
  if (one.after) {
    const { end } = caseOf(full, one.after) ?? caseOf(resumed, one.after);
    equal('ticket_id', one.ticket_id, end.ticket_id);
    equal('ticket_psk', one.ticket_psk, end.ticket_psk);
  }
  const client = new Resumption(ticketOf(one), { ephemeral: unhex(one.client_ephemeral_key) });
  equal('r1', client.r1(one.resume), one.r1);
  checkState(client.noise, one.states[0]);
  equal('welcome', text(client.welcome(unhex(one.r2))), one.welcome);
  readWelcome(one.welcome);
  checkState(client.noise, one.states[1]);
  checkEnd(client.end(), one.end);
});

function answerOf(one, r1) {
  const noise = resumptionNoise(false, ticketOf(one), unhex(one.node_ephemeral_key));
  return { noise, payload: unpack(noise.read(r1.subarray(34)), 1)[0] };
}

group('resume.json, the node', resumed.cases, (one) => {
  const { noise, payload } = answerOf(one, unhex(one.r1));
  equal('resume', text(payload), one.resume);
  equal('r2', join([2, 5], noise.write(pack(utf8(one.welcome)))), one.r2);
  checkEnd(noise.end(), one.end);
});

// --- Records ---

const records = load('records');
const side = { to_node: TO_NODE, to_client: TO_CLIENT };
const state = (one) => [unhex(one.key), unhex(one.sid), side[one.direction], BigInt(one.counter)];
const recordOf = ({ type, last, more, request, index, body, body_times: times }) =>
  ({ type, last, more, request, index, body: utf8(body.repeat(times)) });

function sameRecord(got, wanted) {
  for (const key of ['type', 'last', 'more', 'request', 'index']) equal(key, got[key], wanted[key]);
  if (!same(got.body, wanted.body)) throw new Error('another body');
}

group('records.json, frames', records.frames, (one) => {
  const sealer = new Sealer(...state(one));
  const opener = new Opener(...state(one));
  sealer.shape = one.shape;
  equal('aad', sealer.aad, one.aad);
  const frame = sealer.seal(recordOf(one));
  if (one.frame !== null) equal('frame', frame, one.frame);
  equal('sha256', sha256(frame), one.frame_sha256);
  equal('length', frame.length - 18, one.plaintext_length);
  sameRecord(opener.open(frame), recordOf(one));
  equal('key', sealer.key, one.key_after);
  equal('key', opener.key, one.key_after);
});

group('records.json, runs', records.runs, (run) => {
  const sealer = new Sealer(...state(run));
  const opener = new Opener(...state(run));
  for (const step of run.steps) {
    const record = recordOf(step);
    sealer.shape = step.shape;
    let frame;
    for (let i = 0; i < step.times; i++, record.index++) {
      frame = sealer.seal(record);
      sameRecord(opener.open(frame), record);
    }
    if (step.last_frame !== null) equal('frame', frame, step.last_frame);
    equal('sha256', sha256(frame), step.last_frame_sha256);
    equal('key', sealer.key, step.key_after);
    equal('key', opener.key, step.key_after);
    equal('counter', String(sealer.counter), step.counter_after);
  }
});

group('records.json, reserved_counter', [{ name: 'seal' }], () => {
  const sealer = new Sealer(new Uint8Array(32), new Uint8Array(16), TO_NODE, BigInt(records.reserved_counter));
  refuses(() => sealer.seal({ type: 'ack', request: 0, index: 0, body: utf8('{}') }));
});

// --- Certificates ---

const eip712 = load('eip712');

const valuesOf = (fields) => Object.fromEntries(fields.map(({ name, type, value }) =>
  [name, type.startsWith('uint') ? BigInt(value) : unhex(value.slice(2))]));

group('eip712.json, signed', eip712.signed, (one) => {
  const chainId = one.domain.chain_id === null ? undefined : BigInt(one.domain.chain_id);
  const values = valuesOf(one.fields);
  const digest = certificates.digestOf(one.primary_type, values, chainId);
  equal('domain', certificates.domainSeparator(chainId), one.domain_separator);
  equal('struct', certificates.structHash(one.primary_type, values), one.struct_hash);
  equal('digest', digest, one.digest);
  equal('signature', certificates.sign(digest, unhex(one.private_key)), one.signature);
  equal('signer', certificates.writeAddress(certificates.signerOf(digest, unhex(one.signature))), one.signer);
  if (one.primary_type === 'SessionDelegation') {
    equal('wire', certificates.writeDelegation(values, unhex(one.signature)), one.wire);
    return;
  }
  const fields = one.fields.map(({ name, type, value }) => type.startsWith('uint') ? `"${name}":${value}`
    : `"${name}":"${type === 'bytes' ? value.slice(2) : value}"`);
  equal('wire', `{${fields.join(',')},"signature":"${one.signature}"}`, one.wire);
});

const judge = ({ wire, delegate, node, now }) =>
  certificates.checkDelegation(unhex(wire), unhex(delegate), certificates.readAddress(node), now);

group('eip712.json, delegations', eip712.delegations, (one) => equal('wallet', judge(one), one.wallet));
group('rejected.json, delegations', rejected.delegations, (one) => refuses(() => judge(one), one.error));

const advertisement = load('advertisement');

group('advertisement.json, accepted', advertisement.accepted, (one) => {
  const node = certificates.verifyNode(one.frame, one.pinned, one.now);
  equal('channel_key', node.channelKey, one.channel_key);
  equal('hint', hintOf(node.channelKey), one.hint);
  equal('not_after', node.notAfter, one.not_after);
  equal('min_version', node.minVersion, one.min_version);
  equal('prologue', node.prologue, one.prologue);
});

group('advertisement.json, rejected', advertisement.rejected, (one) =>
  refuses(() => certificates.verifyNode(one.frame, one.pinned, one.now), one.error.replace('certificate_', '')));

group('advertisement.json, rotations', advertisement.rotations, (one) => {
  const read = () => certificates.readRotation(one.rotation, one.pinned, BigInt(one.chain_id), one.now);
  if (one.error) refuses(read, one.error);
  else equal('to', read(), one.to);
});

// --- What is refused ---

group('rejected.json, m1', rejected.m1, (one) => {
  const node = new Node(caseOf(full, one.case));
  refuses(() => node.m2(unhex(one.frame)));
  equal('refused_at', node.at, one.refused_at);
});

group('rejected.json, m2', rejected.m2, (one) => {
  const setup = caseOf(full, one.case);
  const client = clientOf(setup);
  client.m1();
  refuses(() => client.m3(unhex(one.frame), unhex(setup.delegation), setup.hello));
});

group('rejected.json, m3', rejected.m3, (one) => {
  const setup = caseOf(full, one.case);
  const node = new Node(setup);
  node.m2(unhex(setup.m1));
  const take = () => node.take(unhex(one.frame));
  if (one.refused_at === 'handshake') refuses(take);
  else if (one.refused_at === 'hello') {
    const { hello } = take();
    refuses(() => readJson(hello, HELLO));
  }
  else refuses(() => node.wallet(take().delegation), one.error);
});

group('rejected.json, r1', rejected.r1, (one) => {
  const setup = caseOf(resumed, one.case);
  refuses(() => {
    const message = unframe('r1', unhex(one.frame), (length) => length >= 83 && length <= 83 + 4096);
    if (hex(message.subarray(0, 32)) !== setup.ticket_id) throw new Refused('ticket');
    readJson(answerOf(setup, unhex(one.frame)).payload, RESUME);
  });
});

group('rejected.json, r2', rejected.r2, (one) => {
  const setup = caseOf(resumed, one.case);
  const client = new Resumption(ticketOf(setup), { ephemeral: unhex(setup.client_ephemeral_key) });
  client.r1(setup.resume);
  refuses(() => readWelcome(client.welcome(unhex(one.frame))));
});

group('rejected.json, records', rejected.records, (one) => {
  const opener = new Opener(...state(one));
  refuses(() => opener.open(unhex(one.frame)));
  equal('key', opener.key, null);
});

group('rejected.json, orders to a client', rejected.orders.filter((one) => one.reader === 'client'), (one) => {
  const answers = new Answers();
  one.sent.forEach((request) => answers.expect(request));
  const take = (record) => {
    checkRecord(record, TO_CLIENT);
    answers.take(recordOf(record));
  };
  one.records.slice(0, -1).forEach(take);
  refuses(() => take(one.records.at(-1)));
});

console.log(`vectors: ${met} of ${all}`);
process.exitCode = met === all ? 0 : 1;
