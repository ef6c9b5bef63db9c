//! Authorities, certificates in files, and clients of every kind at the other end of TLS.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test file uses its part of this, and a test is meant to panic"
)]

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, IsCa, KeyIdMethod,
    KeyPair, KeyUsagePurpose, PublicKeyData as _, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::{CryptoProvider, aws_lc_rs::default_provider},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::support::{PATIENCE, TestNode};

/// A certificate with its key.
pub(crate) struct Shown {
    pub(crate) certificate: rcgen::Certificate,
    pub(crate) key: KeyPair,
}

impl Shown {
    /// By nobody but itself.
    pub(crate) fn self_signed(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
        Self { certificate, key }
    }

    /// What TLS_CLIENT_PINS_FILE has of it.
    pub(crate) fn pin(&self) -> String {
        const_hex::encode(Sha256::digest(self.key.subject_public_key_info()))
    }

    pub(crate) fn key_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.serialize_der()))
    }
}

/// A certificate authority.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    pub(crate) fn der(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    pub(crate) fn sign(&self, name: &str) -> Shown {
        self.sign_with(name, |_| {})
    }

    pub(crate) fn sign_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Shown {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        change(&mut params);
        Shown { certificate: params.signed_by(&key, &self.0).unwrap(), key }
    }

    /// A list of what was taken back.
    pub(crate) fn revoke(&self, serials: &[u64]) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(4000, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.0).unwrap().pem().unwrap()
    }

    /// Somebody who believes it.
    pub(crate) fn client(&self) -> ClientConfig {
        self.client_of(default_provider())
    }

    pub(crate) fn client_of(&self, provider: CryptoProvider) -> ClientConfig {
        self.believing(provider).with_no_client_auth()
    }

    /// Somebody who believes it and shows a certificate.
    pub(crate) fn client_showing(&self, shown: &Shown) -> ClientConfig {
        let chain = vec![shown.certificate.der().clone()];
        self.believing(default_provider()).with_client_auth_cert(chain, shown.key_der()).unwrap()
    }

    pub(crate) fn believing(
        &self,
        provider: CryptoProvider,
    ) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(provider));
        builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots)
    }

    /// What our own client believes.
    pub(crate) fn roots(&self) -> fabstir_client::Roots {
        fabstir_client::Roots::from_pem(self.pem().as_bytes()).unwrap()
    }
}

/// Files as an operator has them.
pub(crate) struct Files(TempDir);

impl Files {
    /// With a pair for `localhost` in them.
    pub(crate) fn of(authority: &Authority) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        files.put(&authority.sign("localhost"));
        files
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file at once, as whoever renews certificates should.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let new = self.path("new");
        std::fs::write(&new, text).unwrap();
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::rename(new, self.path(name)).unwrap();
    }

    pub(crate) fn put(&self, shown: &Shown) {
        self.write("cert.pem", &shown.certificate.pem());
        self.write("key.pem", &shown.key.serialize_pem());
    }

    /// The settings that name the pair, and those of `more` with their files.
    pub(crate) fn flags(&self, more: &[(&str, &str)]) -> Vec<String> {
        let flag = |name: &str, file: &str| format!("--{name}={}", self.path(file).display());
        [("tls-cert-file", "cert.pem"), ("tls-key-file", "key.pem")]
            .iter()
            .chain(more)
            .map(|(name, file)| flag(name, file))
            .collect()
    }
}

/// Somebody at the node's port whose handshake is done. Who is turned away in TLS 1.3 learns so when reading.
pub(crate) async fn handshake(
    address: std::net::SocketAddr,
    client: &Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::clone(client)).connect(name, socket).await
}

/// `GET path` over TLS: everything that came back.
pub(crate) async fn get(
    address: std::net::SocketAddr,
    client: ClientConfig,
    path: &str,
) -> std::io::Result<String> {
    let mut stream = handshake(address, &Arc::new(client)).await?;
    ask(&mut stream, path).await
}

pub(crate) async fn ask(stream: &mut TlsStream<TcpStream>, path: &str) -> std::io::Result<String> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap()?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Whether the node serves whoever is like that.
pub(crate) async fn is_served(node: &TestNode, client: ClientConfig) -> bool {
    get(node.address, client, "/health").await.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// The certificate that the node shows at this moment.
pub(crate) async fn shown_by(node: &TestNode, client: ClientConfig) -> CertificateDer<'static> {
    let stream = handshake(node.address, &Arc::new(client)).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

pub(crate) fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}
