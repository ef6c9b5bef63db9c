// The handshakes (2.3, 2.6) and Noise, revision 34, as far as they need it.

import { chacha20poly1305 } from '@noble/ciphers/chacha.js';
import { secp256k1 } from '@noble/curves/secp256k1.js';
import { hmac } from '@noble/hashes/hmac.js';
import { sha256 } from '@noble/hashes/sha2.js';
import { ml_kem768 } from '@noble/post-quantum/ml-kem.js';
import { Refused, join, utf8, u16, toNumber, randomBytes } from './bytes.mjs';

const failed = (detail) => new Refused('handshake', detail);
const EMPTY = new Uint8Array(0);

// --- Noise ---

// 4 zero bytes ‖ u64 little-endian.
export function nonce(counter) {
  const out = new Uint8Array(12);
  new DataView(out.buffer).setBigUint64(4, BigInt(counter), true);
  return out;
}

function hkdf(ck, input, outputs) {
  const key = hmac(sha256, ck, input);
  const out = [];
  for (let i = 1; i <= outputs; i++) out.push(hmac(sha256, key, join(out.at(-1) ?? EMPTY, [i])));
  return out;
}

// Noise's REKEY: a block of zeros under the highest nonce, without the tag.
export function rekey(key) {
  const sealed = chacha20poly1305(key, nonce(2n ** 64n - 1n)).encrypt(new Uint8Array(32));
  return sealed.slice(0, 32);
}

// secp256k1x (2.3.2)
function agree(privateKey, publicKey) {
  return secp256k1.getSharedSecret(privateKey, publicKey).slice(1);
}

function readPoint(bytes) {
  try {
    secp256k1.Point.fromBytes(bytes);
  } catch {
    throw failed('no point');
  }
  return bytes;
}

const XKpsk3 = {
  name: 'Noise_XKpsk3_secp256k1x_ChaChaPoly_SHA256',
  messages: [['e', 'es'], ['e', 'ee'], ['s', 'se', 'psk']],
};
const NNpsk0 = {
  name: 'Noise_NNpsk0_secp256k1x_ChaChaPoly_SHA256',
  messages: [['psk', 'e'], ['e', 'ee']],
};

// One side of either pattern. Keys: e (own ephemeral), s (own static), rs (the other's static, public).
export class Noise {
  constructor(pattern, initiator, prologue, { e, s, rs, psk } = {}) {
    Object.assign(this, { pattern, initiator, e, s, rs, psk, step: 0 });
    const name = utf8(pattern.name);
    this.h = name.length <= 32 ? join(name, new Uint8Array(32 - name.length)) : sha256(name);
    this.ck = this.h;
    this.key = null;
    this.mixHash(prologue);
    if (pattern === XKpsk3) this.mixHash(initiator ? rs : secp256k1.getPublicKey(s));
  }

  mixHash(bytes) {
    this.h = sha256(join(this.h, bytes));
  }

  mixKey(input) {
    [this.ck, this.key] = hkdf(this.ck, input, 2);
    this.n = 0;
  }

  mixKeyAndHash(input) {
    let mixed;
    [this.ck, mixed, this.key] = hkdf(this.ck, input, 3);
    this.mixHash(mixed);
    this.n = 0;
  }

  encrypt(plaintext) {
    const sealed = chacha20poly1305(this.key, nonce(this.n++), this.h).encrypt(plaintext);
    this.mixHash(sealed);
    return sealed;
  }

  decrypt(sealed) {
    try {
      const plaintext = chacha20poly1305(this.key, nonce(this.n++), this.h).decrypt(sealed);
      this.mixHash(sealed);
      return plaintext;
    } catch {
      throw failed('it does not open');
    }
  }

  // "es" is the initiator's e and the responder's s.
  mixAgreement(token) {
    const [own, other] = this.initiator ? token : [...token].reverse();
    this.mixKey(agree(this[own], this['r' + other]));
  }

  mixEphemeral(publicKey) {
    this.mixHash(publicKey);
    this.mixKey(publicKey); // in a psk pattern
  }

  write(payload) {
    const out = [];
    for (const token of this.pattern.messages[this.step++]) {
      if (token === 'e') {
        this.e ??= secp256k1.utils.randomSecretKey();
        const publicKey = secp256k1.getPublicKey(this.e);
        this.mixEphemeral(publicKey);
        out.push(publicKey);
      } else if (token === 's') out.push(this.encrypt(secp256k1.getPublicKey(this.s)));
      else if (token === 'psk') this.mixKeyAndHash(this.psk);
      else this.mixAgreement(token);
    }
    return join(...out, this.encrypt(payload));
  }

  read(message) {
    const take = (size) => {
      if (message.length < size) throw failed('too short');
      const part = message.subarray(0, size);
      message = message.subarray(size);
      return part;
    };
    for (const token of this.pattern.messages[this.step++]) {
      if (token === 'e') {
        this.re = readPoint(take(33));
        this.mixEphemeral(this.re);
      } else if (token === 's') this.rs = readPoint(this.decrypt(take(49)));
      else if (token === 'psk') this.mixKeyAndHash(this.psk);
      else this.mixAgreement(token);
    }
    return this.decrypt(message);
  }

  // What both sides have at the end (2.3.7, 2.6.2).
  end() {
    const [toNode, toClient] = hkdf(this.ck, EMPTY, 2);
    const [id, secret] = hkdf(this.ck, join(utf8('fabstir-e2ee/2 resume'), this.h), 2);
    return { h: this.h, sid: this.h.slice(0, 16), toNode, toClient, ticket: { id, secret } };
  }
}

// --- Payloads of m3, r1 and r2: parts with their lengths, then zeros (2.3.5) ---

const SIZES = [512, 1024, 2048, 4096];

export function pack(...parts) {
  const whole = join(...parts.flatMap((part) => [u16(part.length), part]));
  const size = SIZES.find((bytes) => bytes >= whole.length);
  if (!size) throw new RangeError('the payload is longer than 4096 bytes');
  return join(whole, new Uint8Array(size - whole.length));
}

export function unpack(payload, count) {
  const parts = [];
  let at = 0;
  for (let i = 0; i < count; i++) {
    if (at + 2 > payload.length) throw failed('a length beyond the end');
    const end = at + 2 + toNumber(payload.subarray(at, at + 2));
    if (end > payload.length) throw failed('a length beyond the end');
    parts.push(payload.subarray(at + 2, end));
    at = end;
  }
  if (payload.length !== SIZES.find((bytes) => bytes >= at)) throw failed('not the smallest size');
  if (payload.subarray(at).some((byte) => byte !== 0)) throw failed('padding that is not zero');
  return parts;
}

// --- Frames (2.1.2, 2.3.6) ---

export const KIND = { m1: 1, m2: 2, m3: 3, r1: 4, r2: 5, record: 6 };

const frame = (kind, ...parts) => join([2, KIND[kind]], ...parts);

export function unframe(kind, bytes, fits) {
  if (bytes[0] !== 2 || bytes[1] !== KIND[kind] || !fits(bytes.length)) throw failed(`no ${kind}`);
  return bytes.subarray(2);
}

export const hintOf = (channelKey) => sha256(channelKey).slice(0, 4);

export const fullNoise = (initiator, prologue, keys) => new Noise(XKpsk3, initiator, prologue, keys);

export const resumptionNoise = (initiator, ticket, e) =>
  new Noise(NNpsk0, initiator, join(utf8('fabstir-e2ee/2 resume'), ticket.id), { e, psk: ticket.secret });

// The client's side of a full handshake: m1(), then m3(m2, …), then end(). `random` is for the vectors alone.
export class FullHandshake {
  constructor(node, staticKey, random = {}) {
    this.node = node;
    this.kem = ml_kem768.keygen(random.kemSeed ?? randomBytes(64));
    this.noise = fullNoise(true, node.prologue, { e: random.ephemeral, s: staticKey, rs: node.channelKey });
  }

  m1() {
    return frame('m1', hintOf(this.node.channelKey), this.noise.write(this.kem.publicKey));
  }

  m3(m2, delegation, hello) {
    const ciphertext = this.noise.read(unframe('m2', m2, (length) => length === 1139));
    this.noise.psk = ml_kem768.decapsulate(ciphertext, this.kem.secretKey);
    this.kem.secretKey.fill(0);
    return frame('m3', this.noise.write(pack(delegation, utf8(hello))));
  }

  end() {
    return this.noise.end();
  }
}

// The client's side of a resumption: r1(…), then welcome(r2), then end().
export class Resumption {
  constructor(ticket, random = {}) {
    this.ticket = ticket;
    this.noise = resumptionNoise(true, ticket, random.ephemeral);
  }

  r1(resume) {
    return frame('r1', this.ticket.id, this.noise.write(pack(utf8(resume))));
  }

  welcome(r2) {
    const message = unframe('r2', r2, (length) => SIZES.includes(length - 51));
    return unpack(this.noise.read(message), 1)[0];
  }

  end() {
    return this.noise.end();
  }
}
