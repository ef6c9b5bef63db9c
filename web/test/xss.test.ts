/** A hostile model: the corpus through the engine's mouth, and no script runs. */

import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Browser, Page } from 'playwright-core';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { TestNode } from '../../sdk/typescript/test/testnode.js';
import { answered, ask, fresh, launch, visit } from './browser.js';
import { payloads } from './xss.js';

let browser: Browser;
let node: TestNode;
const kinds = Object.entries(payloads);

beforeAll(async () => {
  // It says back what it is told, word by word: the payload comes sealed, and in pieces.
  [browser, node] = await Promise.all([launch(), TestNode.start({ ENGINE: 'echo' })]);
});
afterAll(async () => {
  await browser?.close();
  await node?.stop();
});

/** Moves over, focuses and clicks whatever came of it. */
async function provoke(page: Page, scope: string): Promise<void> {
  await page.evaluate((scope) => {
    for (const element of document.querySelectorAll(`${scope} *`)) {
      for (const type of ['mouseover', 'pointerover', 'focus', 'click']) {
        if (type === 'click' && element instanceof HTMLAnchorElement) {
          // Where a link leads to the web it does what it says.
          if (/^https?:/.test(element.href)) continue;
          element.target = '_self';
        }
        element.dispatchEvent(new MouseEvent(type, { bubbles: true, cancelable: true }));
      }
    }
  }, scope);
}

test('the corpus is of a hundred kinds, and bites where nothing holds it', async () => {
  expect(kinds.length).toBeGreaterThanOrEqual(100);
  expect(new Set(Object.values(payloads)).size).toBe(kinds.length);
  const page = await browser.newPage();
  const bites: string[] = [];
  const control = 'http://127.0.0.1:1/';
  let current = '';
  await page.exposeFunction('pwned', () => bites.push(current));
  await page.route('**/*', (route) => route.fulfill({ contentType: 'text/html', body: '<p>control</p>' }));
  for (const [kind, payload] of kinds) {
    current = kind;
    // A payload that leads the page elsewhere may be on its way there still, and get in the way once.
    await page.goto(control).catch(() => page.goto(control));
    await page.evaluate((payload) => {
      (window as unknown as { pwn: () => void }).pwn = () =>
        (window as unknown as { pwned: () => void }).pwned();
      document.write(`<!doctype html><div id=here>${payload}</div>`);
      document.close();
    }, payload);
    await provoke(page, '#here').catch(() => {});
  }
  expect(new Set(bites).size).toBeGreaterThan(50);
  await page.close();
});

test('no script of it runs in the page', async () => {
  const context = await browser.newContext();
  const ran: string[] = [];
  let current = '';
  await context.exposeFunction('pwn', () => ran.push(current));
  const { page } = await visit(context, `http://127.0.0.1:${node.port}/`);
  const elsewhere: string[] = [];
  page.on('request', (request) => {
    if (new URL(request.url()).host !== `127.0.0.1:${node.port}`)
      elsewhere.push(`${current}: ${request.url()}`);
  });
  page.on('dialog', (dialog) => dialog.dismiss());
  context.on('page', (other) => {
    if (!other.url().startsWith('https://nowhere.invalid')) elsewhere.push(`${current}: a window`);
    void other.close();
  });
  await page.getByText('Sealed end to end').waitFor();
  for (const [kind, payload] of kinds) {
    current = kind;
    await fresh(page);
    await ask(page, payload);
    await answered(page);
    await provoke(page, 'article.assistant .markdown');
    const left = await page.evaluate(() => {
      const elements = [...document.querySelectorAll('article.assistant .markdown *')];
      const names = elements.map((element) => element.localName);
      const bad = [
        'script',
        'img',
        'svg',
        'math',
        'iframe',
        'object',
        'embed',
        'style',
        'link',
        'form',
        'input',
        'base',
        'meta',
      ];
      const handlers = elements.flatMap((element) =>
        element.getAttributeNames().filter((name) => name.startsWith('on')),
      );
      const links = elements.map((element) => element.getAttribute('href') ?? 'https:');
      return [
        ...names.filter((name) => bad.includes(name)),
        ...handlers,
        ...links.filter((href) => !/^(https?|mailto):/.test(href)),
      ];
    });
    expect(left, kind).toEqual([]);
  }
  expect(ran).toEqual([]);
  expect(elsewhere).toEqual([]);
  // The page is still alive, and what was said is there to read.
  await ask(page, 'still here');
  expect(await answered(page)).toContain('still here');
  await context.close();
});

test('Markdown becomes what is harmless of it, and HTML stays to be read', async () => {
  const context = await browser.newContext();
  await context.grantPermissions(['clipboard-read', 'clipboard-write']);
  const { page } = await visit(context, `http://127.0.0.1:${node.port}/`);
  await page.getByText('Sealed end to end').waitFor();
  await ask(page, '**bold** <b>raw</b> [link](https://nowhere.invalid/a)\n\n```js\nlet a = 1;\n```');
  const said = await answered(page);
  expect(said).toContain('<b>raw</b>');
  const last = page.locator('article.assistant').last();
  expect(await last.locator('strong').textContent()).toBe('bold');
  expect(await last.locator('b').count()).toBe(0);
  expect(await last.locator('pre code.language-js').textContent()).toContain('let a = 1;');
  expect(await last.locator('a').getAttribute('rel')).toContain('noopener');
  const clipboard = () => page.evaluate(() => navigator.clipboard.readText());
  await last.getByRole('button', { name: 'Copy this code' }).click();
  await last.getByText('Copied').waitFor();
  expect(await clipboard()).toBe('let a = 1;\n');
  await last.getByRole('button', { name: 'Copy the answer' }).click();
  await last.getByRole('button', { name: 'Copied' }).last().waitFor();
  expect(await clipboard()).toContain('**bold** <b>raw</b>');
  await context.close();
});

test('what nobody can read as Markdown is shown as it is, and the page goes on', async () => {
  const said: Record<string, string> = {
    quotes: `${'> '.repeat(2000)}x`,
    stars: `${'**'.repeat(5000)}x${'**'.repeat(5000)}`,
    lists: `${'- '.repeat(3000)}x`,
    words: 'still here',
  };
  // A model that is stuck, behind a node.
  const model = createServer((request, response) => {
    if (request.method === 'GET')
      return response.end(JSON.stringify({ object: 'list', data: [{ id: 'stuck' }] }));
    let body = '';
    request.on('data', (part) => {
      body += part;
    });
    request.on('end', () => {
      const content = said[JSON.parse(body).messages.at(-1).content] ?? '?';
      response.setHeader('content-type', 'text/event-stream');
      const chunk = (choice: object) =>
        response.write(`data: ${JSON.stringify({ choices: [{ index: 0, ...choice }] })}\n\n`);
      chunk({ delta: { content } });
      chunk({ delta: {}, finish_reason: 'stop' });
      response.end('data: [DONE]\n\n');
    });
  });
  await new Promise<void>((resolve) => model.listen(0, '127.0.0.1', resolve));
  const { port } = model.address() as AddressInfo;
  const behind = await TestNode.start({ ENGINE_URL: `http://127.0.0.1:${port}/v1` });
  const context = await browser.newContext();
  const { page, faults } = await visit(context, `http://127.0.0.1:${behind.port}/`);
  await page.getByText('Sealed end to end').waitFor();
  for (const [question, text] of Object.entries(said)) {
    await ask(page, question);
    expect((await answered(page)).slice(0, 4), question).toBe(text.slice(0, 4));
  }
  expect(faults).toEqual([]);
  await context.close();
  await behind.stop();
  model.close();
});

test('what would get past the sanitiser is held by the policy', async () => {
  const context = await browser.newContext();
  const ran: string[] = [];
  await context.exposeFunction('pwn', () => ran.push('ran'));
  const { page } = await visit(context, `http://127.0.0.1:${node.port}/`);
  await page.getByText('Sealed end to end').waitFor();
  // Strings are no script here, whoever hands them over.
  const refused = await page.evaluate(async () => {
    // Of its own, and not inside of the debugger's call, which may evaluate.
    await new Promise((resolve) => setTimeout(resolve));
    const tries: (() => unknown)[] = [
      () => {
        document.body.innerHTML = '<img src=x onerror=pwn()>';
      },
      () => new Function('pwn()')(),
      () => {
        document.createElement('script').text = 'pwn()';
      },
      () => document.createElement('img').setAttribute('onerror', 'pwn()'),
    ];
    return tries.map((attempt) => {
      try {
        attempt();
        return 'taken';
      } catch (error) {
        return (error as Error).name;
      }
    });
  });
  expect(refused).toEqual(['TypeError', 'EvalError', 'TypeError', 'TypeError']);
  // And what is made by hand is not run either: no address of a script, and no address but the page's own.
  await page.evaluate(() => {
    const image = document.createElement('img');
    image.src = 'https://nowhere.invalid/x.png';
    const link = document.createElement('a');
    link.href = 'javascript:pwn()';
    document.body.append(image, link);
    link.click();
  });
  const blocked = await page.evaluate(
    () =>
      new Promise((resolve) =>
        fetch('https://nowhere.invalid/').then(
          () => resolve('sent'),
          () => resolve('blocked'),
        ),
      ),
  );
  expect(blocked).toBe('blocked');
  expect(ran).toEqual([]);
  await context.close();
});
