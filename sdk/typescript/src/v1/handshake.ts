/** The session init (docs/protocol.md, 1.2). */

import { hkdf } from '@noble/hashes/hkdf.js';
import { sha256 } from '@noble/hashes/sha2.js';
import { hex, join, randomBytes, utf8, wipe } from '../bytes.js';
import { personalDigest } from '../ethereum.js';
import { PrivateKey, type PublicKey } from '../identity.js';
import { encodeInit } from './frame.js';
import { aad, NONCE_LEN, seal } from './seal.js';
import { ClientSession } from './session.js';

/** Whose spelling of version 1: that of the nodes that are in use, or of either half of the specification. */
export type Dialect = 'deployed' | 'guide-rust' | 'guide-typescript';

export interface ClientHello {
  nodeKey: PublicKey;
  clientKey: PrivateKey;
  sessionId: string;
  dialect: Dialect;
  /** Unix seconds, so that the node can tell a late copy. */
  timestamp?: number | undefined;
  /** Whether to say who signs. */
  claim: boolean;
}

/** What is drawn at random; given by tests and vectors alone. */
export interface Randomness {
  ephemeral?: PrivateKey;
  sessionKey?: Uint8Array;
  nonce?: Uint8Array;
}

/** The first frame, and the session that it opens. */
export function startSession(
  hello: ClientHello,
  random: Randomness = {},
): { frame: string; session: ClientSession } {
  const { nodeKey, clientKey, sessionId, dialect } = hello;
  const ephemeral = random.ephemeral ?? PrivateKey.random();
  const nonce = random.nonce ?? randomBytes(NONCE_LEN);
  const point = ephemeral.agree(nodeKey);
  const agreed = hkdf(
    sha256,
    dialect === 'guide-typescript' ? point : point.subarray(1),
    undefined,
    undefined,
    32,
  );
  const own = dialect === 'guide-typescript' ? undefined : (random.sessionKey ?? randomBytes(32));
  const as = dialect === 'deployed' ? aad.empty : aad.sessionInit;
  const sealed = seal(agreed, nonce, as, utf8(sessionData(hello, own)));
  const ephemeralKey = ephemeral.publicKey.toBytes();
  const signature = sign(
    clientKey,
    dialect,
    sealed.ciphertext,
    bound(ephemeralKey, nodeKey.toBytes(), nonce, as),
  );
  const frame = encodeInit(sessionId, {
    ...sealed,
    ephemeral: ephemeralKey,
    signature,
    aad: as,
    bound: dialect === 'deployed',
  });
  const session = new ClientSession(sessionId, own ?? agreed);
  wipe(point, agreed, own);
  return { frame, session };
}

function sessionData(
  { clientKey, dialect, timestamp, claim }: ClientHello,
  own: Uint8Array | undefined,
): string {
  return JSON.stringify({
    jobId: '0',
    modelName: 'default',
    ...(own && { sessionKey: hex(own) }),
    ...(claim &&
      (dialect === 'deployed'
        ? { recoveryPublicKey: hex(clientKey.publicKey.toBytes()) }
        : { clientAddress: clientKey.address() })),
    ...(timestamp !== undefined && { timestamp }),
  });
}

/** D3: what the deployed clients sign. */
export function bound(
  ephemeral: Uint8Array,
  node: Uint8Array,
  nonce: Uint8Array,
  as: Uint8Array,
): Uint8Array {
  const bar = utf8('|');
  const parts = [utf8('E2EEv1|'), ephemeral, bar, node, bar, new Uint8Array(32), bar, nonce, bar];
  if (as.length > 0) parts.push(bar, as);
  return sha256(join(...parts));
}

function sign(key: PrivateKey, dialect: Dialect, ciphertext: Uint8Array, bound: Uint8Array): Uint8Array {
  const plain = sha256(ciphertext);
  if (dialect === 'guide-typescript') return key.sign(personalDigest(plain));
  const signature = key.sign(dialect === 'deployed' ? bound : plain);
  signature[64] = (signature[64] ?? 27) - 27;
  return signature;
}
