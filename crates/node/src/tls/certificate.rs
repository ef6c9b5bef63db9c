//! The node's certificate chain and its key, read and checked as a pair.

use std::path::Path;

use rustls::{
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};
use zeroize::Zeroize as _;

use super::{TlsError, files};

/// A chain with the key of its first certificate.
pub(super) struct Shown {
    pub(super) certified: CertifiedKey,
    /// When the first certificate is valid.
    pub(super) validity: Validity,
}

/// When a certificate is valid, in unix seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Validity {
    pub(super) not_before: i64,
    pub(super) not_after: i64,
}

impl Validity {
    /// Of a certificate in DER; `None` where it is none.
    pub(super) fn of(certificate: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let of = certificate.validity();
        Some(Self { not_before: of.not_before.timestamp(), not_after: of.not_after.timestamp() })
    }

    /// Whether it is valid at `now`.
    pub(super) fn holds(self, now: i64) -> bool {
        self.not_before <= now && now < self.not_after
    }
}

/// Reads TLS_CERT_FILE and TLS_KEY_FILE.
pub(super) fn read(chain: &Path, key: &Path) -> Result<Shown, TlsError> {
    let chain = certificates("TLS_CERT_FILE", chain)?;
    let validity = chain.first().and_then(|first| Validity::of(first));
    let validity = validity.ok_or(TlsError::NoCertificate { setting: "TLS_CERT_FILE" })?;
    let text = files::read_private(key)?;
    let mut key = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_| TlsError::NoKey)?;
    let signing = any_supported_type(&key);
    // AWS-LC has its own copy, and wipes it when it goes.
    key.zeroize();
    let certified = CertifiedKey::new(chain, signing.map_err(|_| TlsError::NoKey)?);
    certified.keys_match().map_err(|_| TlsError::Unmatched)?;
    Ok(Shown { certified, validity })
}

/// The certificates in the file of a setting.
pub(super) fn certificates(
    setting: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = files::read(setting, path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    all.ok().filter(|all| !all.is_empty()).ok_or(TlsError::NoCertificate { setting })
}
