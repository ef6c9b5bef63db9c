//! Whoever does not read, or reads a byte now and then, does not hold a connection for ever: WebSockets of both versions,
//! and HTTP.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test is meant to panic"
)]

#[path = "support/channel.rs"]
mod channel;
#[path = "support/front.rs"]
mod front;
mod support;

use std::{sync::atomic::Ordering, time::Duration};

use channel::{config, open, say};
use fabstir_client::{Request, Session, Turn, anonymous};
use fabstir_protocol::v1::Dialect;
use front::{Reads, carry};
use serde_json::json;
use support::{Peer, TestNode, echo, rng, until, wallet};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpSocket,
};

const ONE_BYTE: Reads = Reads::OneByteEvery(16_384, Duration::from_millis(5));

async fn node() -> TestNode {
    TestNode::with(echo(), &[], |config| config.send_timeout = Duration::from_millis(300)).await
}

fn connections(node: &TestNode) -> usize {
    node.node.connections.load(Ordering::Relaxed)
}

fn long() -> String {
    format!("{} ", "x".repeat(400)).repeat(1000)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_of_a_byte_now_and_then_is_closed_in_version_2() {
    let node = node().await;
    let by = carry(node.address, String::new(), ONE_BYTE).await;
    let session = Session::connect(config(&node, by, anonymous())).await.unwrap();
    let mut answers = Vec::new();
    for _ in 0..9 {
        let turn = Turn { role: "user", content: long() };
        answers.push(session.ask(&Request::messages(vec![turn])).await.unwrap());
    }
    let other = open(&node, anonymous()).await.unwrap();
    assert_eq!(say(&other, "hello").await.unwrap(), "hello");
    until("only the other one is left", || connections(&node) == 1).await;
    assert_eq!(say(&other, "hello").await.unwrap(), "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_of_a_byte_now_and_then_is_closed_in_version_1() {
    let node = node().await;
    let by = carry(node.address, String::new(), ONE_BYTE).await;
    let (socket, _) = tokio_tungstenite::connect_async(format!("ws://{by}/v1/ws")).await.unwrap();
    let mut peer = Peer { socket, node_key: node.key };
    peer.receive().await;
    let mut session = peer.open_as(&wallet(), "1", Dialect::Deployed).await.session;
    let request = json!({"messages": [{"role": "user", "content": long()}]}).to_string();
    for _ in 0..9 {
        let frame = session.message(request.as_bytes(), &mut rng()).unwrap();
        peer.send(frame).await;
    }
    until("it is gone", || connections(&node) == 0).await;
    until("its key too", || node.node.sessions.metrics().total_keys_stored == 0).await;
}

/// Asks for more than the system's buffers take, and reads as it is told to.
async fn asks_for_pages(node: &TestNode, every: Option<Duration>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut socket = socket.connect(node.address).await.unwrap();
    let pages = "GET /openapi.json HTTP/1.1\r\nhost: node\r\n\r\n".repeat(400);
    socket.write_all(pages.as_bytes()).await.unwrap();
    until("the node has taken it", || connections(node) == 1).await;
    let reading = async {
        while let Some(pause) = every {
            let _ = socket.read_u8().await;
            tokio::time::sleep(pause).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = reading => {}
        () = until("the node has closed it", || connections(node) == 0) => {}
    }
    drop(socket);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_a_page_does_not_hold_a_connection_for_ever() {
    asks_for_pages(&node().await, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_does_who_reads_a_byte_of_it_now_and_then() {
    asks_for_pages(&node().await, Some(Duration::from_millis(5))).await;
}

#[tokio::test]
async fn a_body_that_trickles_is_given_up() {
    let node = node().await;
    let mut socket = tokio::net::TcpStream::connect(node.address).await.unwrap();
    socket
        .write_all(b"POST /v1/auth/challenge HTTP/1.1\r\nhost: node\r\ncontent-length: 1000\r\n\r\n{")
        .await
        .unwrap();
    let (mut reads, mut writes) = socket.into_split();
    let trickle = async {
        while writes.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let heard = async {
        let mut heard = [0; 12];
        reads.read_exact(&mut heard).await.unwrap();
        heard
    };
    tokio::select! {
        () = trickle => panic!("the node said nothing"),
        heard = heard => assert_eq!(&heard, b"HTTP/1.1 408"),
    }
}
