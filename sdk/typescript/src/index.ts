/**
 * Ask a fabstir-llm-node over an end-to-end encrypted session.
 *
 * Nothing is ever sent in the clear, and nothing but version 2 is spoken: version 1 is `@fabstir/sdk/v1`, and its use is
 * the caller's choice. A frame that does not open ends the session. An answer is whole only with its sealed end.
 *
 * @module
 */

export { Answer, type Choice, type Completion, type Piece, type ToolCall } from './answer.js';
export { CODES, type Code, type Retry, retryOf } from './code.js';
export * from './error.js';
export { type Address, checksum, InvalidAddress, parseAddress } from './ethereum.js';
export { fabstirFetch } from './fetch.js';
export { InvalidKey, PrivateKey, PublicKey } from './identity.js';
export {
  type AskOptions,
  type ChatRequest,
  type ConnectOptions,
  connect,
  type Message,
  type Op,
  Session,
} from './session.js';
export type { Capture, WebSocketClass, WebSocketLike } from './socket.js';
export type { End, Model, Shape, Usage, Welcome } from './v2/body.js';
export { CertificateError, SessionDelegation, SignedDelegation } from './v2/certificate.js';
export type { ClientIdentity } from './v2/handshake.js';
export {
  type DelegateOptions,
  type DelegationStore,
  delegate,
  type Eip1193Provider,
  type EthersSigner,
  memoryStore,
  type ViemWallet,
  type Wallet,
} from './wallet.js';
export { safetyWords } from './words.js';
