/** Typed data (EIP-712), as far as the certificates of docs/protocol.md, 2.2, need it. */

import { keccak_256 } from '@noble/hashes/sha3.js';
import { bigEndian, join, unhex, utf8 } from '../bytes.js';
import { type Address, addressBytes } from '../ethereum.js';

export type Field =
  | { type: 'address'; value: Address }
  | { type: 'bytes'; value: Uint8Array }
  | { type: 'uint'; value: number | bigint };

export const NODE_CHANNEL_KEY =
  'NodeChannelKey(bytes publicKey,uint64 notBefore,uint64 notAfter,uint16 minVersion)';
export const SESSION_DELEGATION =
  'SessionDelegation(address wallet,bytes delegateKey,address node,uint64 notBefore,uint64 notAfter)';
export const NODE_KEY_ROTATION = 'NodeKeyRotation(address from,address to,uint64 notBefore)';

export const DOMAIN = { name: 'Fabstir E2EE', version: '2' } as const;

function word(field: Field): Uint8Array {
  switch (field.type) {
    case 'address':
      return join(new Uint8Array(12), addressBytes(field.value));
    case 'bytes':
      return keccak_256(field.value);
    case 'uint':
      return bigEndian(field.value, 32);
  }
}

/** The hash of a struct of type `type`, whose fields stand in the type's order. */
export function structHash(type: string, fields: readonly Field[]): Uint8Array {
  return keccak_256(join(keccak_256(utf8(type)), ...fields.map(word)));
}

/** Without a chain for delegations: wallets refuse one that is not the active chain's. */
export function domainSeparator(chainId: bigint | undefined): Uint8Array {
  const fields: Field[] = [
    { type: 'bytes', value: utf8(DOMAIN.name) },
    { type: 'bytes', value: utf8(DOMAIN.version) },
  ];
  if (chainId === undefined) return structHash('EIP712Domain(string name,string version)', fields);
  fields.push({ type: 'uint', value: chainId });
  return structHash('EIP712Domain(string name,string version,uint256 chainId)', fields);
}

/** What is signed. */
export function digest(chainId: bigint | undefined, type: string, fields: readonly Field[]): Uint8Array {
  return keccak_256(join(unhex('1901'), domainSeparator(chainId), structHash(type, fields)));
}
