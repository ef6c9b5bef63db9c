/** The node's first frame: who it says it is (docs/protocol.md, 2.1, 2.2). */

import { bigEndian, join, utf8 } from '../bytes.js';
import { type Address, addressBytes } from '../ethereum.js';
import type { PublicKey } from '../identity.js';
import {
  CertificateError,
  type CertificateReason,
  publicKey,
  type SignedChannelKey,
  type SignedRotation,
  signedChannelKey,
  signedRotation,
  verifyChannelKey,
  verifyRotation,
} from './certificate.js';
import {
  address,
  decode,
  type Form,
  integer,
  list,
  MalformedError,
  object,
  optional,
  string,
} from './json.js';

export const VERSION = '2';
const NUMBER = 2;
const MOST_VERSIONS = 8;

/** The node is not the one that was pinned, or does not prove to be. Never a reason to speak an older version. */
export class AdvertisementError extends Error {
  override name = 'AdvertisementError';
  /** A certificate's reasons have `certificate_` before them. */
  readonly reason:
    | 'malformed'
    | 'no_version_2'
    | 'other_identity'
    | 'moved'
    | `certificate_${CertificateReason}`;
  /** Who it shows instead. */
  readonly shown: Address | undefined;
  constructor(reason: AdvertisementError['reason'], message: string, shown?: Address) {
    super(message);
    this.reason = reason;
    this.shown = shown;
  }
}

interface NodeIdentity {
  address: Address;
  chainId: number;
  channelKey: PublicKey;
  certificate: SignedChannelKey;
  rotation?: SignedRotation;
}

const nodeIdentity: Form<NodeIdentity> = object(
  { address, chainId: integer(), channelKey: publicKey, certificate: signedChannelKey },
  { rotation: optional(signedRotation) },
);

const any: Form<true> = () => true;
const greeting = object({ type: string }, { e2ee: optional(any) });
const connected = object({ type: string, e2ee: list(string) }, { node: optional(nodeIdentity) });

/** A node that was shown to be the pinned one. */
export interface VerifiedNode {
  address: Address;
  channelKey: PublicKey;
  /** The oldest version that it speaks, and until when that holds. */
  minVersion: number;
  notAfter: number;
  prologue: Uint8Array;
}

const malformed = () => new AdvertisementError('malformed', 'the node’s first frame is not one');

/** @throws {AdvertisementError} where it is not the pinned node's, at `now` in unix seconds. */
export function verifyAdvertisement(frame: string, pinned: Address, now: number): VerifiedNode {
  try {
    return verify(frame, pinned, now);
  } catch (error) {
    if (error instanceof MalformedError) throw malformed();
    if (error instanceof CertificateError)
      throw new AdvertisementError(`certificate_${error.reason}`, error.message);
    throw error;
  }
}

function verify(frame: string, pinned: Address, now: number): VerifiedNode {
  const { type, e2ee } = decode(frame, greeting);
  if (type !== 'connected') throw malformed();
  const none = 'the node does not offer version 2 of the protocol';
  if (e2ee === undefined) throw new AdvertisementError('no_version_2', none);
  const shown = decode(frame, connected);
  const node = shown.node;
  if (!node || !shown.e2ee.includes(VERSION)) throw new AdvertisementError('no_version_2', none);
  if (node.address !== pinned) throw otherIdentity(node, pinned, now);
  verifyChannelKey(node.certificate, pinned, node.chainId, now);
  if (!node.certificate.publicKey.equals(node.channelKey)) throw new CertificateError('other_key');
  if (node.certificate.minVersion > NUMBER) throw new CertificateError('version');
  return {
    address: pinned,
    channelKey: node.channelKey,
    minVersion: node.certificate.minVersion,
    notAfter: node.certificate.notAfter,
    prologue: prologue(shown.e2ee, node.chainId, pinned),
  };
}

function otherIdentity(node: NodeIdentity, pinned: Address, now: number): AdvertisementError {
  if (node.rotation && movesTo(node.rotation, node.chainId, pinned, now) === node.address) {
    const message = `the pinned identity says that the node has moved to ${node.address}`;
    return new AdvertisementError('moved', message, node.address);
  }
  const message = `the node shows another identity, ${node.address}, than the pinned one`;
  return new AdvertisementError('other_identity', message, node.address);
}

function movesTo(
  rotation: SignedRotation,
  chainId: number,
  pinned: Address,
  now: number,
): Address | undefined {
  try {
    return verifyRotation(rotation, pinned, chainId, now);
  } catch {
    return undefined;
  }
}

/** 2.3.3. What is in it cannot be changed on the way without the handshake's failing. */
function prologue(versions: readonly string[], chainId: number, node: Address): Uint8Array {
  const proper = versions.every((version) => /^[!-+\--~]{1,16}$/.test(version));
  if (versions.length > MOST_VERSIONS || !proper) throw malformed();
  const joined = utf8(versions.join(','));
  return join(
    utf8('fabstir-e2ee/2'),
    bigEndian(chainId, 8),
    addressBytes(node),
    bigEndian(joined.length, 2),
    joined,
  );
}
