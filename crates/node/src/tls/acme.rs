//! Certificates from an ACME server (RFC 8555), which asks on this very port whether the names are ours (TLS-ALPN-01,
//! RFC 8737).

use std::{
    fs::DirBuilder,
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use futures_util::StreamExt as _;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert},
};
use rustls_acme::{
    AccountCache, AcmeConfig, AcmeState, CertCache, ResolvesServerCertAcme, caches::DirCache,
    is_tls_alpn_challenge,
};
use tokio_util::sync::CancellationToken;

use super::{
    TlsError,
    certificate::{Validity, certificates},
    ends::Ends,
    provider,
};
use crate::config::AcmeConfig as Settings;

/// A client of an ACME server.
pub(super) struct Acme {
    resolver: Arc<ResolvesServerCertAcme>,
    challenge: Arc<ServerConfig>,
    /// Until it runs.
    state: Mutex<Option<AcmeState<io::Error>>>,
}

impl Acme {
    /// Everything that can be checked before the server is asked.
    pub(super) fn prepare(settings: &Settings, ends: &Arc<Ends>) -> Result<Self, TlsError> {
        let folder = private_folder(&settings.cache_dir)?;
        let client = Arc::new(client(settings.directory_ca_file.as_deref())?);
        let contact = settings.contact.iter().map(|to| format!("mailto:{to}"));
        let config = AcmeConfig::new_with_client_config(&settings.domains, client)
            .contact(contact)
            .cache(Cache { folder: DirCache::new(folder), ends: Arc::clone(ends) });
        let config = match &settings.directory_url {
            Some(url) => config.directory(url),
            None => config.directory_lets_encrypt(true),
        };
        let state = config.state();
        Ok(Self {
            resolver: state.resolver(),
            challenge: state.challenge_rustls_config_with_provider(provider()),
            state: Mutex::new(Some(state)),
        })
    }

    pub(super) fn resolver(&self) -> Arc<dyn ResolvesServerCert> {
        Arc::<ResolvesServerCertAcme>::clone(&self.resolver)
    }

    /// What to answer the ACME server with, where it is who says hello.
    pub(super) fn challenge(&self, hello: &ClientHello<'_>) -> Option<Arc<ServerConfig>> {
        is_tls_alpn_challenge(hello).then(|| Arc::clone(&self.challenge))
    }

    /// Gets the certificate, and the next one in its time, until `stop`.
    pub(super) async fn renew(&self, stop: CancellationToken) {
        let Some(mut state) = self.state.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return;
        };
        while let Some(Some(event)) = stop.run_until_cancelled(state.next()).await {
            match event {
                Ok(done) => tracing::info!(event = "acme", "ACME: {done:?}"),
                Err(error) => {
                    tracing::warn!(event = "acme", %error, "ACME failed: it is tried again later");
                }
            }
        }
    }
}

fn client(authorities: Option<&Path>) -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    match authorities {
        Some(path) => {
            for certificate in certificates("ACME_DIRECTORY_CA_FILE", path)? {
                roots.add(certificate)?;
            }
        }
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    if roots.is_empty() {
        return Err(TlsError::NoAuthorities);
    }
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// A folder that nobody else may enter: what is kept there are keys.
fn private_folder(path: &Path) -> Result<PathBuf, TlsError> {
    let failed = |source| TlsError::File { setting: "ACME_CACHE_DIR", path: path.into(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    if path.metadata().map_err(failed)?.mode() & 0o077 != 0 {
        return Err(TlsError::AcmeCacheMode { path: path.into() });
    }
    Ok(path.to_owned())
}

/// What is kept in the folder. Sees every certificate that is to be served, and so when it ends.
struct Cache {
    folder: DirCache<PathBuf>,
    ends: Arc<Ends>,
}

impl Cache {
    fn saw(&self, pem: &[u8]) {
        let first = CertificateDer::pem_slice_iter(pem).next().and_then(Result::ok);
        if let Some(validity) = first.and_then(|first| Validity::of(&first)) {
            self.ends.tell(validity);
        }
    }
}

#[async_trait]
impl CertCache for Cache {
    type EC = io::Error;

    async fn load_cert(&self, domains: &[String], directory: &str) -> Result<Option<Vec<u8>>, io::Error> {
        let kept = self.folder.load_cert(domains, directory).await?;
        if let Some(pem) = &kept {
            self.saw(pem);
        }
        Ok(kept)
    }

    async fn store_cert(&self, domains: &[String], directory: &str, pem: &[u8]) -> Result<(), io::Error> {
        self.saw(pem);
        self.folder.store_cert(domains, directory, pem).await
    }
}

#[async_trait]
impl AccountCache for Cache {
    type EA = io::Error;

    async fn load_account(&self, contact: &[String], directory: &str) -> Result<Option<Vec<u8>>, io::Error> {
        self.folder.load_account(contact, directory).await
    }

    async fn store_account(&self, contact: &[String], directory: &str, key: &[u8]) -> Result<(), io::Error> {
        self.folder.store_account(contact, directory, key).await
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_folder_of_keys_is_closed_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        assert_eq!(private_folder(&path).unwrap(), path);
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o700);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o750)).unwrap();
        assert!(private_folder(&path).unwrap_err().to_string().contains("chmod 700"));
    }
}
