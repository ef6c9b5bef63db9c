//! Traces, as a collector is sent them: where the time went, and nothing else.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test is meant to panic"
)]

#[path = "support/process.rs"]
mod spawned;
mod support;

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    thread::JoinHandle,
};

use fabstir_client::{Config, Request, Session, anonymous};
use fabstir_protocol::v1::Dialect;
use spawned::NodeProcess;
use support::wallet;

/// Takes what is sent until somebody asks it to stop; everything that came, one after the other.
struct Collector {
    address: SocketAddr,
    taking: JoinHandle<Vec<u8>>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let taking = std::thread::spawn(move || {
            let mut all = Vec::new();
            for socket in listener.incoming() {
                let mut socket = socket.unwrap();
                let mut request = Vec::new();
                let mut piece = [0; 4096];
                loop {
                    let read = socket.read(&mut piece).unwrap();
                    request.extend_from_slice(&piece[..read]);
                    if read == 0 || is_whole(&request) {
                        break;
                    }
                }
                if request.starts_with(b"END") {
                    return all;
                }
                all.extend_from_slice(&request);
                socket
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                    .unwrap();
            }
            all
        });
        Self { address, taking }
    }

    fn everything(self) -> Vec<u8> {
        std::net::TcpStream::connect(self.address).unwrap().write_all(b"END").unwrap();
        self.taking.join().unwrap()
    }
}

fn is_whole(request: &[u8]) -> bool {
    let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&request[..end]).to_lowercase();
    let length =
        head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse::<usize>().ok());
    length.is_some_and(|length| request.len() >= end + 4 + length)
}

fn count(all: &[u8], what: &[u8]) -> usize {
    all.windows(what.len()).filter(|part| *part == what).count()
}

#[tokio::test]
async fn a_trace_says_where_the_time_went_and_nothing_of_what_was_said_or_by_whom() {
    let collector = Collector::start();
    let endpoint = format!("http://{}", collector.address);
    let node = NodeProcess::start(&[], &[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)]);
    let wallet = wallet();
    let mut peer = node.connect().await;
    let mut session = peer.open_as(&wallet, "a-name-of-a-session", Dialect::Deployed).await.session;
    peer.ask(&mut session, "canary-one canary-two").await;
    let url = format!("ws://{}/v1/ws", node.address);
    let second = Session::connect(Config::new(url, node.key.address(), anonymous())).await.unwrap();
    second.ask(&Request::prompt("canary-three")).await.unwrap().text().await.unwrap();
    drop(peer);
    second.close().await;
    // What is left to send is sent before the process ends.
    node.stop();
    let all = collector.everything();
    assert!(count(&all, b"POST /v1/traces") > 0);
    for name in
        ["chat echo", "queue", "prefill", "decode", "gen_ai.usage.output_tokens", "fabstir.protocol.version"]
    {
        assert_eq!(count(&all, name.as_bytes()), 2, "{name}");
    }
    let address = wallet.address().to_string();
    for secret in ["canary", "a-name-of-a-session", &address[2..], "127.0.0.1:0"] {
        assert_eq!(count(&all, secret.as_bytes()), 0, "{secret}");
    }
}
