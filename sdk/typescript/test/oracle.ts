/** The Rust implementation, asked line by line: crates/protocol/examples/oracle. */

import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { Case } from './vectors.js';

export class Oracle {
  readonly #process: ChildProcess;
  readonly #waiting: ((answer: Case) => void)[] = [];

  constructor() {
    const target =
      process.env['CARGO_TARGET_DIR'] ?? fileURLToPath(new URL('../../../target', import.meta.url));
    const binary = `${target}/debug/examples/oracle`;
    if (!existsSync(binary)) throw new Error('run: cargo build -p fabstir-protocol --example oracle');
    const child = spawn(binary, { stdio: ['pipe', 'pipe', 'inherit'] });
    createInterface({ input: child.stdout }).on('line', (line) => this.#waiting.shift()?.(JSON.parse(line)));
    this.#process = child;
  }

  ask(question: object): Promise<Case> {
    return new Promise((resolve) => {
      this.#waiting.push(resolve);
      this.#process.stdin?.write(`${JSON.stringify(question)}\n`);
    });
  }

  async verdict(question: object): Promise<string> {
    return (await this.ask(question)).verdict;
  }

  close(): void {
    this.#process.stdin?.end();
  }
}
