/** Browser wallets that announce themselves (EIP-6963), or the one that sits in `window.ethereum`. */

import type { Eip1193Provider } from '@fabstir/sdk';

export interface Found {
  name: string;
  provider: Eip1193Provider;
}

interface Announcement {
  info: { uuid: string; name: string };
  provider: Eip1193Provider;
}

const announced = new Map<string, Found>();

window.addEventListener('eip6963:announceProvider', (event) => {
  const { info, provider } = (event as CustomEvent<Announcement>).detail;
  announced.set(info.uuid, { name: info.name, provider });
});

export function askForWallets(): void {
  window.dispatchEvent(new Event('eip6963:requestProvider'));
}

export function wallets(): Found[] {
  if (announced.size > 0) return [...announced.values()];
  const { ethereum } = window as { ethereum?: Eip1193Provider };
  return ethereum ? [{ name: 'your browser wallet', provider: ethereum }] : [];
}
