//! A server behind the node over TLS, with and without a certificate of the node's own: real handshakes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test is meant to panic")]

use std::{sync::Arc, time::Duration};

use fabstir_engine::{ApiKey, UpstreamConfig, UpstreamEngine, UpstreamError};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    time::timeout,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::aws_lc_rs::default_provider,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
        server::WebPkiClientVerifier,
    },
};

/// A certificate authority and what it signs.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn sign(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.0).unwrap(), key)
    }

    fn pem(&self) -> Vec<u8> {
        self.0.pem().into_bytes()
    }

    fn identity(&self, name: &str) -> ApiKey {
        let (certificate, key) = self.sign(name);
        ApiKey::from(format!("{}{}", certificate.pem(), key.serialize_pem()).as_str())
    }
}

/// A server that lists one model to whoever completes the handshake.
async fn serve(authority: &Authority, clients: Option<&Authority>) -> String {
    let (certificate, key) = authority.sign("localhost");
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(clients) => {
            let mut roots = RootCertStore::empty();
            roots.add(clients.0.der().clone()).unwrap();
            let provider = Arc::new(default_provider());
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = builder.with_single_cert(vec![certificate.der().clone()], key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/v1", listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut socket) = acceptor.accept(socket).await else { return };
                let mut head = [0; 2048];
                let _ = socket.read(&mut head).await;
                let body = r#"{"data":[{"id":"m"}]}"#;
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                let _ = socket.write_all(answer.as_bytes()).await;
                let _ = socket.shutdown().await;
            });
        }
    });
    url
}

/// Whether the engine finds the server's model.
async fn connects(config: UpstreamConfig) -> bool {
    // One that is refused is asked again and again: that it is not found soon is the answer.
    match timeout(Duration::from_secs(2), UpstreamEngine::connect(config)).await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => panic!("{error}"),
        Err(_) => false,
    }
}

#[tokio::test]
async fn a_server_is_trusted_by_its_authority_alone() {
    let authority = Authority::new();
    let url = serve(&authority, None).await;
    let trusting =
        |trust: Option<Vec<u8>>| UpstreamConfig { trust, ..UpstreamConfig::new(vec![url.clone()]) };
    assert!(connects(trusting(Some(authority.pem()))).await);
    assert!(!connects(trusting(Some(Authority::new().pem()))).await, "another authority");
    assert!(!connects(trusting(None)).await, "the public ones do not know it");
}

#[tokio::test]
async fn a_server_that_asks_for_a_certificate_is_shown_one() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let url = serve(&authority, Some(&clients)).await;
    let showing = |identity: Option<ApiKey>| UpstreamConfig {
        trust: Some(authority.pem()),
        identity,
        ..UpstreamConfig::new(vec![url.clone()])
    };
    assert!(connects(showing(Some(clients.identity("node")))).await);
    assert!(!connects(showing(None)).await, "without one");
    assert!(!connects(showing(Some(Authority::new().identity("node")))).await, "by somebody else");
    let nonsense = showing(Some(ApiKey::from("nonsense")));
    assert!(matches!(UpstreamEngine::connect(nonsense).await, Err(UpstreamError::Tls(_))));
}
