/**
 * Conversations on this device, where the user asks for it: sealed under a passphrase (PBKDF2-SHA-256 with 600,000 rounds,
 * AES-256-GCM). Without it they are gone, and nobody can help.
 */

const PLACE = 'conversations';
const ROUNDS = 600_000;
const LABEL = new TextEncoder().encode('fabstir page vault 1');
const SALT = 16;
const NONCE = 12;

/** Browsers give cryptography to secure pages alone: https, or this machine. */
export const isPossible = typeof crypto.subtle !== 'undefined';

export const isThere = (): boolean => localStorage.getItem(PLACE) !== null;

export const forget = (): void => localStorage.removeItem(PLACE);

/** Hears when another tab keeps or forgets. */
export function onOthers(listener: (there: boolean) => void): void {
  window.addEventListener('storage', ({ key }) => {
    if (key === PLACE || key === null) listener(isThere());
  });
}

export class Vault {
  readonly #key: CryptoKey;
  readonly #salt: Uint8Array<ArrayBuffer>;

  private constructor(key: CryptoKey, salt: Uint8Array<ArrayBuffer>) {
    this.#key = key;
    this.#salt = salt;
  }

  static async make(passphrase: string): Promise<Vault> {
    const salt = crypto.getRandomValues(new Uint8Array(SALT));
    return new Vault(await derive(passphrase, salt), salt);
  }

  /** What was kept; `undefined` for another passphrase, or for something that was changed. */
  static async open(passphrase: string): Promise<{ vault: Vault; kept: unknown } | undefined> {
    try {
      const bytes = Uint8Array.from(atob(localStorage.getItem(PLACE) ?? ''), (letter) =>
        letter.charCodeAt(0),
      );
      const salt = bytes.slice(0, SALT);
      const iv = bytes.slice(SALT, SALT + NONCE);
      const key = await derive(passphrase, salt);
      const plain = await crypto.subtle.decrypt(
        { name: 'AES-GCM', iv, additionalData: LABEL },
        key,
        bytes.slice(SALT + NONCE),
      );
      return { vault: new Vault(key, salt), kept: JSON.parse(new TextDecoder().decode(plain)) };
    } catch {
      return undefined;
    }
  }

  async save(value: unknown): Promise<void> {
    const iv = crypto.getRandomValues(new Uint8Array(NONCE));
    const plain = new TextEncoder().encode(JSON.stringify(value));
    const sealed = await crypto.subtle.encrypt(
      { name: 'AES-GCM', iv, additionalData: LABEL },
      this.#key,
      plain,
    );
    const bytes = new Uint8Array([...this.#salt, ...iv, ...new Uint8Array(sealed)]);
    localStorage.setItem(PLACE, btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join('')));
  }
}

async function derive(passphrase: string, salt: Uint8Array<ArrayBuffer>): Promise<CryptoKey> {
  const bytes = new TextEncoder().encode(passphrase.normalize('NFKC'));
  const base = await crypto.subtle.importKey('raw', bytes, 'PBKDF2', false, ['deriveKey']);
  const how = { name: 'PBKDF2', hash: 'SHA-256', iterations: ROUNDS, salt };
  return crypto.subtle.deriveKey(how, base, { name: 'AES-GCM', length: 256 }, false, ['encrypt', 'decrypt']);
}
