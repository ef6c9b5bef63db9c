// Makes dist/: what crates/page takes into the binaries. Says what the script weighs, and fails where it is too much.

import { cp, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { gzipSync } from 'node:zlib';
import { build } from 'esbuild';

const MOST = 90 * 1024;
const here = (path) => new URL(path, import.meta.url).pathname;

await rm(here('dist'), { recursive: true, force: true });
await mkdir(here('dist'), { recursive: true });
await build({
  entryPoints: [here('src/main.tsx')],
  outfile: here('dist/app.js'),
  bundle: true,
  minify: true,
  format: 'esm',
  target: 'es2022',
  jsx: 'automatic',
  jsxImportSource: 'preact',
  legalComments: 'none',
  logLevel: 'warning',
});
await build({
  entryPoints: [here('src/style.css')],
  outfile: here('dist/style.css'),
  minify: true,
  logLevel: 'warning',
});
for (const file of ['index.html', 'icon.svg']) await cp(here(`public/${file}`), here(`dist/${file}`));

const weight = gzipSync(await readFile(here('dist/app.js')), { level: 9 }).length;
console.log(`script: ${(weight / 1024).toFixed(1)} KiB with gzip, of ${MOST / 1024} that it may have`);
if (weight > MOST) process.exit(1);
await writeFile(here('dist/weight.txt'), `${weight}\n`);
