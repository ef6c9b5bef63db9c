/** The page in a real browser, against a real node with a real model. */

import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { PrivateKey, PublicKey, SessionDelegation } from '@fabstir/sdk';
import type { Browser, BrowserContext, Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { TestNode, Wire } from '../../sdk/typescript/test/testnode.js';
import { answered, ask, fresh, launch, shots, visit } from './browser.js';

let browser: Browser;
let context: BrowserContext;
let node: TestNode;
let here: string;

beforeAll(async () => {
  [browser, node] = await Promise.all([launch(), TestNode.start()]);
  here = `http://127.0.0.1:${node.port}/`;
});
afterAll(async () => {
  await browser?.close();
  await node?.stop();
});
beforeEach(async () => {
  context = await browser.newContext({ viewport: { width: 1280, height: 800 } });
});
afterEach(() => context.close());

const LONG = 'Tell me a very long story about the sea and the ships on it.';
const open = (page: Page) => page.getByText('Sealed end to end').waitFor();
const steady = (page: Page) => page.getByLabel('What the model is told first').waitFor();

/** Greedy, so that an answer is the same each time. */
async function greedy(page: Page): Promise<void> {
  await page.locator('.status').click();
  await steady(page);
  await page.getByLabel(/Temperature/).fill('0');
  await page.getByLabel(/Longest answer/).fill('150');
  await page.getByRole('button', { name: 'Close: Who is there' }).click();
}

test('a first visit gets an answer, and is asked for nothing', async () => {
  const { page, faults } = await visit(context, here);
  await open(page);
  await page.screenshot({ path: `${shots}/first.png` });
  await greedy(page);
  await ask(page, 'What is the capital of France?');
  expect(await answered(page)).toContain('Paris');
  await page.screenshot({ path: `${shots}/answer.png` });
  expect(faults).toEqual([]);
});

test('it says whom one talks to, and what that is not', async () => {
  const { page } = await visit(context, here);
  await open(page);
  await page.locator('.status').click();
  const panel = page.getByRole('complementary', { name: 'Who is there' });
  const text = ((await panel.textContent()) ?? '').toLowerCase();
  expect(text).toContain(node.address);
  for (const words of ['version 2', 'padded', 'operator can read', 'as far as the tls', 'anonymous']) {
    expect(text).toContain(words);
  }
  expect(await panel.locator('.words').textContent()).toMatch(/^(\w+ ){5}\w+$/);
  await page.screenshot({ path: `${shots}/identity.png` });
  await page.getByRole('button', { name: /they match/ }).click();
  await panel.getByText('You have compared its words').waitFor();
});

test('stop stops the answer at the node', async () => {
  const { page } = await visit(context, here);
  await open(page);
  await ask(page, LONG);
  await page.locator('article.streaming .markdown').waitFor();
  await page.getByRole('button', { name: 'Stop' }).click();
  await answered(page);
  await page
    .getByText(/stopped/)
    .first()
    .waitFor();
  await ask(page, 'What is the capital of France?');
  expect((await answered(page)).length).toBeGreaterThan(0);
});

test('an answer goes on over a connection that is cut', async () => {
  const wire = await Wire.to(node.port);
  const { page } = await visit(context, wire.url.replace('ws:', 'http:').replace('/v1/ws', '/'));
  await open(page);
  await greedy(page);
  await ask(page, LONG);
  const uncut = await answered(page);
  await page.getByRole('button', { name: 'Regenerate' }).click();
  await page.locator('article.streaming .markdown').waitFor();
  const before = wire.connections;
  wire.cut();
  expect(await answered(page)).toBe(uncut);
  expect(wire.connections).toBeGreaterThan(before);
  wire.close();
});

test('another node than the pinned one is refused, and said to be so', async () => {
  const other = `0x${'11'.repeat(20)}`;
  const { page } = await visit(context, `${here}#node=${other}`);
  const refusal = page.getByRole('alert');
  await refusal.getByText('This is not the node you know').waitFor();
  const text = (await refusal.textContent())?.toLowerCase();
  expect(text).toContain(other);
  expect(text).toContain(node.address);
  await page.screenshot({ path: `${shots}/refused.png` });
  expect(await page.getByRole('button', { name: 'Send' }).isDisabled()).toBe(true);
});

test('a node that was compared once is recognised, and another one refused', async () => {
  const { page } = await visit(context, here);
  await open(page);
  await page.evaluate((address) => localStorage.setItem('node', address), `0x${'22'.repeat(20)}`);
  await page.reload();
  await page.getByText('This is not the node you know').waitFor();
  await page.getByRole('button', { name: /accept the new identity/ }).click();
  await open(page);
});

test('the wire shows frames and nothing of what was said', async () => {
  const { page } = await visit(context, here);
  await open(page);
  await greedy(page);
  await ask(page, 'What is the capital of France?');
  await answered(page);
  await page.getByRole('button', { name: 'What travels on the wire' }).click();
  const panel = page.getByRole('complementary', { name: 'On the wire' });
  await panel.getByRole('cell', { name: 'received record' }).first().waitFor();
  const table = (await panel.locator('table').textContent()) ?? '';
  expect(table).not.toContain('capital');
  expect(table).toContain('handshake 3');
  await page.screenshot({ path: `${shots}/wire.png` });
});

test('conversations are several, and kept only on request, sealed', async () => {
  const { page } = await visit(context, here);
  await open(page);
  await ask(page, 'What is the capital of France?');
  await answered(page);
  await fresh(page);
  await ask(page, 'What is the capital of Italy?');
  await answered(page);
  expect(await page.evaluate(() => JSON.stringify(localStorage))).toBe('{}');
  await page.getByRole('button', { name: 'Keep them on this device' }).click();
  await page.getByLabel('Passphrase').fill('short');
  await page.getByRole('button', { name: 'Keep', exact: true }).click();
  await page.getByText('Twelve characters').waitFor();
  await page.getByLabel('Passphrase').fill('correct horse battery');
  await page.getByRole('button', { name: 'Keep', exact: true }).click();
  await page.getByText('Kept on this device').waitFor();
  await page.waitForFunction(() => localStorage.getItem('conversations'));
  expect(await page.evaluate(() => atob(localStorage.getItem('conversations') ?? ''))).not.toContain('Italy');

  await page.reload();
  await open(page);
  await page.getByRole('button', { name: 'Unlock' }).click();
  await page.getByLabel('Passphrase').fill('another passphrase');
  await page.getByRole('button', { name: 'Unlock' }).click();
  await page.getByText('Another passphrase').waitFor();
  await page.getByLabel('Passphrase').fill('correct horse battery');
  await page.getByRole('button', { name: 'Unlock' }).click();
  await page.getByRole('button', { name: 'What is the capital of Italy?', exact: true }).click();
  await page.locator('article.user', { hasText: 'Italy' }).waitFor();
  await page.getByRole('button', { name: 'Forget what is kept' }).click();
  expect(await page.evaluate(() => localStorage.length)).toBe(0);
});

const PASSPHRASE = 'correct horse battery';

async function keep(page: Page): Promise<void> {
  await page.getByRole('button', { name: 'Keep them on this device' }).click();
  await page.getByLabel('Passphrase').fill(PASSPHRASE);
  await page.getByRole('button', { name: 'Keep', exact: true }).click();
  await page.getByText('Kept on this device').waitFor();
  await page.waitForFunction(() => localStorage.getItem('conversations'));
}

async function unlock(page: Page): Promise<void> {
  await page.getByRole('button', { name: 'Unlock' }).click();
  await page.getByLabel('Passphrase').fill(PASSPHRASE);
  await page.getByRole('button', { name: 'Unlock' }).click();
  await page.getByText('Kept on this device').waitFor();
}

test('stop stops the answer that is shown, and no other', async () => {
  const { page } = await visit(context, here);
  await open(page);
  await greedy(page);
  await ask(page, LONG);
  await fresh(page);
  await ask(page, 'Tell me a very long story about a mountain.');
  await page.getByRole('button', { name: LONG, exact: true }).click();
  await page.locator('article.user', { hasText: LONG }).waitFor();
  await page.getByRole('button', { name: 'Stop' }).click();
  await page
    .getByText(/stopped/)
    .first()
    .waitFor();
  await page
    .getByRole('button', { name: 'Tell me a very long story about a mountain.', exact: true })
    .click();
  await page.locator('article.user', { hasText: 'mountain' }).waitFor();
  await answered(page);
  expect(await page.getByText(/^stopped/).count()).toBe(0);
});

test('an answer that was coming while it was kept can be asked for again', async () => {
  const { page } = await visit(context, here);
  await open(page);
  await ask(page, LONG);
  await keep(page);
  await page.reload();
  await open(page);
  await unlock(page);
  await page.getByRole('button', { name: 'Regenerate' }).click();
  await page.getByRole('button', { name: 'Stop' }).click();
  await answered(page);
});

test('what one tab forgets no other keeps', async () => {
  const { page } = await visit(context, here);
  await open(page);
  await ask(page, 'What is the capital of France?');
  await answered(page);
  await keep(page);
  const { page: other } = await visit(context, here);
  await open(other);
  await unlock(other);
  // The first hears of the other's keeping, and has to unlock again.
  await page.getByText('There are conversations of before').waitFor();
  await other.getByRole('button', { name: 'Forget what is kept' }).click();
  await page.getByText('Kept in this page alone').waitFor();
  await ask(page, 'What is the capital of Italy?');
  await answered(page);
  expect(await page.evaluate(() => localStorage.length)).toBe(0);
});

test('a link with a pin counts in a page that is open already', async () => {
  const { page } = await visit(context, here);
  await open(page);
  await page.evaluate(
    (pin) => {
      location.hash = `#node=${pin}`;
    },
    `0x${'11'.repeat(20)}`,
  );
  await page.getByText('This is not the node you know').waitFor();
});

test('what was said stays to be read when the session ends, and a new identity is called one', async () => {
  const first = await TestNode.start({ ENGINE: 'echo' });
  const { page } = await visit(context, `http://127.0.0.1:${first.port}/`);
  await open(page);
  await ask(page, 'remember this');
  await answered(page);
  await first.stop();
  const second = await TestNode.start({ ENGINE: 'echo', LISTEN_ADDR: `127.0.0.1:${first.port}` });
  await page.getByText('This is not the node you know').waitFor();
  await page.locator('article.user', { hasText: 'remember this' }).waitFor();
  await page.screenshot({ path: `${shots}/ended.png` });
  await second.stop();
});

/** A browser wallet over a key that lies outside of the page. */
async function walletOf(context: BrowserContext, key: PrivateKey, asked: string[]): Promise<void> {
  await context.exposeFunction('wallet', (method: string, params: string[] = []) => {
    asked.push(method);
    if (method === 'eth_requestAccounts') return [key.address()];
    const { message } = JSON.parse(params[1] ?? '');
    const delegateKey = PublicKey.read(Buffer.from(message.delegateKey.slice(2), 'hex'));
    const delegation = new SessionDelegation({
      ...message,
      wallet: key.address(),
      node: message.node.toLowerCase(),
      delegateKey,
    });
    return `0x${Buffer.from(delegation.sign(key).signature).toString('hex')}`;
  });
  await context.addInitScript(() => {
    const { wallet } = window as unknown as {
      wallet: (method: string, params?: unknown[]) => Promise<unknown>;
    };
    (window as { ethereum?: unknown }).ethereum = {
      request: ({ method, params }: { method: string; params?: unknown[] }) => wallet(method, params),
    };
  });
}

test('a browser wallet signs once, and lets its owner in where nobody else is', async () => {
  const key = PrivateKey.random();
  const asked: string[] = [];
  await walletOf(context, key, asked);
  const strict = await TestNode.start({ ENGINE: 'echo', ALLOWED_CLIENTS: key.address() });
  const { page } = await visit(context, `http://127.0.0.1:${strict.port}/`);
  await page.getByRole('alert').getByText('connect a wallet').waitFor();
  await page.locator('.status').click();
  await page.getByRole('button', { name: 'Ask in the name of your browser wallet' }).click();
  await open(page);
  await page.getByText('in the name of your browser wallet').waitFor();
  await ask(page, 'for my wallet');
  expect(await answered(page)).toContain('for my wallet');
  expect(asked).toEqual(['eth_requestAccounts', 'eth_signTypedData_v4']);
  await strict.stop();
});

test('a wallet that says no is an answer like another', async () => {
  const { page } = await visit(context, here);
  await open(page);
  await page.evaluate(() => {
    (window as { ethereum?: unknown }).ethereum = {
      request: async ({ method }: { method: string }) => {
        if (method === 'eth_requestAccounts') return [`0x${'33'.repeat(20)}`];
        throw Object.assign(new Error('User rejected the request.'), { code: 4001 });
      },
    };
  });
  await page.locator('.status').click();
  await page.getByRole('button', { name: 'Ask in the name of your browser wallet' }).click();
  await page.getByRole('alert').getByText('User rejected').waitFor();
  await page.getByRole('button', { name: 'Try again' }).click();
  await open(page);
});

test('a node without a key is told to be one, and nothing is said in the clear', async () => {
  const bare = await TestNode.start({ HOST_PRIVATE_KEY: '', ENGINE: 'echo' }).catch(() => undefined);
  if (!bare) return;
  const { page } = await visit(context, `http://127.0.0.1:${bare.port}/`);
  await page
    .getByRole('alert')
    .getByText(/says nothing in the clear/)
    .waitFor();
  await bare.stop();
});

test('the proxy serves the same page, and knows which node it is', async () => {
  const home = mkdtempSync(join(tmpdir(), 'fabstir-page-'));
  const binary = fileURLToPath(new URL('../../target/release/fabstir', import.meta.url));
  const args = [
    'proxy',
    '--listen',
    '127.0.0.1:0',
    '--anonymous',
    '--node',
    node.url,
    '--node-key',
    node.address,
  ];
  const env = { PATH: process.env['PATH'], HOME: home, XDG_CONFIG_HOME: home };
  const proxy = spawn(binary, args, { env, stdio: ['ignore', 'pipe', 'inherit'] });
  const place = await new Promise<string>((resolve) =>
    proxy.stdout.once('data', (line) => resolve(String(line).trim())),
  );
  const { page, faults } = await visit(context, place.replace('/v1', '/'));
  await open(page);
  await greedy(page);
  await ask(page, 'What is the capital of France?');
  expect(await answered(page)).toContain('Paris');
  await page.locator('.status').click();
  const text = await page.getByRole('complementary', { name: 'Who is there' }).textContent();
  expect(text).toContain('Your own proxy says which node it must be');
  expect(text).toContain('from the proxy on your own machine');
  expect(faults).toEqual([]);
  proxy.kill('SIGINT');
  await new Promise((resolve) => proxy.once('exit', resolve));
  rmSync(home, { recursive: true });
});

describe('for everybody', () => {
  const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
  const check = async (page: Page) => {
    await page.evaluate(axe);
    const found = await page.evaluate(() =>
      (
        window as unknown as {
          axe: { run(): Promise<{ violations: { id: string; nodes: { html: string }[] }[] }> };
        }
      ).axe.run(),
    );
    return found.violations.map(({ id, nodes }) => `${id}: ${nodes[0]?.html}`);
  };

  test.each(['light', 'dark'] as const)('axe finds nothing in the %s page', async (colorScheme) => {
    const themed = await browser.newContext({ colorScheme, viewport: { width: 1280, height: 800 } });
    const { page } = await visit(themed, here);
    await open(page);
    expect(await check(page)).toEqual([]);
    await ask(page, 'Write a short list in Markdown.');
    await answered(page);
    expect(await check(page)).toEqual([]);
    for (const name of ['On the wire', 'Who is there']) {
      if (name === 'On the wire')
        await page.getByRole('button', { name: 'What travels on the wire' }).click();
      else await page.locator('.status').click();
      await page.getByRole('complementary', { name }).waitFor();
      expect(await check(page)).toEqual([]);
    }
    await page.screenshot({ path: `${shots}/${colorScheme}.png` });
    await themed.close();
  });

  test('the keyboard does for all of it', async () => {
    const { page } = await visit(context, here);
    await open(page);
    // The question has the focus from the beginning.
    await page.keyboard.type('What is the capital of France?');
    await page.keyboard.press('Shift+Enter');
    await page.keyboard.type('In one word.');
    await page.keyboard.press('Enter');
    await answered(page);
    await page.locator('.status').focus();
    await page.keyboard.press('Enter');
    await page.getByRole('complementary', { name: 'Who is there' }).waitFor();
    await page.keyboard.press('Escape');
    await page.getByRole('complementary', { name: 'Who is there' }).waitFor({ state: 'detached' });
    expect(await page.evaluate(() => document.activeElement?.className)).toBe('status');
  });

  test('it fits a phone', async () => {
    const phone = await browser.newContext({
      viewport: { width: 375, height: 720 },
      hasTouch: true,
      isMobile: true,
    });
    const { page } = await visit(phone, here);
    await open(page);
    await page.screenshot({ path: `${shots}/phone-first.png` });
    await ask(page, 'What is the capital of France?');
    await answered(page);
    expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(375);
    await page.screenshot({ path: `${shots}/phone.png` });
    await page.getByRole('button', { name: 'Conversations' }).click();
    await page.getByRole('button', { name: 'New conversation', exact: true }).first().waitFor();
    await page.screenshot({ path: `${shots}/phone-conversations.png` });
    await phone.close();
  });
});
