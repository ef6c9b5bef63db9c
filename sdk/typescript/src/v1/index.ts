/**
 * Version 1 of the protocol, for nodes that have nothing else. It has no forward secrecy, ends with its connection, and
 * shows the length of every token: choose it by name, and only where you must.
 *
 * @module
 */

export { Answer, type Completion, type Piece } from '../answer.js';
export * from '../error.js';
export { InvalidKey, PrivateKey, PublicKey } from '../identity.js';
export { type ConnectOptions, connect, Session, TooOld } from './client.js';
export type { Dialect } from './handshake.js';
