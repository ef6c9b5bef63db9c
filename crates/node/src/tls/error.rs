//! Why TLS cannot be spoken as the settings say.

use std::{io, path::PathBuf};

use rustls::server::VerifierBuilderError;

/// What is wrong with a file or a setting of TLS.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message of each says it")]
pub enum TlsError {
    #[error("{setting}: {} cannot be read: {source}", path.display())]
    File { setting: &'static str, path: PathBuf, source: io::Error },
    #[error("TLS_KEY_FILE can be read by others, or written by its group; run: chmod 600 {}, or 640 where a group of the service's own needs it", path.display())]
    KeyMode { path: PathBuf },
    #[error("TLS_KEY_FILE: {} is no regular file", path.display())]
    KeyKind { path: PathBuf },
    #[error("{setting} holds no whole certificate in PEM (-----BEGIN CERTIFICATE-----)")]
    NoCertificate { setting: &'static str },
    #[error("TLS_KEY_FILE holds no whole private key in PEM (RSA, ECDSA or Ed25519, without a password)")]
    NoKey,
    #[error("TLS_KEY_FILE is not the key of the first certificate in TLS_CERT_FILE")]
    Unmatched,
    #[error("the certificate in TLS_CERT_FILE has ended, and the one before has not")]
    Ended,
    #[error("the certificate in TLS_CERT_FILE is not valid before {0}, and the one before is valid now")]
    Early(String),
    #[error("TLS_CLIENT_PINS_FILE, line {line}: not a SHA-256 in hex, which has 64 digits")]
    Pin { line: usize },
    #[error("TLS_CLIENT_PINS_FILE is empty: a file that is to admit nobody says so in a comment (#)")]
    NoPins,
    #[error("TLS_CLIENT_CRL_FILE holds no whole revocation list in PEM (-----BEGIN X509 CRL-----)")]
    NoRevocations,
    #[error("the authorities or revocation lists of clients cannot be used: {0}")]
    Clients(#[from] VerifierBuilderError),
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    #[error("this program was built without ACME: cargo build --release --features acme")]
    NoAcme,
    #[error("ACME_CACHE_DIR: {} can be entered by others; run: chmod 700 {}", path.display(), path.display())]
    AcmeCacheMode { path: PathBuf },
    #[error(
        "this machine has no list of authorities to believe an ACME server by: set ACME_DIRECTORY_CA_FILE"
    )]
    NoAuthorities,
}
