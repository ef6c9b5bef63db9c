//! `wss://`: a server of TLS in front of a real node, as an operator puts one there, and a node that speaks it itself.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test is meant to panic")]
#![cfg(unix)]

mod support;

use std::{net::SocketAddr, os::unix::fs::PermissionsExt as _, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use support::{TestNode, User, assert_exit, err, out};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};

/// An authority of somebody's own.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate and its key in PEM.
    fn pem(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }

    /// What a server of `name` shows.
    fn server(&self, name: &str) -> ServerConfig {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        builder.unwrap().with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap()
    }
}

/// Ends TLS and passes on what is inside, on a thread that ends with the test.
fn terminate(server: ServerConfig, node: SocketAddr) -> SocketAddr {
    let (sender, started) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            sender.send(listener.local_addr().unwrap()).unwrap();
            let acceptor = TlsAcceptor::from(Arc::new(server));
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(mut inside) = acceptor.accept(stream).await else { return };
                    let mut node = TcpStream::connect(node).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut inside, &mut node).await;
                });
            }
        });
    });
    started.recv().unwrap()
}

#[test]
fn a_node_behind_tls_is_asked_where_its_authority_is_believed() {
    let (node, user, authority) = (TestNode::start(&[]), User::new(), Authority::new());
    let port = terminate(authority.server("localhost"), node.address).port();
    let file = user.file("ca.pem");
    std::fs::write(&file, authority.0.pem()).unwrap();
    let (url, identity) = (format!("wss://localhost:{port}/v1/ws"), node.identity.to_string());
    let ask = |more: &[&str]| user.run(&[&["ask", "--node", &url][..], more, &["hello there"]].concat());
    let believed = ["--ca-file", file.to_str().unwrap()];

    let output = ask(&[&["--node-key", &identity][..], &believed].concat());
    assert_exit(&output, 0);
    assert!(out(&output).contains("hello there"));
    // The proof of its key goes the same way.
    let output = ask(&[&["--trust-first-use"][..], &believed].concat());
    assert_exit(&output, 0);
    let old = [&["--protocol", "1", "--known-nodes", "/dev/null"][..], &believed].concat();
    let key = node.public_key();
    assert_exit(&ask(&[&["--node-key", &key][..], &old].concat()), 0);

    let doctor = |more: &[&str]| {
        let arguments = ["doctor", "--node", &url, "--node-key", &identity, "--proxy", "127.0.0.1:1"];
        user.run(&[&arguments[..], more].concat())
    };
    let output = doctor(&believed);
    assert_exit(&output, 0);
    assert!(out(&output).contains("ok   tls"), "{}", out(&output));
    let output = doctor(&[]);
    assert_exit(&output, 3);
    assert!(out(&output).ends_with("bad  tls\n"), "{}", out(&output));

    // Without the file nobody here believes its authority, and what to do is said.
    let output = ask(&["--node-key", &identity]);
    assert_exit(&output, 3);
    assert!(err(&output).contains("no TLS with the node"), "{}", err(&output));
    assert!(err(&output).contains("--ca-file"), "{}", err(&output));
}

#[test]
fn tls_by_another_name_or_authority_is_refused_and_proves_no_node() {
    let (node, user) = (TestNode::start(&[]), User::new());
    let (authority, other) = (Authority::new(), Authority::new());
    let file = user.file("ca.pem");
    std::fs::write(&file, authority.0.pem()).unwrap();
    let ask = |port: u16, identity: &str| {
        let url = format!("wss://localhost:{port}/v1/ws");
        let file = file.to_str().unwrap();
        user.run(&["ask", "--node", &url, "--node-key", identity, "--ca-file", file, "hello there"])
    };
    let identity = node.identity.to_string();
    for server in [authority.server("example.org"), other.server("localhost")] {
        let output = ask(terminate(server, node.address).port(), &identity);
        assert_exit(&output, 3);
        assert!(err(&output).contains("no TLS with the node"), "{}", err(&output));
    }
    // Nothing but TLS on a port that has it, and no TLS on one that has none.
    let output = ask(node.address.port(), &identity);
    assert_exit(&output, 3);
    assert!(err(&output).contains("ws:// may be meant"), "{}", err(&output));
    // Whoever has a good certificate still is not the node.
    let port = terminate(authority.server("localhost"), node.address).port();
    let output = ask(port, &fabstir_client::random_key().address().to_string());
    assert_exit(&output, 4);

    std::fs::write(&file, "no certificate").unwrap();
    let output = ask(port, &identity);
    assert_exit(&output, 2);
    assert!(err(&output).contains("no certificate in PEM"), "{}", err(&output));
}

/// A file of `user`'s that nobody else may read.
fn private(user: &User, name: &str, text: &str) -> String {
    let path = user.file(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_node_that_asks_for_a_certificate_is_shown_one() {
    let (user, servers, clients) = (User::new(), Authority::new(), Authority::new());
    let (shown, key) = servers.pem("localhost");
    let ca = private(&user, "ca.pem", &servers.0.pem());
    let flags = [
        format!("--tls-cert-file={}", private(&user, "node.pem", &shown)),
        format!("--tls-key-file={}", private(&user, "node.key", &key)),
        format!("--tls-client-ca-file={}", private(&user, "clients.pem", &clients.0.pem())),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let node = TestNode::start(&flags);
    let (url, identity) =
        (format!("wss://localhost:{}/v1/ws", node.address.port()), node.identity.to_string());
    let (chain, key) = clients.pem("alice");
    let both = private(&user, "alice.both", &format!("{chain}{key}"));
    let (chain, key) = (private(&user, "alice.pem", &chain), private(&user, "alice.key", &key));
    let run = |command: &[&str], more: &[&str]| {
        user.run(&[command, &["--node", &url, "--ca-file", &ca][..], more].concat())
    };
    let ask = |more: &[&str]| run(&["ask", "hello there"], more);
    let (pinned, two) =
        (["--node-key", &identity], ["--client-cert-file", &chain, "--client-key-file", &key]);

    for shown in [&two[..], &["--client-cert-file", &both]] {
        let output = ask(&[&pinned[..], shown].concat());
        assert_exit(&output, 0);
        assert!(out(&output).contains("hello there"));
    }
    // The proof of the node's key goes the same way.
    assert_exit(&ask(&[&["--trust-first-use"][..], &two].concat()), 0);
    let nobody = ["--proxy", "127.0.0.1:1"];
    let output = run(&["doctor"], &[&pinned[..], &two, &nobody].concat());
    assert_exit(&output, 0);
    let tls = out(&output).lines().find(|line| line.contains(" tls")).unwrap().to_owned();
    assert!(tls.contains("version 1.3, keys by X25519MLKEM768"), "{tls}");
    assert!(tls.contains("days more"), "{tls}");

    let output = run(&["doctor"], &[&pinned[..], &nobody].concat());
    assert_exit(&output, 3);
    assert!(out(&output).ends_with("bad  tls\n"), "{}", out(&output));
    assert!(err(&output).contains("--client-cert-file"), "{}", err(&output));
    let output = ask(&[&pinned[..], &["--client-cert-file", &chain, "--client-key-file", &both]].concat());
    assert_exit(&output, 0);
    let other = private(&user, "other.key", &clients.pem("bob").1);
    let output = ask(&[&pinned[..], &["--client-cert-file", &chain, "--client-key-file", &other]].concat());
    assert_exit(&output, 2);
    assert!(err(&output).contains("is not that of the first certificate"), "{}", err(&output));
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let output = ask(&[&pinned[..], &two].concat());
    assert_exit(&output, 2);
    assert!(err(&output).contains("chmod 600"), "{}", err(&output));
}
