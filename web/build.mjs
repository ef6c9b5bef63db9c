// Makes dist/: what crates/page takes into the binaries. Says what the script weighs, and fails where it is too much.

import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { gzipSync } from 'node:zlib';
import { build } from 'esbuild';

const MOST = 90 * 1024;
const here = (path) => new URL(path, import.meta.url).pathname;

/** Only what has changed is written: cargo looks at times, and would link the binaries again for nothing. */
async function put(name, bytes) {
  const before = await readFile(here(`dist/${name}`)).catch(() => undefined);
  if (!before?.equals(bytes)) await writeFile(here(`dist/${name}`), bytes);
}

/** The one file that comes of an entry. */
async function made(entry) {
  const { outputFiles } = await build({
    entryPoints: [here(entry)],
    write: false,
    bundle: true,
    minify: true,
    format: 'esm',
    target: 'es2022',
    jsx: 'automatic',
    jsxImportSource: 'preact',
    legalComments: 'none',
    logLevel: 'warning',
  });
  return Buffer.from(outputFiles[0].contents);
}

await mkdir(here('dist'), { recursive: true });
const script = await made('src/main.tsx');
await put('app.js', script);
await put('style.css', await made('src/style.css'));
for (const file of ['index.html', 'icon.svg']) await put(file, await readFile(here(`public/${file}`)));

const weight = gzipSync(script, { level: 9 }).length;
console.log(`script: ${(weight / 1024).toFixed(1)} KiB with gzip, of ${MOST / 1024} that it may have`);
if (weight > MOST) process.exit(1);
