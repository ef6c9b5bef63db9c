/** The codes of docs/protocol.md, part 3. test/code.test.ts holds them to that table. */

/** Whether to try again: not with the same request, in a new session, or after a while. */
export type Retry = 'no' | 'after a new init' | 'later';

export const CODES = {
  MALFORMED_FRAME: {
    http: 400,
    retry: 'no',
    meaning: 'the frame is not JSON of the form that its type asks for',
  },
  UNKNOWN_MESSAGE_TYPE: { http: 400, retry: 'no', meaning: "the frame's type is not known here" },
  MISSING_SESSION_ID: { http: 400, retry: 'no', meaning: 'session_id is missing' },
  MISSING_PAYLOAD: { http: 400, retry: 'no', meaning: 'payload is missing' },
  MISSING_PAYLOAD_FIELDS: { http: 400, retry: 'no', meaning: 'a field of the payload is missing' },
  INVALID_HEX_ENCODING: { http: 400, retry: 'no', meaning: 'a field is not hex' },
  INVALID_NONCE_SIZE: { http: 400, retry: 'no', meaning: 'a nonce is 24 bytes' },
  INVALID_PAYLOAD: {
    http: 400,
    retry: 'no',
    meaning: 'a length, a point, a key or a field of the sealed data is not valid',
  },
  DECRYPTION_FAILED: {
    http: 400,
    retry: 'after a new init',
    meaning: 'nothing opened; the cause is not told',
  },
  INVALID_SIGNATURE: {
    http: 401,
    retry: 'no',
    meaning: 'the signature is malformed, has a high s, or is not by the claimed address',
  },
  REPLAY_DETECTED: {
    http: 409,
    retry: 'after a new init',
    meaning: 'an index, a nonce, a key or an init was used before, or its timestamp is stale',
  },
  SESSION_KEY_NOT_FOUND: {
    http: 404,
    retry: 'after a new init',
    meaning: 'this connection holds no live key under that id',
  },
  ENCRYPTION_NOT_SUPPORTED: {
    http: 501,
    retry: 'no',
    meaning: 'the node has no private key: it serves plaintext only',
  },
  PLAINTEXT_DISABLED: { http: 403, retry: 'no', meaning: 'the node serves encrypted sessions only' },
  PROTOCOL_TOO_OLD: {
    http: 426,
    retry: 'no',
    meaning: 'the node no longer serves this version of the protocol',
  },
  CLIENT_NOT_ALLOWED: {
    http: 403,
    retry: 'no',
    meaning: 'the client is not on the allow-list, or is on the deny-list',
  },
  RATE_LIMITED: {
    http: 429,
    retry: 'later',
    meaning: 'too much in too short a time; retry_after_ms says how long to wait',
  },
  NODE_BUSY: { http: 503, retry: 'later', meaning: 'a bound of the node is reached' },
  DRAINING: { http: 503, retry: 'later', meaning: 'the node is going away; try another or come back' },
  SLOW_CONSUMER: {
    http: 408,
    retry: 'later',
    meaning: 'the connection did not send its request or read its answers in time',
  },
  MODEL_NOT_FOUND: { http: 404, retry: 'no', meaning: 'the model is not served here' },
  UNSUPPORTED_FIELD: { http: 400, retry: 'no', meaning: 'a field of the request is not supported' },
  TOKEN_LIMIT_EXCEEDED: {
    http: 413,
    retry: 'no',
    meaning: 'the prompt does not fit the context; prompt_tokens and context_window_size say by how much',
  },
  INVALID_UTF8: { http: 400, retry: 'no', meaning: 'the opened message is not UTF-8' },
  ENGINE_FAILED: { http: 502, retry: 'later', meaning: 'the engine failed and is being started again' },
  ENCRYPTION_FAILED: { http: 500, retry: 'after a new init', meaning: 'the answer could not be sealed' },
  INTERNAL_ERROR: { http: 500, retry: 'later', meaning: 'a defect of the node' },
  HANDSHAKE_FAILED: {
    http: 400,
    retry: 'after a new init',
    meaning: "the channel's handshake did not complete",
  },
  CERTIFICATE_INVALID: {
    http: 401,
    retry: 'no',
    meaning: 'a certificate is malformed, expired, revoked or for somebody else',
  },
  REQUEST_TOO_LARGE: { http: 413, retry: 'no', meaning: 'the request is larger than the node takes' },
  ANSWER_GONE: { http: 410, retry: 'no', meaning: 'the answer is no longer kept' },
  RESUMPTION_REFUSED: {
    http: 409,
    retry: 'after a new init',
    meaning: 'the ticket or claim is unknown, spent or expired',
  },
  ORIGIN_NOT_ALLOWED: { http: 403, retry: 'no', meaning: 'pages of this origin may not connect' },
  NOT_FOUND: { http: 404, retry: 'no', meaning: 'there is nothing at this path' },
  CHALLENGE_DISABLED: { http: 403, retry: 'no', meaning: 'challenges of this form are switched off' },
} as const satisfies Record<string, { http: number; retry: Retry; meaning: string }>;

export type Code = keyof typeof CODES;

/** What a code of the node's says; one that is not known here is not tried again. */
export function retryOf(code: string): Retry {
  return Object.hasOwn(CODES, code) ? CODES[code as Code].retry : 'no';
}
