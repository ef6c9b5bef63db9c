// Identities, certificates and the node's first frame (2.1.1, 2.2), by EIP-712.

import { secp256k1 } from '@noble/curves/secp256k1.js';
import { keccak_256 } from '@noble/hashes/sha3.js';
import {
  Refused, malformed, join, hex, unhex, utf8, same, number, u16, u64, toBigInt,
  readJson, object, list, string, integer, address, hexOf, constant,
} from './bytes.mjs';

const ORDER = secp256k1.Point.Fn.ORDER;
const LEEWAY = 300n; // seconds, at both ends
const CHANNEL_KEY_LIFE = 25n * 3600n + 300n;
const DELEGATION_LIFE = 30n * 24n * 3600n;
const ANY_NODE = new Uint8Array(20);

// --- EIP-712 (2.2.6) ---

const TYPES = {
  NodeChannelKey: 'bytes publicKey,uint64 notBefore,uint64 notAfter,uint16 minVersion',
  SessionDelegation: 'address wallet,bytes delegateKey,address node,uint64 notBefore,uint64 notAfter',
  NodeKeyRotation: 'address from,address to,uint64 notBefore',
};

function word(type, value) {
  if (type === 'string') return keccak_256(utf8(value));
  if (type === 'bytes') return keccak_256(value);
  if (type === 'address') return join(new Uint8Array(12), value);
  return number(value, 32); // uint…
}

function hashOf(name, fields, values) {
  const words = fields.split(',').map((field) => {
    const [type, key] = field.split(' ');
    return word(type, values[key]);
  });
  return keccak_256(join(keccak_256(utf8(`${name}(${fields})`)), ...words));
}

// `chainId` is left out of a delegation's domain (2.2.3).
export function domainSeparator(chainId) {
  const fields = 'string name,string version' + (chainId === undefined ? '' : ',uint256 chainId');
  return hashOf('EIP712Domain', fields, { name: 'Fabstir E2EE', version: '2', chainId });
}

export const structHash = (type, values) => hashOf(type, TYPES[type], values);

export const digestOf = (type, values, chainId) =>
  keccak_256(join(unhex('1901'), domainSeparator(chainId), structHash(type, values)));

// --- Keys and signatures ---

export function checkPoint(bytes) {
  try {
    if (bytes.length !== 33) throw 0;
    secp256k1.Point.fromBytes(bytes);
  } catch {
    throw malformed('a key that is no compressed point');
  }
}

export function addressOf(publicKey) {
  const uncompressed = secp256k1.Point.fromBytes(publicKey).toBytes(false);
  return keccak_256(uncompressed.subarray(1)).subarray(12);
}

export const readAddress = (written) => unhex(written.slice(2));
export const writeAddress = (bytes) => '0x' + hex(bytes);

export function sign(digest, privateKey) {
  const signature = secp256k1.sign(digest, privateKey, { prehash: false, format: 'recovered' });
  return join(signature.subarray(1), [27 + signature[0]]); // r ‖ s ‖ v
}

function checkSignature(signature) {
  const r = toBigInt(signature.subarray(0, 32));
  const s = toBigInt(signature.subarray(32, 64));
  const v = signature[64];
  if (r < 1n || r >= ORDER || s < 1n || s > ORDER / 2n || (v !== 27 && v !== 28)) throw malformed('signature');
}

export function signerOf(digest, signature) {
  try {
    const recovered = join([signature[64] - 27], signature.subarray(0, 64));
    return addressOf(secp256k1.recoverPublicKey(recovered, digest, { prehash: false }));
  } catch {
    throw new Refused('signature');
  }
}

function checkTime(notBefore, notAfter, now) {
  if (notBefore > notAfter || now + LEEWAY < notBefore || now > notAfter + LEEWAY) throw new Refused('time');
}

// --- The node (2.1.1, 2.2.2) ---

function versions(value, at) {
  list(string, 8)(value, at);
  if (!value.every((name) => /^[!-+\--~]{1,16}$/.test(name))) throw malformed('e2ee');
}

const CERTIFICATE = object({
  publicKey: hexOf(33),
  notBefore: integer(),
  notAfter: integer(),
  minVersion: integer(0xffff),
  signature: hexOf(65),
}, { exact: true });
const ROTATION = object({ from: address, to: address, notBefore: integer(), signature: hexOf(65) }, { exact: true });
const NODE = object({
  address,
  chainId: integer(),
  channelKey: hexOf(33),
  certificate: CERTIFICATE,
  'rotation?': ROTATION,
});
const CONNECTED = object({ type: constant('connected'), 'e2ee?': versions, 'node?': NODE });

export function certificateValues(certificate) {
  return { ...certificate, publicKey: unhex(certificate.publicKey) };
}

// Reads the node's first frame. `pinned` is its address, `now` in seconds.
export function verifyNode(frame, pinned, now) {
  const { e2ee, node } = readJson(frame, CONNECTED);
  if (!e2ee?.includes('2') || !node) throw new Refused('no_version_2');

  const channelKey = unhex(node.channelKey);
  const values = certificateValues(node.certificate);
  const signature = unhex(node.certificate.signature);
  checkPoint(channelKey);
  checkSignature(signature);

  // The checks of 2.2.2, in its order.
  const identity = readAddress(node.address);
  if (node.address !== pinned) throw new Refused('other_identity');
  if (!same(signerOf(digestOf('NodeChannelKey', values, node.chainId), signature), identity))
    throw new Refused('signature');
  const [notBefore, notAfter] = [BigInt(values.notBefore), BigInt(values.notAfter)];
  checkTime(notBefore, notAfter, BigInt(now));
  if (notAfter - notBefore > CHANNEL_KEY_LIFE) throw new Refused('too_long');
  if (!same(values.publicKey, channelKey)) throw new Refused('other_key');
  if (values.minVersion > 2) throw new Refused('version');

  return { channelKey, identity, notAfter: values.notAfter, minVersion: values.minVersion,
    chainId: node.chainId, rotation: node.rotation ?? undefined,
    prologue: prologue(node.chainId, identity, e2ee) };
}

// 2.3.3
function prologue(chainId, identity, words) {
  const joined = utf8(words.join(','));
  return join(utf8('fabstir-e2ee/2'), u64(chainId), identity, u16(joined.length), joined);
}

// 2.2.5. What holds is shown to a person, and not followed.
export function readRotation(source, pinned, chainId, now) {
  const rotation = typeof source === 'string' ? readJson(source, ROTATION) : source;
  const signature = unhex(rotation.signature);
  checkSignature(signature);
  const values = { from: readAddress(rotation.from), to: readAddress(rotation.to), notBefore: rotation.notBefore };
  if (rotation.from !== pinned) throw new Refused('other_key');
  const signer = signerOf(digestOf('NodeKeyRotation', values, chainId), signature);
  if (!same(signer, values.from)) throw new Refused('signature');
  if (BigInt(now) + LEEWAY < BigInt(rotation.notBefore)) throw new Refused('time');
  return rotation.to;
}

// --- Delegations (2.2.3) ---

export function writeDelegation({ wallet, delegateKey, node = ANY_NODE, notBefore, notAfter }, signature) {
  return join(wallet, delegateKey, node, u64(notBefore), u64(notAfter), signature);
}

// What a wallet does with eth_signTypedData_v4; here the key is at hand.
export function delegate(walletKey, delegateKey, { node = ANY_NODE, notBefore, notAfter }) {
  const wallet = addressOf(secp256k1.getPublicKey(walletKey));
  const values = { wallet, delegateKey, node, notBefore, notAfter };
  return writeDelegation(values, sign(digestOf('SessionDelegation', values), walletKey));
}

// A node's check; a client may use it on its own certificate before it shows it.
export function checkDelegation(wire, delegateKey, node, now) {
  if (wire.length !== 154) throw malformed('delegation');
  const values = {
    wallet: wire.subarray(0, 20),
    delegateKey: wire.subarray(20, 53),
    node: wire.subarray(53, 73),
    notBefore: toBigInt(wire.subarray(73, 81)),
    notAfter: toBigInt(wire.subarray(81, 89)),
  };
  const signature = wire.subarray(89);
  checkPoint(values.delegateKey);
  checkSignature(signature);

  if (!same(values.delegateKey, delegateKey)) throw new Refused('other_key');
  if (!same(values.node, node) && !same(values.node, ANY_NODE)) throw new Refused('other_node');
  if (values.notAfter - values.notBefore > DELEGATION_LIFE) throw new Refused('too_long');
  checkTime(values.notBefore, values.notAfter, BigInt(now));
  const signer = signerOf(digestOf('SessionDelegation', values), signature);
  if (!same(signer, values.wallet)) throw new Refused('signature');
  return writeAddress(values.wallet);
}
