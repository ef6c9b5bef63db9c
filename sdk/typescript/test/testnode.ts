/** A real node, and what may happen on the way to it. */

import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { vi } from 'vitest';
import { hex } from '../src/bytes.js';
import type { Address } from '../src/ethereum.js';
import { PrivateKey } from '../src/identity.js';

/** What is run as the node. */
export function binary(): string {
  const target =
    process.env['CARGO_TARGET_DIR'] ?? fileURLToPath(new URL('../../../target', import.meta.url));
  const built = ['release', 'debug']
    .map((profile) => `${target}/${profile}/fabstir-llm-node`)
    .find(existsSync);
  if (!built) throw new Error('there is no node: cargo build --release -p fabstir-llm-node');
  return built;
}

export class TestNode {
  readonly key: PrivateKey;
  readonly address: Address;
  readonly port: number;
  readonly log: string[];
  readonly #process: ChildProcess;

  private constructor(key: PrivateKey, port: number, log: string[], process: ChildProcess) {
    this.key = key;
    this.address = key.address();
    this.port = port;
    this.log = log;
    this.#process = process;
  }

  /** With the default model, unless `ENGINE` says otherwise. */
  static async start(
    settings: Record<string, string | undefined> = {},
    key = PrivateKey.random(),
  ): Promise<TestNode> {
    const child = spawn(binary(), [], {
      env: {
        PATH: process.env['PATH'],
        HOME: process.env['HOME'],
        XDG_CACHE_HOME: process.env['XDG_CACHE_HOME'],
        HOST_PRIVATE_KEY: `0x${hex(key.expose())}`,
        LISTEN_ADDR: '127.0.0.1:0',
        LOG_FORMAT: 'text',
        ...settings,
      },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const log: string[] = [];
    const port = await new Promise<number>((resolve, reject) => {
      for (const stream of [child.stdout, child.stderr]) {
        createInterface({ input: stream }).on('line', (line) => {
          log.push(line);
          // biome-ignore lint/suspicious/noControlCharactersInRegex: a log on a terminal has colours
          const listening = / listening .*?127\.0\.0\.1:(\d+)/.exec(line.replaceAll(/\x1b\[\d*m/g, ''));
          if (listening) resolve(Number(listening[1]));
        });
      }
      child.on('exit', () => reject(new Error(`the node did not start:\n${log.join('\n')}`)));
    });
    return new TestNode(key, port, log, child);
  }

  get url(): string {
    return `ws://127.0.0.1:${this.port}/v1/ws`;
  }

  /** To connect with. */
  get here(): { url: string; nodeKey: string } {
    return { url: this.url, nodeKey: this.address };
  }

  /** Sends a signal, and waits for the line of the log that it leads to. */
  async signal(name: NodeJS.Signals, line: RegExp): Promise<void> {
    this.#process.kill(name);
    await vi.waitUntil(() => this.log.some((said) => line.test(said)), 10_000);
  }

  stop(signal: 'SIGTERM' | 'SIGKILL' = 'SIGKILL'): Promise<void> {
    return new Promise((resolve) => {
      if (this.#process.exitCode !== null || this.#process.signalCode !== null) return resolve();
      this.#process.on('exit', () => resolve());
      this.#process.kill(signal);
    });
  }
}

/** A wire that can be cut. */
export class Wire {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  /** Connections so far. */
  connections = 0;

  private constructor(server: Server) {
    this.#server = server;
  }

  static to(port: number): Promise<Wire> {
    const server = createServer((here) => {
      wire.connections++;
      const there = connect(port, '127.0.0.1');
      for (const [one, other] of [
        [here, there],
        [there, here],
      ] as const) {
        wire.#sockets.add(one);
        one.on('error', () => {});
        one.on('close', () => other.destroy());
        one.pipe(other);
      }
    });
    const wire = new Wire(server);
    return new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(wire)));
  }

  get url(): string {
    const address = this.#server.address();
    return `ws://127.0.0.1:${typeof address === 'object' ? address?.port : 0}/v1/ws`;
  }

  cut(): void {
    for (const socket of this.#sockets) socket.destroy();
    this.#sockets.clear();
  }

  close(): void {
    this.#server.close();
    this.cut();
  }
}
