//! TLS on the node's own port: which, how it is renewed, and what becomes of handshakes that come to nothing.

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

use std::{sync::Arc, time::Duration};

use fabstir_client::{Config, Event, Request, Session, anonymous};
use fabstir_llm_node::{config, metrics, node::Node, server};
use pki::{Authority, Files, ask, get, handshake, is_served, shown_by, text};
use rustls::{
    HandshakeKind, NamedGroup, ProtocolVersion,
    crypto::aws_lc_rs::{default_provider, kx_group},
    version::{TLS12, TLS13},
};
use serde_json::json;
use support::{PATIENCE, Peer, TestNode, echo, rng, settings, until};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{Connector, client_async_tls_with_config, tungstenite::Message};

/// A node with the certificate in `files`, which are looked at often.
async fn start(files: &Files, more: &[&str], change: impl FnOnce(&mut config::Config)) -> TestNode {
    let flags = files.flags(&[]);
    let flags: Vec<&str> = flags.iter().map(String::as_str).chain(more.iter().copied()).collect();
    TestNode::with(echo(), &flags, |config| {
        config.tls.as_mut().unwrap().poll_interval = Duration::from_millis(20);
        change(config);
    })
    .await
}

fn asking(node: &TestNode, authority: &Authority) -> Config {
    let url = format!("wss://localhost:{}/v1/ws", node.address.port());
    Config { roots: authority.roots(), ..Config::new(url, node.key.address(), anonymous()) }
}

async fn say(session: &Session, words: &str) -> String {
    let mut answer = session.ask(&Request::prompt(words)).await.unwrap();
    let mut said = String::new();
    while let Some(event) = timeout(PATIENCE, answer.next()).await.unwrap().unwrap() {
        if let Event::Text(text) = event {
            said.push_str(text.as_str());
        }
    }
    said
}

#[tokio::test]
async fn a_session_inside_of_tls_is_a_session() {
    let authority = Authority::new();
    let node = start(&Files::of(&authority), &[], |_| {}).await;
    let session = Session::connect(asking(&node, &authority)).await.unwrap();
    assert_eq!(say(&session, "hello there").await.trim(), "hello there");
    let page = get(node.address, authority.client(), "/page.json").await.unwrap();
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("\"served_by\":\"node\""), "{page}");
    session.close().await;
    node.stop().await;
}

#[tokio::test]
async fn tls_1_3_alone_is_spoken_unless_1_2_is_asked_for() {
    let authority = Authority::new();
    let files = Files::of(&authority);
    let spoken = async |node: &TestNode, version| {
        let builder = rustls::ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let mut roots = rustls::RootCertStore::empty();
        roots.add(authority.der()).unwrap();
        let builder = builder.with_protocol_versions(&[version]).unwrap();
        let client = builder.with_root_certificates(roots).with_no_client_auth();
        let stream = handshake(node.address, &Arc::new(client)).await.ok()?;
        stream.get_ref().1.protocol_version()
    };
    let node = start(&files, &[], |_| {}).await;
    assert_eq!(spoken(&node, &TLS13).await, Some(ProtocolVersion::TLSv1_3));
    assert_eq!(spoken(&node, &TLS12).await, None);
    let older = start(&files, &["--tls-min-version=1.2"], |_| {}).await;
    assert_eq!(spoken(&older, &TLS13).await, Some(ProtocolVersion::TLSv1_3));
    assert_eq!(spoken(&older, &TLS12).await, Some(ProtocolVersion::TLSv1_2));
}

#[tokio::test]
async fn the_post_quantum_group_is_chosen_and_who_has_none_is_served_too() {
    let authority = Authority::new();
    let node = start(&Files::of(&authority), &[], |_| {}).await;
    let group = async |client| {
        let stream = handshake(node.address, &Arc::new(client)).await.unwrap();
        stream.get_ref().1.negotiated_key_exchange_group().unwrap().name()
    };
    assert_eq!(group(authority.client()).await, NamedGroup::X25519MLKEM768);
    let mut provider = default_provider();
    provider.kx_groups = vec![kx_group::X25519];
    assert_eq!(group(authority.client_of(provider)).await, NamedGroup::X25519);
    let ours = asking(&node, &authority).roots.tls().unwrap();
    assert_eq!(group(ours).await, NamedGroup::X25519MLKEM768);
}

#[tokio::test]
async fn http_1_1_is_what_both_sides_agree_on() {
    let authority = Authority::new();
    let node = start(&Files::of(&authority), &[], |_| {}).await;
    let offering = |protocols: &[&[u8]]| {
        let mut client = authority.client();
        client.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Arc::new(client)
    };
    let stream = handshake(node.address, &offering(&[b"h2", b"http/1.1"])).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert!(handshake(node.address, &offering(&[b"h2"])).await.is_err());
}

#[tokio::test]
async fn a_ticket_resumes_and_nothing_is_taken_early() {
    let authority = Authority::new();
    let node = start(&Files::of(&authority), &[], |_| {}).await;
    let mut client = authority.client();
    client.enable_early_data = true;
    let client = Arc::new(client);
    let mut first = handshake(node.address, &client).await.unwrap();
    assert_eq!(first.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
    ask(&mut first, "/health").await.unwrap();
    let mut second = handshake(node.address, &client).await.unwrap();
    assert_eq!(second.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
    assert!(!second.get_ref().1.is_early_data_accepted());
    assert!(second.get_mut().1.early_data().is_none(), "the ticket offers none");
    ask(&mut second, "/health").await.unwrap();
}

#[tokio::test]
async fn a_renewed_certificate_is_served_and_running_connections_go_on() {
    let authority = Authority::new();
    let files = Files::of(&authority);
    let node = start(&files, &[], |_| {}).await;
    let session = Session::connect(asking(&node, &authority)).await.unwrap();
    assert_eq!(say(&session, "before").await.trim(), "before");
    let renewed = authority.sign("localhost");
    // The certificate first, as most programs do: for a moment there is no pair.
    files.write("cert.pem", &renewed.certificate.pem());
    files.write("key.pem", &renewed.key.serialize_pem());
    let expected = renewed.certificate.der().clone();
    timeout(PATIENCE, async {
        while shown_by(&node, authority.client()).await != expected {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the renewed certificate is served");
    assert_eq!(say(&session, "after").await.trim(), "after");
    assert_eq!(session.connections_replaced(), 0);
}

#[tokio::test]
async fn files_that_are_no_pair_leave_the_old_one_in_place() {
    let authority = Authority::new();
    let files = Files::of(&authority);
    let node = start(&files, &[], |config| config.tls.as_mut().unwrap().poll_interval = PATIENCE).await;
    let tls = node.tls.as_ref().unwrap();
    let (before, other) = (text(&files.path("cert.pem")), authority.sign("localhost"));
    let ended = authority.sign_with("localhost", |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    let refused = || tls.reload().unwrap_err().to_string();
    files.write("cert.pem", &other.certificate.pem());
    assert!(refused().contains("is not the key of"), "a certificate without its key");
    files.write("cert.pem", &before[..before.len() / 2]);
    assert!(refused().contains("no whole certificate"), "half of one");
    files.write("cert.pem", &before);
    files.write("key.pem", "");
    assert!(refused().contains("no whole private key"), "no key");
    std::fs::remove_file(files.path("key.pem")).unwrap();
    assert!(refused().contains("cannot be read"), "no file");
    files.put(&ended);
    assert!(refused().contains("has ended"), "one that is over");
    let early = authority.sign_with("localhost", |params| {
        params.not_before = rcgen::date_time_ymd(2090, 1, 1);
        params.not_after = rcgen::date_time_ymd(2091, 1, 1);
    });
    files.put(&early);
    assert!(refused().contains("is not valid before Jan  1"), "one that is not valid yet");
    std::fs::remove_file(files.path("cert.pem")).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(files.path("cert.pem")).status().unwrap().success());
    assert!(refused().contains("is no regular file"), "a pipe, to which nobody writes");
    std::fs::remove_file(files.path("cert.pem")).unwrap();
    assert_ne!(shown_by(&node, authority.client()).await, *ended.certificate.der());
    assert!(is_served(&node, authority.client()).await);
    files.put(&other);
    tls.reload().unwrap();
    assert_eq!(shown_by(&node, authority.client()).await, *other.certificate.der());
}

#[tokio::test]
async fn a_slow_handshake_holds_nobody_up_counts_and_ends() {
    let authority = Authority::new();
    let node = start(&Files::of(&authority), &["--max-connections=3"], |config| {
        config.header_timeout = Duration::from_millis(300);
    })
    .await;
    let mut silent = TcpStream::connect(node.address).await.unwrap();
    let mut halting = TcpStream::connect(node.address).await.unwrap();
    // The beginning of a record, and no more of it.
    halting.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
    until("both to count", || node.node.connections.load(std::sync::atomic::Ordering::Relaxed) == 2).await;
    assert!(is_served(&node, authority.client()).await);
    let mut rest = Vec::new();
    for socket in [&mut silent, &mut halting] {
        let _ = timeout(PATIENCE, socket.read_to_end(&mut rest)).await.expect("it is closed in time");
    }
    assert!(rest.is_empty());
    let page = get(node.address, authority.client(), "/metrics").await.unwrap();
    let counted = |result: &str| {
        let line = format!("fabstir_tls_handshakes_total{{result=\"{result}\"}} ");
        let count = page.lines().find_map(|text| text.strip_prefix(line.as_str()));
        count.and_then(|count| count.parse::<u64>().ok()).unwrap_or_default()
    };
    assert!(counted("timeout") >= 2 && counted("ok") >= 2, "{page}");
}

#[tokio::test]
async fn plain_http_is_told_to_use_https() {
    let authority = Authority::new();
    let node = start(&Files::of(&authority), &[], |_| {}).await;
    let (status, body) = node.http("GET", "/v1/ws", &[("upgrade", "websocket")], "").await;
    assert_eq!(status, 400);
    assert!(body.contains("https://") && body.contains("wss://"), "{body}");
    // What is neither is closed, after the alert of TLS.
    let mut socket = TcpStream::connect(node.address).await.unwrap();
    socket.write_all(b"\x00nonsense").await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, socket.read_to_end(&mut answer)).await.expect("it is closed");
    assert_eq!(answer.first(), Some(&21), "{answer:?}");
}

#[tokio::test]
async fn a_node_that_is_full_says_so_inside_of_tls() {
    let authority = Authority::new();
    let node = start(&Files::of(&authority), &["--max-connections=1"], |_| {}).await;
    let open = handshake(node.address, &Arc::new(authority.client())).await.unwrap();
    let refused = get(node.address, authority.client(), "/health").await.unwrap();
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("NODE_BUSY"), "{refused}");
    drop(open);
}

#[tokio::test]
async fn settings_that_ask_for_tls_are_never_served_without() {
    let files = Files::of(&Authority::new());
    let flags = files.flags(&[]);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let (config, key, _) = settings(&flags);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let run = server::run(listener, Node::new(config, key, echo()).unwrap(), metrics::start().unwrap());
    timeout(PATIENCE, run).await.expect("it ends at once");
}

#[tokio::test]
async fn the_nodes_own_page_may_connect_and_a_page_in_the_clear_is_not_its_own() {
    let authority = Authority::new();
    let node = start(&Files::of(&authority), &[], |_| {}).await;
    let upgrade = async |origin: &str| {
        let mut stream = handshake(node.address, &Arc::new(authority.client())).await.unwrap();
        let request = format!(
            "GET /v1/ws HTTP/1.1\r\nhost: node:8443\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\norigin: {origin}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = [0; 12];
        timeout(PATIENCE, stream.read_exact(&mut head)).await.unwrap().unwrap();
        String::from_utf8(head[9..].to_vec()).unwrap()
    };
    assert_eq!(upgrade("https://node:8443").await, "101");
    assert_eq!(upgrade("http://node:8443").await, "403", "whoever is on the way can write such a page");
    assert_eq!(upgrade("https://evil.example").await, "403");
}

#[tokio::test]
async fn a_reader_that_does_not_read_is_closed_inside_of_tls_too() {
    let authority = Authority::new();
    let node = start(&Files::of(&authority), &["--context-tokens", "2048"], |config| {
        config.send_timeout = Duration::from_millis(300);
    })
    .await;
    let url = format!("wss://localhost:{}/v1/ws", node.address.port());
    let socket = TcpStream::connect(node.address).await.unwrap();
    let connector = Connector::Rustls(Arc::new(authority.client()));
    let (socket, _) = client_async_tls_with_config(url, socket, None, Some(connector)).await.unwrap();
    let mut slow = Peer { socket, node_key: node.key };
    assert_eq!(slow.receive().await["type"], "connected");
    let mut session = slow.open("1").await.session;
    let words = format!("{} ", "x".repeat(400)).repeat(1000);
    let long = json!({"messages": [{"role": "user", "content": words}]}).to_string();
    for _ in 0..30 {
        let frame = session.message(long.as_bytes(), &mut rng()).unwrap();
        if futures_util::SinkExt::send(&mut slow.socket, Message::text(frame)).await.is_err() {
            break;
        }
    }
    until("the slow one to be gone", || node.node.sessions.metrics().active_sessions == 0).await;
}
