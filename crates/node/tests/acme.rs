//! Certificates from a real ACME server (pebble), which looks for the node by a name service of the test's own. In a build
//! with the feature `acme`: scripts/test-acme.sh.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test is meant to panic"
)]

#[path = "support/pki.rs"]
mod pki;
mod support;

use std::{
    net::SocketAddr,
    os::unix::fs::MetadataExt as _,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use fabstir_llm_node::{config::Config, listener::Listener, metrics, node::Node, server, tls::Tls};
use pki::{Authority, Files, Shown, ask, get};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use serde_json::json;
use support::{PATIENCE, echo, settings};
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::TlsConnector;

const NAME: &str = "node.test";

/// A program of the test's, which ends with it.
struct Running(Child);

impl Running {
    fn start(program: &str, arguments: &[String], environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(program);
        command.args(arguments).envs(environment.iter().copied());
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Self(child.unwrap_or_else(|error| panic!("{program}: {error}; run scripts/test-acme.sh")))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An ACME server that finds every name on this machine, at the port of `node`.
struct Pebble {
    directory: String,
    management: SocketAddr,
    _programs: [Running; 2],
}

/// Ports that are free now, for programs that cannot take any.
async fn free<const N: usize>() -> [SocketAddr; N] {
    let mut held = Vec::new();
    for _ in 0..N {
        held.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
    }
    std::array::from_fn(|at| held[at].local_addr().unwrap())
}

impl Pebble {
    async fn start(files: &Files, node: SocketAddr) -> Self {
        let [directory, management, names, names_management] = free().await;
        let config = json!({ "pebble": {
            "listenAddress": directory.to_string(),
            "managementListenAddress": management.to_string(),
            "certificate": files.path("cert.pem"),
            "privateKey": files.path("key.pem"),
            "httpPort": 1,
            "tlsPort": node.port(),
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
        }});
        files.write("pebble.json", &config.to_string());
        let off = ["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", ""].map(str::to_owned);
        let own =
            ["-dns01".to_owned(), names.to_string(), "-management".to_owned(), names_management.to_string()];
        let names_server = Running::start("pebble-challtestsrv", &[&off[..], &own].concat(), &[]);
        let path = files.path("pebble.json").to_str().unwrap().to_owned();
        let arguments = ["-config".to_owned(), path, "-dnsserver".to_owned(), names.to_string()];
        let environment = [("PEBBLE_VA_NOSLEEP", "1"), ("PEBBLE_WFE_NONCEREJECT", "0")];
        let server = Running::start("pebble", &arguments, &environment);
        let directory = format!("https://localhost:{}/dir", directory.port());
        Self { directory, management, _programs: [names_server, server] }
    }

    /// Whose certificates it gives.
    async fn root(&self, authority: &Authority) -> CertificateDer<'static> {
        let page = timeout(PATIENCE, async {
            loop {
                match get(self.management, authority.client(), "/roots/0").await {
                    Ok(page) => break page,
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        })
        .await
        .expect("pebble starts");
        CertificateDer::from_pem_slice(page.as_bytes()).unwrap()
    }
}

/// Serves with these settings from now on.
fn serve(listener: TcpListener, config: Config, key: Option<fabstir_llm_node::crypto::NodeKey>) {
    let tls = Tls::load(config.tls.as_ref().unwrap()).unwrap();
    let node = Node::new(config, key, echo()).unwrap();
    tokio::spawn(server::run(Listener::new(listener, Some(tls)), node, metrics::start().unwrap()));
}

/// What the node shows to a client that knows it by its name, once it has something to show; and that it answers.
async fn shown(
    address: SocketAddr,
    root: &CertificateDer<'static>,
    alice: &Shown,
) -> CertificateDer<'static> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    let chain = vec![alice.certificate.der().clone()];
    let connector =
        TlsConnector::from(Arc::new(builder.with_client_auth_cert(chain, alice.key_der()).unwrap()));
    let mut stream = timeout(PATIENCE, async {
        loop {
            let socket = TcpStream::connect(address).await.unwrap();
            match connector.connect(ServerName::try_from(NAME).unwrap(), socket).await {
                Ok(stream) => break stream,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    })
    .await
    .expect("the node has a certificate");
    let answer = ask(&mut stream, "/health").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

#[tokio::test]
async fn a_certificate_is_ordered_served_and_kept() {
    let (authority, alice) = (Authority::new(), Shown::self_signed("alice"));
    let files = Files::of(&authority);
    files.write("ca.pem", &authority.pem());
    files.write("pins", &alice.pin());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let pebble = Pebble::start(&files, address).await;
    let root = pebble.root(&authority).await;
    let cache = files.path("acme");
    let flags = [
        format!("--acme-domains={NAME}"),
        "--acme-contact=operator@node.test".to_owned(),
        format!("--acme-directory-url={}", pebble.directory),
        format!("--acme-directory-ca-file={}", files.path("ca.pem").display()),
        format!("--acme-cache-dir={}", cache.display()),
        // The ACME server has no certificate to show, and is not asked for one.
        format!("--tls-client-pins-file={}", files.path("pins").display()),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let (config, key, _) = settings(&flags);
    serve(listener, config.clone(), key);
    let ordered = shown(address, &root, &alice).await;
    // Which is not what pebble shows itself.
    assert_ne!(ordered.as_ref(), authority.der().as_ref());
    timeout(PATIENCE, async {
        while std::fs::read_dir(&cache).unwrap().count() < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("account and certificate are kept");
    assert_eq!(cache.metadata().unwrap().mode() & 0o777, 0o700);
    drop(pebble);

    // Another start finds it, with nobody to ask.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (_, key, _) = settings(&flags);
    serve(listener, config, key);
    assert_eq!(shown(address, &root, &alice).await, ordered);
}
