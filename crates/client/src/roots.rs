//! Whose certificates are believed on the way to a node.

use std::{fmt, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use crate::Error;

/// Whose certificates are believed where the address is `wss://`. Who the node is, is not decided here: the channel inside
/// proves its pinned identity whatever this is.
#[derive(Clone, Default)]
pub enum Roots {
    /// Those that this machine believes.
    #[default]
    System,
    /// These alone.
    Only(Arc<RootCertStore>),
}

/// Not certificates in PEM.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("no certificate in PEM (-----BEGIN CERTIFICATE-----)")]
pub struct InvalidRoots;

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
        if roots.is_empty() { Err(InvalidRoots) } else { Ok(Self::Only(Arc::new(roots))) }
    }

    /// The settings of TLS.
    ///
    /// # Errors
    /// [`Error::Tls`] where this machine has no certificates that it believes.
    pub fn tls(&self) -> Result<ClientConfig, Error> {
        let roots = match self {
            Self::Only(roots) => Arc::clone(roots),
            Self::System => {
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
        let builder = builder.map_err(|error| Error::Tls(error.to_string()))?;
        Ok(builder.with_root_certificates(roots).with_no_client_auth())
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System => f.write_str("System"),
            Self::Only(roots) => write!(f, "Only({})", roots.len()),
        }
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
}
