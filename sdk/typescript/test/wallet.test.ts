/** Wallets of three kinds, asked once, against a node that lets nobody else in. */

import { Wallet as EthersWallet } from 'ethers';
import { createWalletClient, custom } from 'viem';
import { generatePrivateKey, privateKeyToAccount } from 'viem/accounts';
import { mainnet } from 'viem/chains';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { connect, delegate, memoryStore, Refused, type Wallet, WalletError } from '../src/index.js';
import { TestNode } from './testnode.js';

const account = privateKeyToAccount(generatePrivateKey());
const ethers = EthersWallet.createRandom();
let node: TestNode;

beforeAll(async () => {
  node = await TestNode.start({ ENGINE: 'echo', ALLOWED_CLIENTS: `${account.address},${ethers.address}` });
});
afterAll(() => node.stop());

const question = { messages: [{ role: 'user' as const, content: 'for my wallet' }] };

/** A browser wallet over the same key. */
const provider = {
  request: async ({ method, params }: { method: string; params?: unknown[] }) => {
    if (method === 'eth_requestAccounts') return [account.address];
    if (method !== 'eth_signTypedData_v4' || params?.[0] !== account.address.toLowerCase())
      throw new Error(method);
    const data = JSON.parse(String(params[1]));
    expect(data.types.EIP712Domain).toHaveLength(2);
    return account.signTypedData(data);
  },
};

const wallets: [string, () => Wallet][] = [
  ['an account of viem', () => account],
  [
    'a wallet client of viem',
    () => createWalletClient({ account, chain: mainnet, transport: custom(provider) }),
  ],
  ['a browser wallet', () => provider],
  ['a signer of ethers', () => ethers],
];

test.each(wallets)('%s speaks for its address', async (_, make) => {
  const session = await connect({ ...node.here, wallet: make(), delegations: memoryStore() });
  expect((await session.chat(question)).text).toBe('for my wallet');
  session.close();
});

test('ethers signs what viem signs', async () => {
  const key = generatePrivateKey();
  const byEthers = await delegate(new EthersWallet(key), { node: node.address, store: memoryStore() });
  const byViem = await delegate(privateKeyToAccount(key), { node: node.address, store: memoryStore() });
  for (const { delegation } of [byEthers, byViem]) {
    expect(delegation?.verify(delegation.delegation.delegateKey, node.address, (Date.now() / 1000) | 0)).toBe(
      privateKeyToAccount(key).address.toLowerCase(),
    );
  }
});

test('nobody else is let in, and the code says so', async () => {
  await expect(connect(node.here)).rejects.toMatchObject({ code: 'CLIENT_NOT_ALLOWED' });
  const other = privateKeyToAccount(generatePrivateKey());
  await expect(connect({ ...node.here, wallet: other })).rejects.toBeInstanceOf(Refused);
});

test('a wallet is asked once for a node, and again when its word ends', async () => {
  let asked = 0;
  const wallet = {
    address: account.address,
    signTypedData: (data: never) => {
      asked++;
      return account.signTypedData(data);
    },
  };
  const store = memoryStore();
  const first = await delegate(wallet, { node: node.address, store });
  const again = await delegate(wallet, { node: node.address, store });
  expect(asked).toBe(1);
  const beside = memoryStore();
  await Promise.all([1, 2, 3].map(() => delegate(wallet, { node: node.address, store: beside })));
  expect(asked).toBe(2);
  asked = 1;
  expect(again.key.address()).toBe(first.key.address());
  await delegate(wallet, { node: `0x${'11'.repeat(20)}`, store });
  expect(asked).toBe(2);
  const tomorrow = Math.floor(Date.now() / 1000) + 24 * 3600 - 60;
  await delegate(wallet, { node: node.address, store, now: tomorrow });
  expect(asked).toBe(3);
});

test('what is kept and spoilt is asked for anew', async () => {
  const store = { load: () => new Uint8Array(186), save: () => {} };
  const identity = await delegate(account, { node: node.address, store });
  expect(identity.delegation?.delegation.wallet).toBe(account.address.toLowerCase());
});

test('a wallet that signs something else is found out', async () => {
  const other = privateKeyToAccount(generatePrivateKey());
  const liar = { address: account.address, signTypedData: (data: never) => other.signTypedData(data) };
  await expect(delegate(liar, { node: 'any', store: memoryStore() })).rejects.toThrow(/contract wallets/);
});

test('a wallet that says no is an error with its words', async () => {
  const refusing = {
    request: async ({ method }: { method: string }) => {
      if (method === 'eth_requestAccounts') return [account.address];
      throw { code: 4001, message: 'User rejected the request.' };
    },
  };
  const asked = delegate(refusing, { node: 'any', store: memoryStore() });
  await expect(asked).rejects.toBeInstanceOf(WalletError);
  await expect(asked).rejects.toThrow(/User rejected/);
});
