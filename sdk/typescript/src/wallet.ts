/** A wallet's word for a delegate key: asked for once, kept where the caller says. */

import { join, unhex, wipe } from './bytes.js';
import { UsageError, WalletError } from './error.js';
import { type Address, InvalidAddress, parseAddress } from './ethereum.js';
import { PrivateKey } from './identity.js';
import { MAX_DELEGATION_SECONDS, SessionDelegation, SignedDelegation } from './v2/certificate.js';
import type { ClientIdentity } from './v2/handshake.js';

type TypedData = ReturnType<SessionDelegation['typedData']>;

/** An account or wallet client of viem. */
export interface ViemWallet {
  address?: string;
  account?: { address: string } | undefined;
  // biome-ignore lint/suspicious/noExplicitAny: viem's type depends on what is signed
  signTypedData(data: any): Promise<string>;
}

/** A signer of ethers, version 6. */
export interface EthersSigner {
  getAddress(): Promise<string>;
  // biome-ignore lint/suspicious/noExplicitAny: ethers' types are its own
  signTypedData(domain: any, types: any, message: any): Promise<string>;
}

/** A browser wallet (EIP-1193). */
export interface Eip1193Provider {
  // biome-ignore lint/suspicious/noExplicitAny: providers differ in how they type this
  request(call: { method: any; params?: any }): Promise<any>;
}

/** Anything that signs typed data for an address. */
export type Wallet = ViemWallet | EthersSigner | Eip1193Provider;

/** Where delegate keys with their delegations are kept: 186 secret bytes, under a name. */
export interface DelegationStore {
  load(name: string): Promise<Uint8Array | undefined> | Uint8Array | undefined;
  save(name: string, secret: Uint8Array): Promise<void> | void;
}

/** Keeps them as long as the process or page lives. */
export function memoryStore(): DelegationStore {
  const kept = new Map<string, Uint8Array>();
  return {
    load: (name) => kept.get(name)?.slice(),
    save: (name, secret) => {
      kept.set(name, secret.slice());
    },
  };
}

const inMemory = memoryStore();
const A_DAY = 24 * 3600;
/** A delegation that ends sooner than this is asked for anew. */
const SPARE = 3600;

export interface DelegateOptions {
  /** The only node that the delegation may be shown to; `any` on request. */
  node: Address | 'any';
  /** How long it lasts; a day unless said otherwise, 30 days at most. */
  seconds?: number | undefined;
  store?: DelegationStore | undefined;
  /** Unix seconds; for tests. */
  now?: number | undefined;
}

/**
 * A key that may speak for the wallet: a kept one, or a new one for which the wallet is asked.
 *
 * @throws {WalletError} where the wallet refuses, or signs something else.
 */
export async function delegate(wallet: Wallet, options: DelegateOptions): Promise<ClientIdentity> {
  const { node, seconds = A_DAY, store = inMemory, now = Math.floor(Date.now() / 1000) } = options;
  if (!(seconds > 0 && seconds <= MAX_DELEGATION_SECONDS))
    throw new UsageError('a delegation lasts at most 30 days');
  const address = await addressOf(wallet);
  const name = `${address}:${node}`;
  // Who asks beside it shares what comes of it: a wallet is asked once.
  const asking = pending.get(store)?.get(name);
  if (asking) return asking;
  const made = make(wallet, address, name, { node, seconds, store, now });
  const of = pending.get(store) ?? new Map<string, Promise<ClientIdentity>>();
  pending.set(store, of.set(name, made));
  return made.finally(() => of.delete(name));
}

const pending = new WeakMap<DelegationStore, Map<string, Promise<ClientIdentity>>>();

async function make(
  wallet: Wallet,
  address: Address,
  name: string,
  {
    node,
    seconds,
    store,
    now,
  }: { node: Address | 'any'; seconds: number; store: DelegationStore; now: number },
): Promise<ClientIdentity> {
  const kept = await store.load(name);
  const identity = kept && read(kept);
  if (
    identity?.delegation &&
    Number(identity.delegation.delegation.notAfter) >= now + Math.min(SPARE, seconds / 2)
  ) {
    return identity;
  }
  const key = PrivateKey.random();
  const delegation = new SessionDelegation({
    wallet: address,
    delegateKey: key.publicKey,
    node: node === 'any' ? undefined : node,
    notBefore: now,
    notAfter: now + seconds,
  });
  const signature = await sign(wallet, address, delegation.typedData());
  const signed = checked(delegation, signature);
  const secret = key.expose();
  await store.save(name, join(secret, signed.toBytes()));
  wipe(secret);
  return { key, delegation: signed };
}

function read(bytes: Uint8Array): ClientIdentity | undefined {
  try {
    const key = PrivateKey.read(bytes.subarray(0, PrivateKey.LEN));
    return { key, delegation: SignedDelegation.read(bytes.subarray(PrivateKey.LEN)) };
  } catch {
    return undefined;
  } finally {
    wipe(bytes);
  }
}

function checked(delegation: SessionDelegation, signature: string): SignedDelegation {
  try {
    return delegation.withSignature(unhex(signature.replace(/^0x/, '')));
  } catch {
    throw new WalletError(
      `the signature is not by ${delegation.wallet}: contract wallets (EIP-1271) cannot delegate`,
    );
  }
}

const isSigner = (wallet: Wallet): wallet is EthersSigner => 'getAddress' in wallet;
const isViem = (wallet: Wallet): wallet is ViemWallet => 'signTypedData' in wallet && !isSigner(wallet);

async function addressOf(wallet: Wallet): Promise<Address> {
  try {
    if (isSigner(wallet)) return parseAddress(await wallet.getAddress());
    if (isViem(wallet)) return parseAddress(wallet.address ?? wallet.account?.address ?? '');
    const accounts: unknown = await wallet.request({ method: 'eth_requestAccounts' });
    return parseAddress(Array.isArray(accounts) ? String(accounts[0]) : '');
  } catch (error) {
    if (error instanceof InvalidAddress)
      throw new UsageError('this wallet has no address that is known here');
    throw new WalletError(`the wallet gives no address: ${reason(error)}`);
  }
}

async function sign(wallet: Wallet, address: Address, data: TypedData): Promise<string> {
  try {
    if (isSigner(wallet)) return await wallet.signTypedData(data.domain, data.types, data.message);
    if (isViem(wallet)) return await wallet.signTypedData({ ...data, account: wallet.account });
    return await wallet.request({ method: 'eth_signTypedData_v4', params: [address, asJson(data)] });
  } catch (error) {
    throw new WalletError(`the wallet does not sign: ${reason(error)}`);
  }
}

/** As `eth_signTypedData_v4` has it. */
function asJson({ domain, types, primaryType, message }: TypedData): string {
  const EIP712Domain = [
    { name: 'name', type: 'string' },
    { name: 'version', type: 'string' },
  ];
  const data = { domain, types: { EIP712Domain, ...types }, primaryType, message };
  return JSON.stringify(data, (_, value) => (typeof value === 'bigint' ? Number(value) : value));
}

function reason(error: unknown): string {
  return error instanceof Error
    ? error.message
    : String((error as { message?: unknown } | null)?.message ?? error);
}
