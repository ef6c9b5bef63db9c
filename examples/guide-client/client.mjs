// The specification's client with its mistakes mended, for Node.js 20.
//
//   node client.mjs ws://127.0.0.1:8080/v1/ws <node public key, hex> "What is the capital of France?"
//
// What differs from the specification's listing: the associated data is the third argument of xchacha20poly1305
// (as an argument of encrypt it binds nothing), `signMessage` is EIP-191 and is written out here, the node's key is
// pinned, and the aad of what comes back is built here and not taken from the frame.
import { xchacha20poly1305 } from '@noble/ciphers/chacha.js';
import { secp256k1 } from '@noble/curves/secp256k1.js';
import { hkdf } from '@noble/hashes/hkdf.js';
import { sha256 } from '@noble/hashes/sha2.js';
import { keccak_256 } from '@noble/hashes/sha3.js';
import { bytesToHex, concatBytes, hexToBytes, randomBytes, utf8ToBytes } from '@noble/hashes/utils.js';
import { WebSocket } from 'ws';

const [url, nodeKeyHex, question] = process.argv.slice(2);
if (!url || !nodeKeyHex || !question) {
  console.error('usage: node client.mjs ws://host:port/v1/ws <node public key> <question>');
  process.exit(2);
}
const sessionId = String(Math.floor(Math.random() * Number.MAX_SAFE_INTEGER));
const wallet = secp256k1.utils.randomSecretKey();
const address = addressOf(wallet);

// 1. An ephemeral key, and what both sides can derive from it.
const ephemeral = secp256k1.utils.randomSecretKey();
const shared = secp256k1.getSharedSecret(ephemeral, hexToBytes(nodeKeyHex)); // 33 bytes, the whole point
const sessionKey = hkdf(sha256, shared, undefined, undefined, 32);

// 2. What is said of the session, sealed and signed.
const sealedInit = seal(JSON.stringify({ jobId: '1', modelName: 'default', clientAddress: address }), 'session_init');
const signature = signMessage(sha256(hexToBytes(sealedInit.ciphertextHex)), wallet);

const socket = new WebSocket(url);
let next = 0;
const timer = setTimeout(() => fail('no answer in time'), 60_000);
socket.on('error', (error) => fail(error.message));
socket.on('close', () => fail('the connection was closed before the answer ended'));
socket.on('open', () =>
  send('encrypted_session_init', {
    ...sealedInit,
    ephPubHex: bytesToHex(secp256k1.getPublicKey(ephemeral, true)),
    signatureHex: signature,
  }),
);
socket.on('message', (data) => {
  const frame = JSON.parse(data.toString());
  switch (frame.type) {
    case 'session_init_ack':
      if (frame.client_address !== address) fail('the node took somebody else for the client');
      send('encrypted_message', seal(question, 'message_0'));
      break;
    case 'encrypted_chunk':
      process.stdout.write(open(frame.payload, `chunk_${next++}`));
      break;
    case 'encrypted_response':
      console.error(`\nfinish reason: ${open(frame.payload, 'final')}`);
      break;
    case 'stream_end':
      sessionKey.fill(0);
      clearTimeout(timer);
      socket.removeAllListeners('close');
      socket.close();
      break;
    case 'error':
      fail(`${frame.code}: ${frame.message}`);
  }
});

function send(type, payload) {
  socket.send(JSON.stringify({ type, session_id: sessionId, payload }));
}

function seal(text, aad) {
  const nonce = randomBytes(24);
  const ciphertext = xchacha20poly1305(sessionKey, nonce, utf8ToBytes(aad)).encrypt(utf8ToBytes(text));
  return { ciphertextHex: bytesToHex(ciphertext), nonceHex: bytesToHex(nonce), aadHex: bytesToHex(utf8ToBytes(aad)) };
}

/** Opens what must be `aad`; whatever the frame says of itself is not used. */
function open(payload, aad) {
  const cipher = xchacha20poly1305(sessionKey, hexToBytes(payload.nonceHex), utf8ToBytes(aad));
  return new TextDecoder().decode(cipher.decrypt(hexToBytes(payload.ciphertextHex)));
}

/** What a wallet's signMessage does with 32 bytes: EIP-191, then r, s, v with v 27 or 28. */
function signMessage(message, key) {
  const digest = keccak_256(concatBytes(utf8ToBytes('\x19Ethereum Signed Message:\n32'), message));
  const [recovery, ...rs] = secp256k1.sign(digest, key, { prehash: false, format: 'recovered' });
  return `0x${bytesToHex(Uint8Array.from([...rs, 27 + recovery]))}`;
}

function addressOf(key) {
  const point = secp256k1.getPublicKey(key, false).subarray(1);
  return `0x${bytesToHex(keccak_256(point).subarray(12))}`;
}

function fail(reason) {
  console.error(`failed: ${reason}`);
  process.exit(1);
}
