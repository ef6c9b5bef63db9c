//! Why the node does not start with its settings.

use super::HOST_PRIVATE_KEY;
use super::{InvalidList, InvalidNetwork, TlsSettingsError};

/// Why the node does not start.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message of each says it")]
pub enum ConfigError {
    #[error("{setting} needs {HOST_PRIVATE_KEY}, or another source of a key, and none is set")]
    NeedsKey { setting: &'static str },
    #[error("{setting} means nothing without {needed}, which is not set")]
    Needs { setting: &'static str, needed: &'static str },
    #[error("{setting} is of the servers at ENGINE_URL, which is not set")]
    NeedsEngineUrl { setting: &'static str },
    #[error("{setting}: {error}")]
    Pkcs11Uri { setting: &'static str, error: fabstir_custody::InvalidUri },
    #[error("LISTEN_ADDR and METRICS_LISTEN meet at port {port}: give one of them another")]
    SamePort { port: u16 },
    #[error("{one} and {other} contradict each other: set one of them")]
    Contradiction { one: &'static str, other: &'static str },
    #[error(
        "SESSION_MAX_SECONDS is less than SESSION_KEY_TTL_SECONDS: an idle session would outlive the longest one"
    )]
    MaxBelowTtl,
    #[error("DRAIN_SECONDS is less than DRAIN_AT_LEAST_SECONDS: the first is how long a drain may last")]
    DrainBelowLeast,
    #[error(
        "INITS_PER_MINUTE is more than the memory of inits holds for one network during SESSION_KEY_TTL_SECONDS: \
         lower one of them, to {most} inits a minute at most"
    )]
    InitsAboveMemory { most: u64 },
    #[error("MAX_TOKENS_PER_REQUEST is more than CONTEXT_TOKENS, which holds prompt and answer together")]
    MaxTokensAboveContext,
    #[error("KV_TYPE q8_0 and q4_0 need flash attention: leave FLASH_ATTENTION at auto or on")]
    KvTypeNeedsFlashAttention,
    #[error("MAX_FRAME_BYTES is less than {least}, which a record of version 2 may take")]
    FrameBelowRecord { least: usize },
    #[error("ALLOWED_CLIENTS: {0:?} is not an Ethereum address")]
    ClientAddress(String),
    #[error("ALLOWED_CLIENTS_FILE: {0}")]
    AllowedFile(#[source] InvalidList),
    #[error("DENIED_CLIENTS_FILE: {0}")]
    DeniedFile(#[source] InvalidList),
    #[error("TRUSTED_PROXIES: {0}")]
    Proxies(#[from] InvalidNetwork),
    #[error("ALLOWED_ORIGINS: {0:?} is not an origin like https://example.org")]
    Origin(String),
    #[error("{setting}: {text:?} is not `default`, a path, or hf:owner/repo/file.gguf")]
    Model { setting: &'static str, text: String },
    #[error(transparent)]
    Tls(#[from] TlsSettingsError),
    #[error("{path} holds {HOST_PRIVATE_KEY} and can be read by others; run: chmod 600 {path}")]
    EnvFileMode { path: String },
    #[error(
        "{path} is somebody else's, or can be written by everybody, who could have this user run commands: take it as your own \
         (chown) and run: chmod o-w {path}; or start in another folder"
    )]
    EnvFileOfOthers { path: String },
    #[error("{path} cannot be read: {reason}")]
    EnvFile { path: String, reason: String },
}
