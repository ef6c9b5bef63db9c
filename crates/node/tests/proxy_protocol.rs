//! Connections that begin with a header of the PROXY protocol: whom the node takes them to be of, and which it does not take.

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

use std::{net::SocketAddr, sync::Arc, time::Duration};

use fabstir_llm_node::config::Config;
use pki::{Authority, Files, ask};
use rustls::pki_types::ServerName;
use support::{PATIENCE, TestNode, echo, until};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::{WebSocketStream, client_async};

const BEHIND_A_PROXY: &[&str] = &["--trusted-proxies", "127.0.0.0/8", "--proxy-protocol", "require"];
const CHALLENGE: &str = r#"{"challenge":"0707070707070707070707070707070707070707070707070707070707070707","context":"fabstir-node/1"}"#;

async fn node(change: impl FnOnce(&mut Config)) -> TestNode {
    TestNode::with(echo(), BEHIND_A_PROXY, change).await
}

fn version_1(from: &str) -> Vec<u8> {
    let (family, to) = if from.contains(':') { ("TCP6", "2001:db8::1") } else { ("TCP4", "192.0.2.1") };
    format!("PROXY {family} {from} {to} 4711 443\r\n").into_bytes()
}

fn version_2(from: &str) -> Vec<u8> {
    let from: SocketAddr =
        format!("{from}:4711").parse().or_else(|_| format!("[{from}]:4711").parse()).unwrap();
    let to: SocketAddr = if from.is_ipv4() { "192.0.2.1:443" } else { "[2001:db8::1]:443" }.parse().unwrap();
    ppp::v2::Builder::with_addresses(
        ppp::v2::Version::Two | ppp::v2::Command::Proxy,
        ppp::v2::Protocol::Stream,
        (from, to),
    )
    .build()
    .unwrap()
}

/// The proxy's own connection, as it makes one to see whether the node is there.
fn probe() -> Vec<u8> {
    b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00".to_vec()
}

/// A connection that says `first`.
async fn begin(node: SocketAddr, first: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(node).await.unwrap();
    socket.write_all(first).await.unwrap();
    socket
}

/// Everything that the node says on a connection that it closes; with a reset, what came before that.
async fn heard(socket: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut heard = Vec::new();
    let _ = timeout(PATIENCE, socket.read_to_end(&mut heard)).await.expect("the node closes it");
    String::from_utf8_lossy(&heard).into_owned()
}

async fn status(mut socket: TcpStream, request: &str, headers: &str, body: &str) -> Option<u16> {
    let length = body.len();
    let text = format!(
        "{request} HTTP/1.1\r\nhost: node\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n{headers}\r\n{body}"
    );
    let _ = socket.write_all(text.as_bytes()).await;
    heard(&mut socket).await.split(' ').nth(1)?.parse().ok()
}

async fn health(node: &TestNode, first: &[u8]) -> Option<u16> {
    status(begin(node.address, first).await, "GET /health", "", "").await
}

async fn challenge(node: &TestNode, first: &[u8], headers: &str) -> Option<u16> {
    status(begin(node.address, first).await, "POST /v1/auth/challenge", headers, CHALLENGE).await
}

async fn websocket(node: &TestNode, first: &[u8]) -> Option<WebSocketStream<TcpStream>> {
    let socket = begin(node.address, first).await;
    client_async(format!("ws://{}/v1/ws", node.address), socket).await.ok().map(|(socket, _)| socket)
}

async fn all_are_gone(node: &TestNode) {
    until("all are gone", || node.node.connections.load(std::sync::atomic::Ordering::Relaxed) == 0).await;
}

#[tokio::test]
async fn either_version_is_read_for_either_family() {
    let node = node(|_| {}).await;
    for from in ["198.51.100.7", "2001:db8::7"] {
        for first in [version_1(from), version_2(from)] {
            assert_eq!(health(&node, &first).await, Some(200), "{from}");
            assert!(websocket(&node, &first).await.is_some());
        }
    }
}

#[tokio::test]
async fn a_rate_is_the_named_clients_and_not_that_of_the_proxy() {
    let node = node(|config| config.challenges_per_minute = 1.try_into().unwrap()).await;
    for first in [version_1("198.51.100.7"), version_2("198.51.100.8"), version_2("2001:db8::7")] {
        assert_eq!(challenge(&node, &first, "").await, Some(200));
        assert_eq!(challenge(&node, &first, "").await, Some(429));
    }
    // One client, whichever version speaks for it.
    assert_eq!(challenge(&node, &version_2("198.51.100.7"), "").await, Some(429));
}

#[tokio::test]
async fn a_named_network_cannot_hold_every_socket() {
    let node = node(|config| config.max_connections_per_network = 1).await;
    let (one, other) = (version_1("198.51.100.7"), version_2("198.51.100.8"));
    let first = websocket(&node, &one).await.unwrap();
    assert_eq!(health(&node, &one).await, Some(503));
    assert_eq!(health(&node, &version_2("198.51.100.7")).await, Some(503));
    assert!(websocket(&node, &other).await.is_some());
    drop(first);
    let again = async { while health(&node, &one).await != Some(200) {} };
    timeout(PATIENCE, again).await.expect("what was given up is there again");
}

#[tokio::test]
async fn who_finds_no_room_at_all_is_told_so_behind_their_header() {
    let node = node(|config| config.max_connections = 1).await;
    let _first = websocket(&node, &version_1("198.51.100.7")).await.unwrap();
    assert_eq!(health(&node, &version_2("198.51.100.8")).await, Some(503));
}

#[tokio::test]
async fn what_a_named_client_writes_into_its_own_headers_is_not_believed() {
    let node = node(|config| config.challenges_per_minute = 1.try_into().unwrap()).await;
    let first = version_1("198.51.100.7");
    assert_eq!(challenge(&node, &first, "").await, Some(200));
    assert_eq!(challenge(&node, &first, "x-forwarded-for: 203.0.113.5\r\n").await, Some(429));
}

#[tokio::test]
async fn where_nobody_is_named_the_proxy_counts_whatever_the_headers_say() {
    let node = node(|config| config.challenges_per_minute = 1.try_into().unwrap()).await;
    let unknown = b"PROXY UNKNOWN\r\n".to_vec();
    assert_eq!(challenge(&node, &unknown, "x-forwarded-for: 203.0.113.5\r\n").await, Some(200));
    assert_eq!(challenge(&node, &probe(), "x-forwarded-for: 203.0.113.6\r\n").await, Some(429));
}

#[tokio::test]
async fn a_probe_of_the_proxy_is_answered() {
    let node = node(|_| {}).await;
    assert_eq!(health(&node, &probe()).await, Some(200));
    drop(begin(node.address, &probe()).await);
    all_are_gone(&node).await;
}

#[tokio::test]
async fn a_header_from_somebody_who_is_no_trusted_proxy_opens_nothing() {
    let flags = ["--trusted-proxies", "192.0.2.1", "--proxy-protocol", "require"];
    let node = TestNode::with(echo(), &flags, |_| {}).await;
    for first in [version_1("192.0.2.1"), version_2("198.51.100.7"), probe(), Vec::new()] {
        assert_eq!(health(&node, &first).await, None);
    }
    all_are_gone(&node).await;
}

#[tokio::test]
async fn a_connection_without_a_header_is_closed_unanswered() {
    let node = node(|_| {}).await;
    assert_eq!(health(&node, b"").await, None);
    let mut socket = begin(node.address, "PROXY TCP4 198.51.100.7".repeat(10).as_bytes()).await;
    assert_eq!(heard(&mut socket).await, "");
    let mut long = probe();
    long[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
    assert_eq!(heard(&mut begin(node.address, &long).await).await, "");
    all_are_gone(&node).await;
}

#[tokio::test]
async fn a_header_that_does_not_come_in_time_is_not_waited_for() {
    let node = node(|config| config.header_timeout = Duration::from_millis(100)).await;
    for first in ["", "PROXY TCP4 198.51.100.7 "] {
        assert_eq!(heard(&mut begin(node.address, first.as_bytes()).await).await, "", "{first}");
    }
    all_are_gone(&node).await;
}

#[tokio::test]
async fn tls_begins_behind_the_header() {
    let authority = Authority::new();
    let files = Files::of(&authority);
    let mut flags = files.flags(&[]);
    flags.extend(BEHIND_A_PROXY.iter().map(ToString::to_string));
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let node = TestNode::with(echo(), &flags, |config| {
        config.max_connections_per_network = 1;
    })
    .await;
    let over_tls = async |first: &[u8]| {
        let socket = begin(node.address, first).await;
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(authority.client())).connect(name, socket).await
    };
    for first in [version_1("198.51.100.7"), version_2("2001:db8::7")] {
        // Held, and so the next one of that network hears inside of TLS that there is no room.
        let held = over_tls(&first).await.unwrap();
        let full = ask(&mut over_tls(&first).await.unwrap(), "/health").await.unwrap();
        assert!(full.starts_with("HTTP/1.1 503"), "{full}");
        let other = ask(&mut over_tls(&version_1("198.51.100.9")).await.unwrap(), "/health").await.unwrap();
        assert!(other.starts_with("HTTP/1.1 200"), "{other}");
        drop(held);
    }
    assert!(over_tls(b"").await.is_err(), "TLS alone is no header");
}

#[tokio::test]
async fn metrics_say_what_became_of_connections_and_are_not_for_named_clients() {
    let node = node(|config| config.header_timeout = Duration::from_millis(100)).await;
    health(&node, &version_1("198.51.100.7")).await;
    health(&node, b"").await;
    heard(&mut begin(node.address, b"").await).await;
    let metrics = async |first: Vec<u8>| {
        let mut socket = begin(node.address, &first).await;
        let get = "GET /metrics HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n";
        socket.write_all(get.as_bytes()).await.unwrap();
        heard(&mut socket).await
    };
    let page = metrics(probe()).await;
    for result in ["named", "unnamed", "invalid", "timeout"] {
        assert!(
            page.contains(&format!("fabstir_proxy_headers_total{{result=\"{result}\"}}")),
            "{result}: {page}"
        );
    }
    assert!(!metrics(version_1("198.51.100.7")).await.starts_with("HTTP/1.1 200"));
    assert!(!page.contains("198.51.100.7"));
}
