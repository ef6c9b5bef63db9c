/** Debian's Chromium, headless, and a node that serves the page. */

import { existsSync, mkdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { type Browser, type BrowserContext, chromium, type Page } from 'playwright-core';

const FLAGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--no-first-run',
];

/** Pictures to look at: not in git. */
export const shots = fileURLToPath(new URL('../../target/page', import.meta.url));
mkdirSync(shots, { recursive: true });

export function launch(): Promise<Browser> {
  const executablePath = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find(
    existsSync,
  );
  if (!executablePath) throw new Error('there is no Chromium: apt-get install chromium');
  return chromium.launch({ executablePath, args: FLAGS });
}

/** A page that remembers what went wrong in it. */
export async function visit(context: BrowserContext, url: string): Promise<{ page: Page; faults: string[] }> {
  const page = await context.newPage();
  const faults: string[] = [];
  page.on('pageerror', (error) => faults.push(error.message));
  page.on('console', (message) => {
    if (message.type() === 'error') faults.push(message.text());
  });
  await page.goto(url);
  return { page, faults };
}

/** Asks, and waits until the answer has begun. */
export async function ask(page: Page, question: string): Promise<void> {
  const answers = page.locator('article.assistant');
  const before = await answers.count();
  await page.getByLabel('Your question').fill(question);
  await page.getByLabel('Your question').press('Enter');
  await answers.nth(before).waitFor();
}

export async function fresh(page: Page): Promise<void> {
  await page.getByRole('button', { name: 'New conversation', exact: true }).first().click();
  await page.getByRole('heading', { name: 'Nobody on the way reads this' }).waitFor();
}

/** Once the last answer is over. */
export async function answered(page: Page): Promise<string> {
  const last = page.locator('article.assistant').last();
  await last.and(page.locator('article:not(.streaming)')).waitFor({ timeout: 60_000 });
  return (
    (await last
      .locator('.markdown')
      .first()
      .textContent({ timeout: 1000 })
      .catch(() => '')) ?? ''
  );
}
