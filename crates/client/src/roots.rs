//! What TLS shows and believes on the way to a node.

use std::{fmt, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs::{default_provider, sign::any_supported_type},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::{CertifiedKey, SingleCertAndKey},
};
use zeroize::Zeroize as _;

use crate::Error;

/// Whose certificates are believed where the address is `wss://`, and which one is shown to a node that asks for one. Who
/// the node is, is not decided here: the channel inside proves its pinned identity whatever this is.
#[derive(Clone, Default)]
pub struct Roots {
    /// `None` are those that this machine believes.
    believed: Option<Arc<RootCertStore>>,
    shown: Option<Arc<CertifiedKey>>,
}

/// Not certificates in PEM.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("no certificate in PEM (-----BEGIN CERTIFICATE-----)")]
pub struct InvalidRoots;

/// Not a certificate that can be shown.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidCertificate {
    /// There is none.
    #[error("no certificate in PEM (-----BEGIN CERTIFICATE-----)")]
    NoCertificate,
    /// There is no key.
    #[error("no private key in PEM (RSA, ECDSA or Ed25519, without a password)")]
    NoKey,
    /// The key is another one's.
    #[error("the private key is not that of the first certificate")]
    Unmatched,
}

impl Roots {
    /// Those of a file in PEM, and no others.
    ///
    /// # Errors
    /// [`InvalidRoots`] where it holds none, or one that cannot be read.
    pub fn from_pem(pem: &[u8]) -> Result<Self, InvalidRoots> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            roots.add(certificate.map_err(|_| InvalidRoots)?).map_err(|_| InvalidRoots)?;
        }
        if roots.is_empty() {
            return Err(InvalidRoots);
        }
        Ok(Self { believed: Some(Arc::new(roots)), shown: None })
    }

    /// The same, and a certificate to show where the node asks for one (mutual TLS): a chain and its first one's key, each
    /// in PEM, of one file or of two.
    ///
    /// # Errors
    /// [`InvalidCertificate`].
    pub fn showing(self, chain: &[u8], key: &[u8]) -> Result<Self, InvalidCertificate> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
        let chain = chain.ok().filter(|all| !all.is_empty()).ok_or(InvalidCertificate::NoCertificate)?;
        let mut key = PrivateKeyDer::from_pem_slice(key).map_err(|_| InvalidCertificate::NoKey)?;
        let signing = any_supported_type(&key);
        // AWS-LC has its own copy, and wipes it when it goes.
        key.zeroize();
        let shown = CertifiedKey::new(chain, signing.map_err(|_| InvalidCertificate::NoKey)?);
        shown.keys_match().map_err(|_| InvalidCertificate::Unmatched)?;
        Ok(Self { shown: Some(Arc::new(shown)), ..self })
    }

    /// The settings of TLS. X25519MLKEM768 comes first among the groups, which a feature of rustls sees to.
    ///
    /// # Errors
    /// [`Error::Tls`] where this machine has no certificates that it believes.
    pub fn tls(&self) -> Result<ClientConfig, Error> {
        let roots = match &self.believed {
            Some(roots) => Arc::clone(roots),
            None => {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                if roots.is_empty() {
                    return Err(Error::Tls("this machine has no list of authorities".into()));
                }
                Arc::new(roots)
            }
        };
        // Named here: which provider is the process's default is nobody's to rely on.
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| Error::Tls(error.to_string()))?.with_root_certificates(roots);
        Ok(match &self.shown {
            None => builder.with_no_client_auth(),
            Some(shown) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(shown))))
            }
        })
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let believed = self.believed.as_ref().map(|roots| roots.len());
        f.debug_struct("Roots")
            .field("believed", &believed)
            .field("shows", &self.shown.is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_is_no_root() {
        for pem in ["", "x", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            assert!(Roots::from_pem(pem.as_bytes()).is_err(), "{pem}");
        }
    }

    #[test]
    fn what_cannot_be_shown_is_refused_before_anybody_asks() {
        let refused =
            |chain: &str, key: &str| Roots::default().showing(chain.as_bytes(), key.as_bytes()).unwrap_err();
        assert_eq!(refused("", ""), InvalidCertificate::NoCertificate);
        let chain = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(refused(chain, "x"), InvalidCertificate::NoKey);
        assert_eq!(refused(chain, chain), InvalidCertificate::NoKey);
    }
}
