//! What one network, one client address and one session may have, and what they hear beyond that, in both versions.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test is meant to panic"
)]

#[path = "support/channel.rs"]
mod channel;
#[path = "support/front.rs"]
mod front;
mod support;

use std::{net::SocketAddr, time::Duration};

use channel::{code, config, delegate, open, refusal, say, whole};
use fabstir_client::{Request, Session, anonymous};
use fabstir_llm_node::config::Config;
use fabstir_protocol::{
    identity::PrivateKey,
    v1::{ClientSession, Dialect},
};
use front::front;
use support::{PATIENCE, Peer, TestNode, echo, init, rng, slow_echo, until, wallet};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

const BEHIND_A_PROXY: &[&str] = &["--trusted-proxies", "127.0.0.0/8"];

async fn node(change: impl FnOnce(&mut Config)) -> TestNode {
    TestNode::with(slow_echo(Duration::from_millis(20)), BEHIND_A_PROXY, change).await
}

async fn connect_by(node: &TestNode, by: SocketAddr) -> Result<Peer, u16> {
    match tokio_tungstenite::connect_async(format!("ws://{by}/v1/ws")).await {
        Ok((socket, _)) => {
            let mut peer = Peer { socket, node_key: node.key };
            assert_eq!(peer.receive().await["type"], "connected");
            Ok(peer)
        }
        Err(tokio_tungstenite::tungstenite::Error::Http(response)) => {
            let waits = response.headers().get("retry-after").map(|seconds| seconds.as_bytes());
            assert_eq!(waits, Some(b"1".as_slice()), "who finds no room is told not to come back at once");
            Err(response.status().as_u16())
        }
        Err(other) => panic!("{other:?}"),
    }
}

fn text(session: &mut ClientSession, words: &str) -> String {
    session.message(words.as_bytes(), &mut rng()).unwrap()
}

/// The next refusal, whatever of answers comes before it.
async fn refused(peer: &mut Peer) -> (String, Option<u64>) {
    loop {
        let reply = peer.receive().await;
        if reply["type"] == "error" {
            return (reply["code"].as_str().unwrap().to_owned(), reply["retry_after_ms"].as_u64());
        }
    }
}

async fn reinit(peer: &mut Peer, wallet: &PrivateKey, id: &str) -> (serde_json::Value, ClientSession) {
    let (frame, session) = init(&peer.node_key, wallet, id, Dialect::Deployed, true);
    peer.send(frame).await;
    (peer.receive().await, session)
}

#[tokio::test]
async fn a_socket_that_says_nothing_is_closed_and_told_why() {
    let node = node(|config| config.first_message = Duration::from_millis(50)).await;
    let mut silent = node.connect().await;
    assert_eq!(silent.close_code().await, Some(1008));
    let mut speaks = node.connect().await;
    let mut session = speaks.open("1").await.session;
    sleep(Duration::from_millis(100)).await;
    assert_eq!(speaks.ask(&mut session, "hello").await.text, "hello");
}

#[tokio::test]
async fn a_socket_without_a_session_is_closed_however_often_it_speaks() {
    let node = node(|config| config.idle_connection = Duration::from_millis(200)).await;
    let mut peer = node.connect().await;
    let begun = Instant::now();
    let mut ended = false;
    while begun.elapsed() < PATIENCE && !ended {
        peer.send(r#"{"type":"ping"}"#).await;
        ended = peer.next().await.is_none();
        sleep(Duration::from_millis(5)).await;
    }
    assert!(ended, "pings kept it open");
}

#[tokio::test]
async fn sessions_keep_their_connections_open() {
    let node = node(|config| config.idle_connection = Duration::from_millis(100)).await;
    let mut peer = node.connect().await;
    let mut session = peer.open("1").await.session;
    let channel = open(&node, anonymous()).await.unwrap();
    sleep(Duration::from_millis(400)).await;
    assert_eq!(peer.ask(&mut session, "hello").await.text, "hello");
    assert_eq!(say(&channel, "hello").await.unwrap(), "hello");
    assert_eq!(channel.connections_replaced(), 0);
}

#[tokio::test]
async fn a_kept_connection_without_a_request_ends() {
    let node = node(|config| config.header_timeout = Duration::from_millis(100)).await;
    for request in ["", "GET /health HTTP/1.1\r\nhost: node\r\n\r\n", "GET /health HT"] {
        let mut socket = TcpStream::connect(node.address).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut heard = Vec::new();
        timeout(PATIENCE, socket.read_to_end(&mut heard)).await.expect("the node closes it").unwrap();
    }
    until("all are gone", || node.node.connections.load(std::sync::atomic::Ordering::Relaxed) == 0).await;
}

#[tokio::test]
async fn one_network_cannot_hold_every_socket() {
    let node = node(|config| config.max_connections_per_network = 2).await;
    let (one, two) = (front(node.address, "198.51.100.7").await, front(node.address, "198.51.100.8").await);
    let first = connect_by(&node, one).await.unwrap();
    let _second = connect_by(&node, one).await.unwrap();
    assert_eq!(connect_by(&node, one).await.err(), Some(503));
    connect_by(&node, two).await.unwrap();
    drop(first);
    let again = async {
        while connect_by(&node, one).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, again).await.expect("what one gave up another gets");
}

#[tokio::test]
async fn a_64_of_version_6_is_one_network() {
    let node = node(|config| config.max_connections_per_network = 1).await;
    let addresses = ["2001:db8::1", "2001:db8::2:3:4:5", "2001:db8:0:1::1"];
    let mut by = Vec::new();
    for address in addresses {
        by.push(front(node.address, address).await);
    }
    let _first = connect_by(&node, by[0]).await.unwrap();
    assert_eq!(connect_by(&node, by[1]).await.err(), Some(503));
    connect_by(&node, by[2]).await.unwrap();
}

#[tokio::test]
async fn this_machine_and_proxies_that_are_not_named_may_have_all_the_room() {
    let node = TestNode::with(echo(), &[], |config| config.max_connections_per_network = 1).await;
    let by = front(node.address, "198.51.100.7").await;
    let mut kept = Vec::new();
    for _ in 0..3 {
        kept.push(node.connect().await);
        kept.push(connect_by(&node, by).await.unwrap());
    }
}

#[tokio::test]
async fn one_address_has_so_many_sessions_in_both_versions_together() {
    let node = node(|config| {
        config.max_sessions_per_address = 2;
        config.store.grace = Duration::ZERO;
    })
    .await;
    let wallet = wallet();
    let mut peer = node.connect().await;
    let mut first = peer.open_as(&wallet, "1", Dialect::Deployed).await;
    let channel = open(&node, delegate(&node, &wallet)).await.unwrap();
    assert_eq!(reinit(&mut peer, &wallet, "2").await.0["code"], "NODE_BUSY");
    assert_eq!(code(open(&node, delegate(&node, &wallet)).await), "NODE_BUSY");
    // A new key for a session that there is takes no more room.
    let (ack, session) = reinit(&mut peer, &wallet, "1").await;
    assert_eq!(ack["type"], "session_init_ack");
    first.session = session;
    peer.open("3").await;
    open(&node, delegate(&node, &support::wallet())).await.unwrap();
    assert_eq!(peer.ask(&mut first.session, "hello").await.text, "hello");
    channel.close().await;
    until_some(async || {
        (reinit(&mut peer, &wallet, "2").await.0["type"] == "session_init_ack").then_some(())
    })
    .await;
    drop(peer);
    until_some(async || open(&node, delegate(&node, &wallet)).await.ok()).await;
}

/// Asks until there is something.
async fn until_some<T>(mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(value) = attempt().await {
                return value;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, asking).await.expect("in time")
}

#[tokio::test]
async fn one_network_cannot_have_every_session_by_proving_nothing() {
    let node = node(|config| config.max_anonymous_sessions_per_network = 2).await;
    let (one, two) = (front(node.address, "198.51.100.7").await, front(node.address, "198.51.100.8").await);
    let by = async |by| Session::connect(config(&node, by, anonymous())).await;
    let _channel = by(one).await.unwrap();
    let mut peer = connect_by(&node, one).await.unwrap();
    let unclaimed = |id| init(&node.key, &wallet(), id, Dialect::Deployed, false).0;
    assert_eq!(peer.outcome(unclaimed("1")).await, "session_init_ack");
    assert_eq!(peer.outcome(unclaimed("2")).await, "NODE_BUSY");
    assert_eq!(code(by(one).await), "NODE_BUSY");
    by(two).await.unwrap();
    // Who proves an address counts for that.
    peer.open("3").await;
    drop(peer);
    until_some(async || by(one).await.ok()).await;
}

#[tokio::test]
async fn requests_in_flight_are_counted_by_address_and_a_refused_one_spends_nothing() {
    let node = node(|config| config.max_requests_per_address = 2).await;
    let wallet = wallet();
    let mut peer = node.connect().await;
    let mut sessions = Vec::new();
    for id in ["1", "2", "3"] {
        sessions.push(peer.open_as(&wallet, id, Dialect::Deployed).await.session);
    }
    let channel = open(&node, delegate(&node, &wallet)).await.unwrap();
    for session in &mut sessions[..2] {
        let frame = text(session, &"word ".repeat(1000));
        peer.send(frame).await;
    }
    let frame = text(&mut sessions[2], "one more");
    peer.send(frame.clone()).await;
    assert_eq!(refused(&mut peer).await.0, "NODE_BUSY");
    assert_eq!(code(say(&channel, "one more").await), "NODE_BUSY");
    let other = open(&node, delegate(&node, &support::wallet())).await.unwrap();
    assert_eq!(say(&other, "hello").await.unwrap(), "hello");
    peer.send(r#"{"type":"stream_cancel","session_id":"1"}"#).await;
    while peer.receive().await["type"] != "stream_end" {}
    // The refusal ended its own request and nothing else; and in version 1 the same frame still opens.
    until_some(async || say(&channel, "again").await.ok()).await;
    peer.send(r#"{"type":"stream_cancel","session_id":"2"}"#).await;
    while peer.receive().await["type"] != "stream_end" {}
    peer.send(frame).await;
    assert_eq!(peer.hear(&sessions[2]).await.text, "one more");
}

#[tokio::test]
async fn who_waits_as_long_as_they_are_told_gets_their_init_in() {
    let node = node(|config| config.inits_per_minute_per_address = 60.try_into().unwrap()).await;
    let wallet = wallet();
    let mut peer = node.connect().await;
    let wait = until_some(async || {
        let (reply, _) = reinit(&mut peer, &wallet, "1").await;
        (reply["type"] == "error").then(|| {
            assert_eq!(reply["code"], "RATE_LIMITED");
            reply["retry_after_ms"].as_u64().unwrap()
        })
    })
    .await;
    assert!(wait <= 1000, "{wait}");
    // Version 2 counts for the same address, and another address not.
    let told = refusal(open(&node, delegate(&node, &wallet)).await);
    assert_eq!(told.0, "RATE_LIMITED");
    peer.open("2").await;
    sleep(told.1.unwrap()).await;
    open(&node, delegate(&node, &wallet)).await.unwrap();
    let (reply, _) = reinit(&mut peer, &wallet, "1").await;
    sleep(Duration::from_millis(reply["retry_after_ms"].as_u64().unwrap())).await;
    assert_eq!(reinit(&mut peer, &wallet, "1").await.0["type"], "session_init_ack");
}

#[tokio::test]
async fn what_others_send_again_does_not_count_for_who_sent_it_first() {
    let node = node(|config| config.inits_per_minute_per_address = 60.try_into().unwrap()).await;
    let wallet = wallet();
    let mut victim = node.connect().await;
    let seen = victim.open_as(&wallet, "1", Dialect::Deployed).await.init;
    let mut other = node.connect().await;
    for _ in 0..100 {
        other.send(seen.clone()).await;
        let reply = other.receive().await;
        assert_eq!(reply["code"], "REPLAY_DETECTED", "{reply}");
    }
    victim.open_as(&wallet, "2", Dialect::Deployed).await;
}

#[tokio::test]
async fn who_waits_as_long_as_they_are_told_gets_their_message_in() {
    let node =
        TestNode::with(echo(), &[], |config| config.messages_per_minute = 60.try_into().unwrap()).await;
    let wallet = wallet();
    let mut peer = node.connect().await;
    let mut session = peer.open_as(&wallet, "1", Dialect::Deployed).await.session;
    let (frame, wait) = loop {
        let frame = text(&mut session, "hi");
        peer.send(frame.clone()).await;
        let end = peer.hear_or_error(&session).await;
        if end["type"] == "error" {
            assert_eq!(end["code"], "RATE_LIMITED");
            break (frame, end["retry_after_ms"].as_u64().unwrap());
        }
        // A new key is no new session.
        let (reply, next) = reinit(&mut peer, &wallet, "1").await;
        assert_eq!(reply["type"], "session_init_ack");
        session = next;
    };
    sleep(Duration::from_millis(wait)).await;
    peer.send(frame).await;
    assert_eq!(peer.hear(&session).await.text, "hi", "the same frame: nothing of it was spent");

    let channel = open(&node, anonymous()).await.unwrap();
    let wait = until_some(async || match say(&channel, "hi").await {
        Ok(_) => None,
        refused => Some(refusal(refused)),
    })
    .await;
    assert_eq!(wait.0, "RATE_LIMITED");
    sleep(wait.1.unwrap()).await;
    assert_eq!(say(&channel, "hi").await.unwrap(), "hi", "on the same session");
}

#[tokio::test]
async fn who_has_used_up_their_tokens_waits_as_long_as_they_are_told() {
    let node = TestNode::with(echo(), &["--tokens-per-minute", "3000"], |config| {
        config.store.grace = Duration::ZERO
    })
    .await;
    let wallet = wallet();
    let channel = open(&node, delegate(&node, &wallet)).await.unwrap();
    let words = "word ".repeat(20);
    let (told, wait) = until_some(async || match say(&channel, &words).await {
        Ok(_) => None,
        refused => Some(refusal(refused)),
    })
    .await;
    assert_eq!(told, "RATE_LIMITED");
    let mut peer = node.connect().await;
    let mut session = peer.open_as(&wallet, "1", Dialect::Deployed).await.session;
    let frame = text(&mut session, "hi");
    peer.send(frame.clone()).await;
    assert_eq!(refused(&mut peer).await.0, "RATE_LIMITED", "another session of the same address");
    let mut other = peer.open("2").await.session;
    assert_eq!(peer.ask(&mut other, "hi").await.text, "hi", "another address");
    assert!(wait.unwrap() < Duration::from_secs(3), "{wait:?}");
    sleep(wait.unwrap()).await;
    assert_eq!(say(&channel, "hi").await.unwrap(), "hi");
}

#[tokio::test]
async fn a_cancelled_answer_is_charged_for_what_was_made_of_it() {
    let node = node(|config| config.tokens_per_minute = Some(500.try_into().unwrap())).await;
    for round in 0..2 {
        let channel = open(&node, delegate(&node, &wallet())).await.unwrap();
        let mut answer = channel.ask(&Request::prompt("word ".repeat(400 + 150 * round))).await.unwrap();
        answer.next().await.unwrap();
        answer.cancel().await;
        let _ = whole(answer).await;
        let next = say(&channel, "hi").await;
        // 400 of the prompt and a few of the answer are within 500; 550 of the prompt alone are not.
        if round == 0 {
            assert_eq!(next.unwrap(), "hi");
        } else {
            assert_eq!(code(next), "RATE_LIMITED");
        }
    }
}

#[tokio::test]
async fn who_hangs_up_has_had_what_was_made() {
    let node = node(|config| config.tokens_per_minute = Some(100.try_into().unwrap())).await;
    let wallet = wallet();
    let mut peer = node.connect().await;
    let mut session = peer.open_as(&wallet, "1", Dialect::Deployed).await.session;
    let frame = text(&mut session, &"word ".repeat(120));
    peer.send(frame).await;
    assert_eq!(peer.receive().await["type"], "encrypted_chunk");
    drop(peer);
    let mut peer = node.connect().await;
    let mut session = peer.open_as(&wallet, "2", Dialect::Deployed).await.session;
    let frame = text(&mut session, "hi");
    peer.send(frame).await;
    assert_eq!(refused(&mut peer).await.0, "RATE_LIMITED");
}
