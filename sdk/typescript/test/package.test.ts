/** The package as its user gets it: packed, installed somewhere else, and the README's example run as it stands there. */

import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { TestNode } from './testnode.js';

const sdk = fileURLToPath(new URL('..', import.meta.url));
const away = mkdtempSync(join(tmpdir(), 'fabstir-sdk-'));
const run = (command: string, args: string[], env = {}) =>
  execFileSync(command, args, { cwd: away, encoding: 'utf8', env: { ...process.env, ...env } });

let node: TestNode;

beforeAll(async () => {
  execFileSync('npm', ['pack', '--silent', '--pack-destination', away], { cwd: sdk });
  const [tarball] = readdirSync(away);
  writeFileSync(join(away, 'package.json'), JSON.stringify({ name: 'user', private: true, type: 'module' }));
  run('npm', [
    'install',
    '--silent',
    '--no-audit',
    '--no-fund',
    '--prefer-offline',
    `./${tarball}`,
    'ws@8.23.0',
  ]);
  node = await TestNode.start();
}, 120_000);

afterAll(async () => {
  await node?.stop();
  rmSync(away, { recursive: true });
});

test('the example of the README answers', () => {
  const [, example = ''] =
    /```js\n(import \{ connect \}[\s\S]*?)```/.exec(readFileSync(`${sdk}/README.md`, 'utf8')) ?? [];
  writeFileSync(join(away, 'example.js'), example);
  const said = run('node', ['example.js'], { NODE_URL: node.url, NODE_KEY: node.address });
  expect(said).toMatch(/\S[\s\S]*\n\[(stop|length), \d+ tokens\]\n$/);
});

test('it holds what is needed and nothing else, and only @noble/* comes along', () => {
  const installed = join(away, 'node_modules/@fabstir/sdk');
  expect(readdirSync(installed).sort()).toEqual(['LICENSE', 'README.md', 'dist', 'package.json']);
  const { dependencies } = JSON.parse(readFileSync(join(installed, 'package.json'), 'utf8'));
  expect(Object.keys(dependencies).every((name) => name.startsWith('@noble/'))).toBe(true);
});

test('its types resolve, and both entries are there', () => {
  writeFileSync(
    join(away, 'user.ts'),
    `import { connect, type Session, Truncated } from '@fabstir/sdk';
     import { connect as old } from '@fabstir/sdk/v1';
     export const session: Promise<Session> = connect({ url: '', nodeKey: '' });
     export const text: Promise<string> = session.then(async (one) => (await one.chat({ prompt: '' })).text);
     const messages = [{ role: 'user', content: 'hi' }];
     export const answer = session.then((one) => one.chat({ messages, max_tokens: 64 }));
     export const errors: unknown[] = [Truncated, old];
     // @ts-expect-error a node's key is not optional
     connect({ url: '' });`,
  );
  const tsc = join(sdk, 'node_modules/.bin/tsc');
  for (const [module, resolution] of [
    ['nodenext', 'nodenext'],
    ['esnext', 'bundler'],
  ]) {
    const compilerOptions = {
      strict: true,
      noEmit: true,
      target: 'es2022',
      lib: ['es2022', 'dom'],
      types: [],
      module,
      moduleResolution: resolution,
    };
    writeFileSync(join(away, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: ['user.ts'] }));
    run(tsc, []);
  }
});

test('publint finds nothing', () => {
  const said = execFileSync(join(sdk, 'node_modules/.bin/publint'), ['--strict'], {
    cwd: sdk,
    encoding: 'utf8',
  });
  expect(said).toContain('All good!');
});
