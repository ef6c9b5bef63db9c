// Records (2.4).

import { chacha20poly1305 } from '@noble/ciphers/chacha.js';
import { Refused, join, u16, u32, toNumber } from './bytes.mjs';
import { nonce, rekey } from './noise.mjs';

export const TO_NODE = 0;
export const TO_CLIENT = 1;

export const MAX_BODY = 49140;
const LAST = 1;
const MORE = 2;
const HEAD = 12; // type, flags, request, index, length
const TAG = 16;
const SIZES = [32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 49152];
const RESERVED = 2n ** 64n - 1n;

// 2.4.2: from whom, under which request ("own" is not 0), and whether LAST is allowed and needed.
const TYPES = {
  request: { code: 1, from: [TO_NODE], request: 'own', last: 'may' },
  text: { code: 2, from: [TO_CLIENT], request: 'own', last: 'never' },
  event: { code: 3, from: [TO_CLIENT], request: 'own', last: 'may' },
  error: { code: 4, from: [TO_CLIENT], request: 'any', last: 'may' },
  welcome: { code: 5, from: [TO_CLIENT], request: 'zero', last: 'never' },
  cancel: { code: 6, from: [TO_NODE], request: 'zero', last: 'never' },
  ack: { code: 7, from: [TO_NODE], request: 'zero', last: 'never' },
  goodbye: { code: 8, from: [TO_NODE, TO_CLIENT], request: 'zero', last: 'always' },
};
const NAMES = Object.fromEntries(Object.entries(TYPES).map(([name, { code }]) => [code, name]));

export function checkRecord({ type, last, more, request }, direction) {
  const rule = TYPES[type];
  const lastRule = type === 'error' && request !== 0 ? 'always' : rule?.last;
  const ok = rule && rule.from.includes(direction)
    && (rule.request === 'any' || (rule.request === 'zero') === (request === 0))
    && !(last && lastRule === 'never') && !(!last && lastRule === 'always')
    && !(more && (type !== 'event' || last));
  if (!ok) throw new Refused('record', 'a record that may not be');
}

// One direction of one handshake: its key, counter and count.
class Direction {
  constructor(key, sid, direction, counter = 0n) {
    this.key = key.slice();
    this.direction = direction;
    this.counter = BigInt(counter);
    this.aad = join(sid, [direction, 2, 6]);
    this.count = 0;
    this.bytes = 0;
  }

  // 2.4.5
  next(last, sealed) {
    this.counter++;
    this.count++;
    this.bytes += sealed;
    if (last || this.count >= 1000 || this.bytes >= 16 * 2 ** 20) {
      const next = rekey(this.key);
      this.wipe();
      this.key = next;
      this.count = this.bytes = 0;
    }
  }

  cipher() {
    if (!this.key || this.counter >= RESERVED) throw new Refused('record', 'no key or counter');
    return chacha20poly1305(this.key, nonce(this.counter), this.aad);
  }

  wipe() {
    this.key?.fill(0);
    this.key = null;
  }
}

export class Sealer extends Direction {
  shape = 'bucket';

  seal(record) {
    const { type, last = false, more = false, request, index, body } = record;
    checkRecord({ type, last, more, request }, this.direction);
    if (body.length > MAX_BODY) throw new RangeError('the body is too long for a record');
    const plain = join([TYPES[type].code, (last ? LAST : 0) | (more ? MORE : 0)],
      u32(request), u32(index), u16(body.length), body);
    const size = this.shape === 'off' ? plain.length : SIZES.find((bytes) => bytes >= plain.length);
    const sealed = this.cipher().encrypt(join(plain, new Uint8Array(size - plain.length)));
    this.next(last, sealed.length);
    return join([2, 6], sealed);
  }
}

export class Opener extends Direction {
  // Whatever is refused ends the connection: nothing opens after it (2.4.1).
  open(frame) {
    try {
      return this.tryOpen(frame);
    } catch (error) {
      this.wipe();
      throw error instanceof Refused ? error : new Refused('record', 'it does not open');
    }
  }

  tryOpen(frame) {
    const cipher = this.cipher();
    if (frame[0] !== 2 || frame[1] !== 6 || frame.length < 2 + HEAD + TAG) throw new Refused('record', 'its head');
    const plain = cipher.decrypt(frame.subarray(2));
    const flags = plain[1];
    const end = HEAD + toNumber(plain.subarray(10, 12));
    if (flags & ~(LAST | MORE)) throw new Refused('record', 'an unknown flag');
    if (end > plain.length || plain.subarray(end).some((byte) => byte !== 0)) {
      throw new Refused('record', 'length or padding');
    }
    const record = {
      type: NAMES[plain[0]],
      last: (flags & LAST) !== 0,
      more: (flags & MORE) !== 0,
      request: toNumber(plain.subarray(2, 6)),
      index: toNumber(plain.subarray(6, 10)),
      body: plain.slice(HEAD, end),
    };
    checkRecord(record, this.direction);
    this.next(record.last, frame.length - 2);
    return record;
  }
}
