/** Version 2 against vectors/v2: what the Rust side reads, byte for byte, and what it refuses. */

import { sha256 } from '@noble/hashes/sha2.js';
import { describe, expect, test } from 'vitest';
import { hex, same, text, unhex, utf8 } from '../src/bytes.js';
import { type Address, addressOf } from '../src/ethereum.js';
import { PublicKey, recover } from '../src/identity.js';
import { AdvertisementError, verifyAdvertisement } from '../src/v2/advertisement.js';
import { Answers } from '../src/v2/answers.js';
import { hello, pad, resume, welcome } from '../src/v2/body.js';
import {
  CertificateError,
  SessionDelegation,
  SignedDelegation,
  signedRotation,
  verifyRotation,
} from '../src/v2/certificate.js';
import { digest, domainSeparator, type Field, structHash } from '../src/v2/eip712.js';
import { hint } from '../src/v2/frame.js';
import { AwaitingM2, type Channel } from '../src/v2/handshake.js';
import { decode, MalformedError } from '../src/v2/json.js';
import { HandshakeError } from '../src/v2/noise.js';
import {
  isProper,
  OpenError,
  Opener,
  Sealer,
  type SessionRecord,
  TO_CLIENT,
  TO_NODE,
} from '../src/v2/record.js';
import { AwaitingR2 } from '../src/v2/resume.js';
import { RefusedAt, Responder, ResumptionResponder } from './node.js';
import { type Case, key, vectors } from './vectors.js';

const full = vectors('v2/handshake');
const resumed = vectors('v2/resume');
const records = vectors('v2/records');
const eip712 = vectors('v2/eip712');
const advertisement = vectors('v2/advertisement');
const rejected = vectors('v2/rejected');

const name = (one: Case): string => one.name ?? one.why;
const find = (file: Case, name: string): Case => file.cases.find((one: Case) => one.name === name);

function each(title: string, cases: Case[], check: (one: Case) => void): void {
  describe(title, () => {
    test.each(cases.map((one): [string, Case] => [name(one), one]))('%s', (_, one) => check(one));
  });
}

function refusal(action: () => unknown): unknown {
  try {
    action();
  } catch (error) {
    return error;
  }
  throw new Error('it was taken');
}

// --- handshake.json ---

function checkEnd(channel: Channel, wanted: Case): void {
  const lanes = { to_node: channel.sealer, to_client: channel.opener };
  expect(hex(channel.sid)).toBe(wanted.sid);
  expect(hex(lanes.to_node.inside.key ?? new Uint8Array())).toBe(wanted.to_node_key);
  expect(hex(lanes.to_client.inside.key ?? new Uint8Array())).toBe(wanted.to_client_key);
  expect(hex(channel.ticket.id)).toBe(wanted.ticket_id);
  expect(hex(channel.ticket.secret)).toBe(wanted.ticket_psk);
}

const delegationOf = (one: Case) =>
  one.delegation ? SignedDelegation.read(unhex(one.delegation)) : undefined;

function startClient(one: Case) {
  const node = verifyAdvertisement(one.connected, one.node_address, one.now);
  const random = { ephemeral: key(one.client_ephemeral_key), kemSeed: unhex(one.kem_seed) };
  return { node, ...AwaitingM2.start(node, key(one.client_static_key), random) };
}

const responder = (one: Case) =>
  new Responder(unhex(one.prologue), key(one.channel_key), key(one.node_ephemeral_key));

each('handshake.json, as the client', full.cases, (one) => {
  const { node, m1, waiting } = startClient(one);
  expect(hex(node.prologue)).toBe(one.prologue);
  expect(hex(m1)).toBe(one.m1);
  const { m3, channel } = waiting.finish(unhex(one.m2), delegationOf(one), JSON.parse(one.hello));
  expect(hex(m3)).toBe(one.m3);
  checkEnd(channel, one.end);
});

each('handshake.json, as the node', full.cases, (one) => {
  const node = responder(one);
  expect(hex(node.m2(unhex(one.m1), unhex(one.kem_m)))).toBe(one.m2);
  expect(hex(node.state.transcript.ck)).toBe(one.states[1].ck);
  expect(hex(node.state.transcript.h)).toBe(one.states[1].h);
  const said = node.m3(unhex(one.m3));
  const client = node.state.remoteStatic as PublicKey;
  expect(hex(client.toBytes())).toBe(one.client_static_public_key);
  expect(text(said.hello)).toBe(one.hello);
  decode(said.hello, hello);
  expect(hex(said.delegation)).toBe(one.delegation ?? '');
  expect(pad(said.delegation, said.hello).length).toBe(one.m3_payload_length);
  const wallet = delegationOf(one)?.verify(client, one.node_address, one.now) ?? null;
  expect(wallet).toBe(one.wallet);
  expect(hex(node.state.finish().hash)).toBe(one.end.h);
});

// --- resume.json ---

const ticketOf = (one: Case) => ({ id: unhex(one.ticket_id), secret: unhex(one.ticket_psk) });

each('resume.json, as the client', resumed.cases, (one) => {
  const before = one.after && (find(full, one.after) ?? find(resumed, one.after)).end;
  if (before) expect([one.ticket_id, one.ticket_psk]).toEqual([before.ticket_id, before.ticket_psk]);
  const start = AwaitingR2.start(ticketOf(one), JSON.parse(one.resume), key(one.client_ephemeral_key));
  expect(hex(start.r1)).toBe(one.r1);
  const { welcome: said, channel } = start.waiting.finish(unhex(one.r2));
  expect(said).toMatchObject(decode(one.welcome as string, welcome));
  checkEnd(channel, one.end);
});

each('resume.json, as the node', resumed.cases, (one) => {
  const node = new ResumptionResponder(ticketOf(one), key(one.node_ephemeral_key));
  const said = node.r1(unhex(one.r1), unhex(one.ticket_id));
  expect(text(said)).toBe(one.resume);
  decode(said, resume);
  expect(hex(node.r2(utf8(one.welcome)))).toBe(one.r2);
  expect(hex(node.state.finish().hash)).toBe(one.end.h);
});

// --- records.json ---

const side = { to_node: TO_NODE, to_client: TO_CLIENT } as const;
const lane = (one: Case) =>
  [unhex(one.key), unhex(one.sid), side[one.direction as keyof typeof side], BigInt(one.counter)] as const;

const recordOf = ({ type, last, more, request, index, body, body_times: times }: Case): SessionRecord => ({
  type,
  last,
  more,
  request,
  index,
  body: utf8(body.repeat(times)),
});

function sameRecord({ body, ...got }: SessionRecord, { body: wanted, ...rest }: SessionRecord): void {
  expect(got).toEqual(rest);
  expect(same(body, wanted)).toBe(true);
}

each('records.json, frames', records.frames, (one) => {
  const sealer = new Sealer(...lane(one));
  const opener = new Opener(...lane(one));
  sealer.shape = one.shape;
  expect(hex(sealer.inside.aad)).toBe(one.aad);
  const frame = sealer.seal(recordOf(one));
  if (one.frame !== null) expect(hex(frame)).toBe(one.frame);
  expect(hex(sha256(frame))).toBe(one.frame_sha256);
  expect(frame.length - 18).toBe(one.plaintext_length);
  sameRecord(opener.open(frame), recordOf(one));
  for (const { inside } of [sealer, opener]) expect(hex(inside.key ?? new Uint8Array())).toBe(one.key_after);
});

each('records.json, runs', records.runs, (run) => {
  const sealer = new Sealer(...lane(run));
  const opener = new Opener(...lane(run));
  for (const step of run.steps) {
    const record = recordOf(step);
    sealer.shape = step.shape;
    let frame = new Uint8Array();
    for (let i = 0; i < step.times; i++, record.index++) {
      frame = sealer.seal(record) as Uint8Array<ArrayBuffer>;
      const opened = opener.open(frame);
      if (opened.index !== record.index || !same(opened.body, record.body)) throw new Error('another record');
    }
    if (step.last_frame !== null) expect(hex(frame)).toBe(step.last_frame);
    expect(hex(sha256(frame))).toBe(step.last_frame_sha256);
    for (const { inside } of [sealer, opener]) {
      expect(hex(inside.key ?? new Uint8Array())).toBe(step.key_after);
      expect(String(inside.counter)).toBe(step.counter_after);
    }
  }
});

test('the reserved counter seals nothing', () => {
  const sealer = new Sealer(
    new Uint8Array(32),
    new Uint8Array(16),
    TO_NODE,
    BigInt(records.reserved_counter),
  );
  expect(() => sealer.seal({ type: 'ack', request: 0, index: 0, body: utf8('{}') })).toThrow();
});

// --- eip712.json ---

const fieldOf = ({ type, value }: Case): Field => {
  if (type === 'address') return { type, value };
  if (type === 'bytes') return { type, value: unhex(value.slice(2)) };
  return { type: 'uint', value: BigInt(value) };
};

each('eip712.json, signed', eip712.signed, (one) => {
  const chain = one.domain.chain_id === null ? undefined : BigInt(one.domain.chain_id);
  const fields = one.fields.map(fieldOf);
  const type = `${one.primary_type}(${one.fields.map(({ name, type }: Case) => `${type} ${name}`).join(',')})`;
  expect(hex(domainSeparator(chain))).toBe(one.domain_separator);
  expect(hex(structHash(type, fields))).toBe(one.struct_hash);
  const signed = digest(chain, type, fields);
  expect(hex(signed)).toBe(one.digest);
  expect(hex(key(one.private_key).sign(signed))).toBe(one.signature);
  expect(recover(signed, unhex(one.signature))).toBe(one.signer);
  if (one.primary_type !== 'SessionDelegation') return;
  const value = (name: string) => one.fields.find((field: Case) => field.name === name).value;
  const delegation = new SessionDelegation({
    wallet: value('wallet'),
    delegateKey: PublicKey.read(unhex(value('delegateKey').slice(2))),
    node: value('node'),
    notBefore: BigInt(value('notBefore')),
    notAfter: BigInt(value('notAfter')),
  });
  expect(hex(delegation.withSignature(unhex(one.signature)).toBytes())).toBe(one.wire);
});

const judge = ({ wire, delegate, node, now }: Case): Address =>
  SignedDelegation.read(unhex(wire)).verify(PublicKey.read(unhex(delegate)), node, now);

each('eip712.json, delegations', eip712.delegations, (one) => expect(judge(one)).toBe(one.wallet));

each('rejected.json, delegations', rejected.delegations, (one) => {
  const error = refusal(() => judge(one));
  expect(error).toBeInstanceOf(CertificateError);
  expect((error as CertificateError).reason).toBe(one.error);
});

// --- advertisement.json ---

each('advertisement.json, accepted', advertisement.accepted, (one) => {
  const node = verifyAdvertisement(one.frame, one.pinned, one.now);
  expect(hex(node.channelKey.toBytes())).toBe(one.channel_key);
  expect(hex(hint(node.channelKey))).toBe(one.hint);
  expect([node.notAfter, node.minVersion]).toEqual([one.not_after, one.min_version]);
  expect(hex(node.prologue)).toBe(one.prologue);
});

each('advertisement.json, rejected', advertisement.rejected, (one) => {
  const error = refusal(() => verifyAdvertisement(one.frame, one.pinned, one.now));
  expect(error).toBeInstanceOf(AdvertisementError);
  expect((error as AdvertisementError).reason).toBe(one.error);
});

each('advertisement.json, rotations', advertisement.rotations, (one) => {
  const read = () =>
    verifyRotation(decode(one.rotation as string, signedRotation), one.pinned, BigInt(one.chain_id), one.now);
  if (!one.error) return expect(read()).toBe(one.to);
  const error = refusal(read);
  expect(error instanceof MalformedError ? 'malformed' : (error as CertificateError).reason).toBe(one.error);
});

// --- rejected.json ---

each('rejected.json, m1', rejected.m1, (one) => {
  const setup = find(full, one.case);
  const error = refusal(() => responder(setup).m2(unhex(one.frame), unhex(setup.kem_m)));
  expect((error as RefusedAt).at).toBe(one.refused_at);
});

each('rejected.json, m2', rejected.m2, (one) => {
  const setup = find(full, one.case);
  const { waiting } = startClient(setup);
  const error = refusal(() => waiting.finish(unhex(one.frame), delegationOf(setup), JSON.parse(setup.hello)));
  expect(error).toBeInstanceOf(HandshakeError);
});

each('rejected.json, m3', rejected.m3, (one) => {
  const setup = find(full, one.case);
  const node = responder(setup);
  node.m2(unhex(setup.m1), unhex(setup.kem_m));
  const take = () => node.m3(unhex(one.frame));
  if (one.refused_at === 'handshake') return expect(refusal(take)).toBeInstanceOf(RefusedAt);
  const said = take();
  if (one.refused_at === 'hello')
    return expect(refusal(() => decode(said.hello, hello))).toBeInstanceOf(MalformedError);
  const client = node.state.remoteStatic as PublicKey;
  const error = refusal(() =>
    SignedDelegation.read(said.delegation).verify(client, setup.node_address, setup.now),
  );
  expect((error as CertificateError).reason).toBe(one.error);
});

each('rejected.json, r1', rejected.r1, (one) => {
  const setup = find(resumed, one.case);
  const node = new ResumptionResponder(ticketOf(setup), key(setup.node_ephemeral_key));
  refusal(() => decode(node.r1(unhex(one.frame), unhex(setup.ticket_id)), resume));
});

each('rejected.json, r2', rejected.r2, (one) => {
  const setup = find(resumed, one.case);
  const { waiting } = AwaitingR2.start(
    ticketOf(setup),
    JSON.parse(setup.resume),
    key(setup.client_ephemeral_key),
  );
  expect(refusal(() => waiting.finish(unhex(one.frame)))).toBeInstanceOf(HandshakeError);
});

each('rejected.json, records', rejected.records, (one) => {
  const opener = new Opener(...lane(one));
  expect(refusal(() => opener.open(unhex(one.frame)))).toBeInstanceOf(OpenError);
  expect(opener.inside.key).toBeUndefined();
});

const toClient = rejected.orders.filter((one: Case) => one.reader === 'client');

each('rejected.json, orders to a client', toClient, (one) => {
  const answers = new Answers();
  for (const request of one.sent) answers.expect(request);
  // Those that do not begin under request 0 are read behind a welcome.
  if (one.records[0].request !== 0) answers.setWelcomed();
  const take = (record: Case) => {
    if (!isProper(record, TO_CLIENT)) throw new OpenError();
    answers.take(recordOf(record));
  };
  for (const record of one.records.slice(0, -1)) take(record);
  expect(refusal(() => take(one.records.at(-1)))).toBeInstanceOf(OpenError);
});

test('an address has the form of the vectors', () => {
  expect(addressOf(unhex('00'.repeat(20)))).toBe(`0x${'0'.repeat(40)}`);
});
