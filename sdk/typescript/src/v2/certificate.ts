/** Who a key belongs to: EIP-712 certificates (docs/protocol.md, 2.2). */

import { bigEndian, hex, join, same, toBigInt } from '../bytes.js';
import { type Address, addressBytes, addressOf, checksum, ZERO_ADDRESS } from '../ethereum.js';
import { canonical, isSignature, type PrivateKey, PublicKey, recover, SIGNATURE_LEN } from '../identity.js';
import { DOMAIN, digest, NODE_CHANNEL_KEY, NODE_KEY_ROTATION, SESSION_DELEGATION } from './eip712.js';
import { address, type Form, hexOf, integer, object, where } from './json.js';

const SKEW = 300n;
const CHANNEL_KEY_SECONDS = 25n * 3600n;
/** The longest that a delegation may last. */
export const MAX_DELEGATION_SECONDS = 30 * 24 * 3600;

export type CertificateReason =
  | 'malformed'
  | 'signature'
  | 'time'
  | 'too_long'
  | 'other_key'
  | 'other_node'
  | 'version';

const MEANING: Record<CertificateReason, string> = {
  malformed: 'the certificate is malformed',
  signature: 'the certificate’s signature is not by the key that it names',
  time: 'the certificate is not valid at this time: check both clocks',
  too_long: 'the certificate lasts longer than it may',
  other_key: 'the certificate is for another key',
  other_node: 'the certificate is for another node',
  version: 'the node asks for a newer version of the protocol',
};

/** A certificate does not hold. */
export class CertificateError extends Error {
  override name = 'CertificateError';
  readonly reason: CertificateReason;
  constructor(reason: CertificateReason) {
    super(MEANING[reason]);
    this.reason = reason;
  }
}

function refuse(reason: CertificateReason): never {
  throw new CertificateError(reason);
}

function checkTime(notBefore: bigint, notAfter: bigint, now: bigint): void {
  if (now + SKEW < notBefore || now > notAfter + SKEW || notBefore > notAfter) refuse('time');
}

const signature: Form<Uint8Array> = where(
  hexOf(SIGNATURE_LEN),
  (bytes) => (isSignature(bytes) ? bytes : undefined),
  'a signature',
);

export const publicKey: Form<PublicKey> = where(
  hexOf(PublicKey.LEN),
  (bytes) => {
    try {
      return PublicKey.read(bytes);
    } catch {
      return undefined;
    }
  },
  'a public key',
);

/** What the node's identity says of its channel key. */
export interface SignedChannelKey {
  publicKey: PublicKey;
  notBefore: number;
  notAfter: number;
  minVersion: number;
  signature: Uint8Array;
}

export const signedChannelKey: Form<SignedChannelKey> = object(
  { publicKey, notBefore: integer(), notAfter: integer(), minVersion: integer(0xffff), signature },
  {},
  { exact: true },
);

/** In the order of 2.2.2; whose key it is and which versions it asks for is the advertisement's to compare. */
export function verifyChannelKey(
  certificate: SignedChannelKey,
  identity: Address,
  chainId: number,
  now: number,
): void {
  const { publicKey, notBefore, notAfter, minVersion, signature } = certificate;
  const signed = digest(BigInt(chainId), NODE_CHANNEL_KEY, [
    { type: 'bytes', value: publicKey.toBytes() },
    { type: 'uint', value: notBefore },
    { type: 'uint', value: notAfter },
    { type: 'uint', value: minVersion },
  ]);
  if (recover(signed, signature) !== identity) refuse('signature');
  checkTime(BigInt(notBefore), BigInt(notAfter), BigInt(now));
  if (BigInt(notAfter) - BigInt(notBefore) > CHANNEL_KEY_SECONDS + SKEW) refuse('too_long');
}

/** That a node moves to another identity, in the words of the old one. */
export interface SignedRotation {
  from: Address;
  to: Address;
  notBefore: number;
  signature: Uint8Array;
}

export const signedRotation: Form<SignedRotation> = object(
  { from: address, to: address, notBefore: integer(), signature },
  {},
  { exact: true },
);

/** Where it leads; a person is asked, and nobody follows by itself. */
export function verifyRotation(
  rotation: SignedRotation,
  pinned: Address,
  chainId: number | bigint,
  now: number,
): Address {
  if (rotation.from !== pinned) refuse('other_key');
  const signed = digest(BigInt(chainId), NODE_KEY_ROTATION, [
    { type: 'address', value: rotation.from },
    { type: 'address', value: rotation.to },
    { type: 'uint', value: rotation.notBefore },
  ]);
  if (recover(signed, rotation.signature) !== pinned) refuse('signature');
  if (BigInt(now) + SKEW < BigInt(rotation.notBefore)) refuse('time');
  return rotation.to;
}

/** That a wallet lets a key speak for it, to one node or to any, for a while. */
export class SessionDelegation {
  readonly wallet: Address;
  readonly delegateKey: PublicKey;
  /** The only node that it may be shown to; `undefined` is any. */
  readonly node: Address | undefined;
  readonly notBefore: bigint;
  readonly notAfter: bigint;

  constructor(fields: {
    wallet: Address;
    delegateKey: PublicKey;
    node?: Address | undefined;
    notBefore: number | bigint;
    notAfter: number | bigint;
  }) {
    this.wallet = fields.wallet;
    this.delegateKey = fields.delegateKey;
    this.node = fields.node === ZERO_ADDRESS ? undefined : fields.node;
    this.notBefore = BigInt(fields.notBefore);
    this.notAfter = BigInt(fields.notAfter);
  }

  digest(): Uint8Array {
    return digest(undefined, SESSION_DELEGATION, [
      { type: 'address', value: this.wallet },
      { type: 'bytes', value: this.delegateKey.toBytes() },
      { type: 'address', value: this.node ?? ZERO_ADDRESS },
      { type: 'uint', value: this.notBefore },
      { type: 'uint', value: this.notAfter },
    ]);
  }

  /** What a wallet is given to show and sign (`eth_signTypedData_v4`, without `EIP712Domain`). */
  typedData() {
    return {
      domain: DOMAIN,
      types: {
        SessionDelegation: [
          { name: 'wallet', type: 'address' },
          { name: 'delegateKey', type: 'bytes' },
          { name: 'node', type: 'address' },
          { name: 'notBefore', type: 'uint64' },
          { name: 'notAfter', type: 'uint64' },
        ],
      },
      primaryType: 'SessionDelegation' as const,
      message: {
        wallet: checksum(this.wallet),
        delegateKey: `0x${hex(this.delegateKey.toBytes())}` as const,
        node: checksum(this.node ?? ZERO_ADDRESS),
        notBefore: this.notBefore,
        notAfter: this.notAfter,
      },
    };
  }

  /** @throws {CertificateError} where the wallet did not sign this. */
  withSignature(signature: Uint8Array): SignedDelegation {
    const canon = canonical(signature);
    if (!isSignature(canon)) refuse('malformed');
    if (recover(this.digest(), canon) !== this.wallet) refuse('signature');
    return new SignedDelegation(this, canon);
  }

  /** With the wallet's own key, where it is at hand. */
  sign(wallet: PrivateKey): SignedDelegation {
    return this.withSignature(wallet.sign(this.digest()));
  }
}

/** A delegation with its wallet's signature. */
export class SignedDelegation {
  static readonly LEN = 154;
  readonly delegation: SessionDelegation;
  readonly signature: Uint8Array;

  constructor(delegation: SessionDelegation, signature: Uint8Array) {
    this.delegation = delegation;
    this.signature = signature;
  }

  toBytes(): Uint8Array {
    const { wallet, delegateKey, node, notBefore, notAfter } = this.delegation;
    return join(
      addressBytes(wallet),
      delegateKey.toBytes(),
      addressBytes(node ?? ZERO_ADDRESS),
      bigEndian(notBefore, 8),
      bigEndian(notAfter, 8),
      this.signature,
    );
  }

  /** @throws {CertificateError} `malformed`; whether it holds is {@link verify}'s to say. */
  static read(bytes: Uint8Array): SignedDelegation {
    if (bytes.length !== SignedDelegation.LEN) refuse('malformed');
    const signature = bytes.slice(89);
    if (!isSignature(signature)) refuse('malformed');
    let delegateKey: PublicKey;
    try {
      delegateKey = PublicKey.read(bytes.subarray(20, 53));
    } catch {
      refuse('malformed');
    }
    const delegation = new SessionDelegation({
      wallet: addressOf(bytes.subarray(0, 20)),
      delegateKey,
      node: addressOf(bytes.subarray(53, 73)),
      notBefore: toBigInt(bytes.subarray(73, 81)),
      notAfter: toBigInt(bytes.subarray(81, 89)),
    });
    return new SignedDelegation(delegation, signature);
  }

  /** As the node judges it: whose wallet this is. */
  verify(delegate: PublicKey, node: Address, now: number): Address {
    const { wallet, delegateKey, node: only, notBefore, notAfter } = this.delegation;
    if (!same(delegateKey.toBytes(), delegate.toBytes())) refuse('other_key');
    if (only !== undefined && only !== node) refuse('other_node');
    if (notAfter - notBefore > BigInt(MAX_DELEGATION_SECONDS)) refuse('too_long');
    checkTime(notBefore, notAfter, BigInt(now));
    if (recover(this.delegation.digest(), this.signature) !== wallet) refuse('signature');
    return wallet;
  }
}
