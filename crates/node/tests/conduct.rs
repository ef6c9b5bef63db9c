//! How the node behaves towards a peer over time: order, keeping in touch, saying goodbye, and what settings do.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test is meant to panic"
)]

mod support;

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use fabstir_llm_node::{answer::Outgoing, connection::Connection};
use fabstir_protocol::v1::{ClientSession, Dialect, Reply};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use support::{PATIENCE, TestNode, echo, edit, init, rng, slow_echo, until, wallet};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

fn message(session: &mut ClientSession, words: &str) -> String {
    session.message(words.as_bytes(), &mut rng()).unwrap()
}

fn tokens(end: &Value) -> u64 {
    end["usage"]["prompt_tokens"].as_u64().unwrap()
}

#[tokio::test]
async fn an_answer_longer_than_the_silence_allowed_is_not_cut() {
    let node = TestNode::with(slow_echo(Duration::from_millis(20)), &[], |config| {
        config.ping_interval = Duration::from_millis(100);
    })
    .await;
    let mut peer = node.connect().await;
    let mut session = peer.open("1").await.session;
    // 1.2 seconds of pieces without a pause, four times as long as a silent peer is kept.
    let heard = peer.ask(&mut session, &"word ".repeat(60)).await;
    assert_eq!(heard.finish_reason, "stop");
}

/// A piece that finds the reader slow is not sealed before there is room for it: a number that was spent on it would be
/// missing, and what comes after it would not open.
#[tokio::test]
async fn a_cancel_while_the_reader_is_slow_leaves_no_gap_in_the_answer() {
    let node = TestNode::start(echo()).await;
    let (mut connection, mut outgoing) = Connection::new(Arc::clone(&node.node), Ipv4Addr::LOCALHOST.into());
    let (init, mut session) = init(&node.key, &wallet(), "1", Dialect::Deployed, true);
    connection.receive(&init).await;
    outgoing.recv().await.unwrap();
    connection.receive(&message(&mut session, &"word ".repeat(1000))).await;
    // Nobody reads: the queue is full, and the next piece waits.
    until("the queue is full", || outgoing.capacity() == 0).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    connection.receive(r#"{"type":"stream_cancel","session_id":"1"}"#).await;
    let mut opener = Some(session.answer());
    let reason = loop {
        let Some(Outgoing::Frame(frame)) = timeout(PATIENCE, outgoing.recv()).await.unwrap() else {
            panic!()
        };
        let reply = Reply::decode(&frame).unwrap();
        if let Reply::Chunk { payload, .. } = &reply {
            session.open_chunk(opener.as_mut().unwrap(), payload).expect("chunks have no gap");
        } else if let Reply::Response { payload, .. } = &reply {
            let reason = session.open_final(opener.take().unwrap(), payload).unwrap();
            break String::from_utf8(reason.as_bytes().to_vec()).unwrap();
        }
    };
    assert_eq!(reason, "cancelled");
}

#[tokio::test]
async fn a_queued_prompt_sees_the_turn_before_it() {
    let node = TestNode::start(slow_echo(Duration::from_millis(10))).await;
    let mut peer = node.connect().await;
    let mut session = peer.open("1").await.session;
    for words in ["one two three", "four five"] {
        let frame = message(&mut session, words);
        peer.send(frame).await;
    }
    // Echo counts words: three asked and three answered before the two of the second prompt.
    assert_eq!(tokens(&peer.hear(&session).await.end), 3);
    assert_eq!(tokens(&peer.hear(&session).await.end), 8);
}

#[tokio::test]
async fn cancelled_answers_end_one_after_the_other() {
    let node = TestNode::start(slow_echo(Duration::from_millis(10))).await;
    let mut peer = node.connect().await;
    let mut session = peer.open("1").await.session;
    for number in 1..=3 {
        let frame = edit(&message(&mut session, &"word ".repeat(200)), |frame| frame["id"] = json!(number));
        peer.send(frame).await;
    }
    peer.receive().await;
    peer.send(r#"{"type":"stream_cancel","session_id":"1"}"#).await;
    let mut ends = 0;
    let mut now_at = 1;
    while ends < 3 {
        let frame = peer.receive().await;
        assert_eq!(frame["id"], json!(now_at), "{frame}");
        if frame["type"] == "stream_end" {
            assert_eq!(frame["reason"], "cancelled");
            ends += 1;
            now_at += 1;
        }
    }
}

#[tokio::test]
async fn nothing_in_the_clear_is_said_under_the_id_of_an_encrypted_session() {
    let node = TestNode::with(echo(), &["--allow-plaintext"], |_| {}).await;
    let mut peer = node.connect().await;
    let mut session = peer.open("1").await.session;
    for frame in [
        r#"{"type":"prompt","session_id":"1","prompt":"what was said?"}"#,
        r#"{"type":"inference","session_id":"1","request":{"prompt":"what was said?"}}"#,
        r#"{"type":"session_init","session_id":"1"}"#,
    ] {
        assert_eq!(peer.outcome(frame).await, "PLAINTEXT_DISABLED");
    }
    assert_eq!(peer.ask(&mut session, "still sealed").await.text, "still sealed");
    assert_eq!(peer.outcome(r#"{"type":"session_init","session_id":"2"}"#).await, "session_init_ack");
}

#[tokio::test]
async fn a_peers_goodbye_is_answered() {
    let node = TestNode::start(echo()).await;
    let mut peer = node.connect().await;
    let goodbye = CloseFrame { code: CloseCode::Normal, reason: "bye".into() };
    peer.socket.send(Message::Close(Some(goodbye))).await.unwrap();
    assert_eq!(peer.close_code().await, Some(1000));
}

#[tokio::test]
async fn a_ping_is_answered_whatever_else_it_says() {
    let node = TestNode::start(echo()).await;
    let mut peer = node.connect().await;
    for more in ["", r#","session_id":7"#, r#","chain_id":"1","job_id":{}"#, r#","id":[1],"payload":null"#] {
        assert_eq!(peer.outcome(format!(r#"{{"type":"ping"{more}}}"#)).await, "pong");
    }
}

#[tokio::test]
async fn a_refusal_repeats_the_id_whatever_else_is_wrong() {
    let node = TestNode::start(echo()).await;
    let mut peer = node.connect().await;
    for wrong in [
        r#""session_id":7"#,
        r#""session_id":"1","job_id":{}"#,
        r#""session_id":"1","chain_id":"x""#,
        r#""session_id":"1""#,
    ] {
        peer.send(format!(r#"{{"type":"encrypted_message",{wrong},"id":{{"mine":1}}}}"#)).await;
        let reply = peer.receive().await;
        assert_eq!((&reply["type"], &reply["id"]), (&json!("error"), &json!({"mine": 1})), "{wrong}");
    }
}

#[tokio::test]
async fn what_is_outside_of_the_sealed_part_changes_nothing() {
    let node = TestNode::start(echo()).await;
    let mut peer = node.connect().await;
    let mut session = peer.open("1").await.session;
    let frame = edit(&message(&mut session, "one two three"), |frame| {
        frame["model"] = json!("another");
        frame["max_tokens"] = json!(1);
        frame["stop"] = json!("two");
        frame["unknown"] = json!({"a": [1]});
    });
    peer.send(frame).await;
    assert_eq!(peer.hear(&session).await.text, "one two three");
}

#[tokio::test]
async fn who_asks_too_much_at_once_hears_that_it_was_too_much() {
    let node = TestNode::with(echo(), &["--max-frame-bytes", "100000"], |_| {}).await;
    let config = fabstir_client::v1::Config::new(format!("ws://{}/v1/ws", node.address), node.key);
    let mut client = fabstir_client::v1::Client::connect(config, wallet()).await.unwrap();
    let request = fabstir_client::Request::prompt("word ".repeat(400_000));
    let refused = async {
        let mut answer = client.ask(&request).await?;
        while answer.next().await?.is_some() {}
        Ok::<(), fabstir_client::Error>(())
    };
    assert_eq!(refused.await.unwrap_err().to_string(), "the request is larger than the node takes");
}

#[tokio::test]
async fn a_node_that_is_full_says_so() {
    let node = TestNode::with(echo(), &["--max-connections", "1"], |_| {}).await;
    let mut first = node.connect().await;
    let (status, body) = node.http("GET", "/health", &[], "").await;
    assert!(status == 503 && body.contains("NODE_BUSY"), "{status} {body}");
    let mut session = first.open("1").await.session;
    assert_eq!(first.ask(&mut session, "hello").await.text, "hello");
}

#[tokio::test]
async fn requests_of_all_sessions_together_are_bounded_in_bytes() {
    let node = TestNode::with(slow_echo(Duration::from_millis(50)), &["--max-queued-mib", "1"], |_| {}).await;
    let mut peer = node.connect().await;
    let mut sessions = Vec::new();
    for id in ["1", "2"] {
        sessions.push(peer.open(id).await.session);
    }
    let large = format!("{} {}", "x".repeat(400_000), "word ".repeat(100));
    for session in &mut sessions {
        let frame = message(session, &large);
        peer.send(frame).await;
    }
    let frame = message(&mut sessions[0], &large);
    peer.send(frame.clone()).await;
    let refused = async {
        loop {
            let reply = peer.receive().await;
            if reply["type"] == "error" {
                return reply["code"].clone();
            }
        }
    };
    assert_eq!(refused.await, "NODE_BUSY");
    for id in ["1", "2"] {
        peer.send(format!(r#"{{"type":"stream_cancel","session_id":"{id}"}}"#)).await;
    }
    let mut ends = 0;
    while ends < 2 {
        ends += u32::from(peer.receive().await["type"] == "stream_end");
    }
    // What was refused has spent nothing, and there is room again.
    peer.send(frame).await;
    assert_eq!(peer.receive().await["type"], "encrypted_chunk");
}

#[tokio::test]
async fn a_probe_is_for_inits_and_disturbs_nobody() {
    let node = TestNode::start(slow_echo(Duration::from_millis(10))).await;
    let mut peer = node.connect().await;
    let wallet = wallet();
    let mut session = peer.open_as(&wallet, "1", Dialect::Deployed).await.session;
    let frame = message(&mut session, &"word ".repeat(30));
    peer.send(frame).await;
    peer.receive().await;
    let (frame, _) = init(&node.key, &wallet, "1", Dialect::Deployed, true);
    let (status, body) = node.http("POST", "/v1/ws", &[], &frame).await;
    assert!(status == 200 && body.contains("session_init_ack"), "{status} {body}");
    loop {
        let frame = peer.receive().await;
        if frame["type"] == "stream_end" {
            assert_eq!(frame["reason"], "complete", "the owner's running answer goes on");
            break;
        }
    }
    for frame in [r#"{"type":"ping"}"#, r#"{"type":"stream_cancel","session_id":"1"}"#] {
        let (status, body) = node.http("POST", "/v1/ws", &[], frame).await;
        assert!(status == 400 && body.contains("UNKNOWN_MESSAGE_TYPE"), "{status} {body}");
    }
    let metrics = node.node.sessions.metrics();
    assert_eq!((metrics.active_sessions, metrics.total_keys_stored), (1, 1));
}

/// The head of the answer to an upgrade request with these headers.
async fn upgrade(node: &TestNode, headers: &str) -> String {
    let mut socket = TcpStream::connect(node.address).await.unwrap();
    let request = format!(
        "GET /v1/ws HTTP/1.1\r\nhost: node\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(PATIENCE, socket.read_u8()).await.unwrap().unwrap());
    }
    String::from_utf8(head).unwrap().to_lowercase()
}

#[tokio::test]
async fn an_upgrade_is_refused_to_pages_of_other_sites() {
    let node = TestNode::with(echo(), &["--allowed-origins", "https://app.example"], |_| {}).await;
    for (origin, status) in [
        ("https://evil.example", " 403 "),
        ("null", " 403 "),
        ("https://app.example", " 101 "),
        ("http://node", " 101 "),
    ] {
        let head = upgrade(&node, &format!("origin: {origin}\r\n")).await;
        assert!(head.lines().next().unwrap().contains(status), "{origin}: {head}");
    }
}

#[tokio::test]
async fn frames_are_never_compressed() {
    let node = TestNode::start(echo()).await;
    let head =
        upgrade(&node, "sec-websocket-extensions: permessage-deflate; client_max_window_bits\r\n").await;
    assert!(head.contains(" 101 ") && !head.contains("sec-websocket-extensions"), "{head}");
}

#[tokio::test]
async fn the_nodes_chain_is_named_where_the_client_names_none() {
    let node = TestNode::with(echo(), &["--chain-id", "84532"], |_| {}).await;
    let mut peer = node.connect().await;
    assert_eq!(peer.open("1").await.ack["chain_id"], 84532);
    let (frame, _) = init(&node.key, &wallet(), "2", Dialect::Deployed, true);
    peer.send(edit(&frame, |frame| frame["chain_id"] = json!(1))).await;
    assert_eq!(peer.receive().await["chain_id"], 1);
}

#[tokio::test]
async fn an_answer_is_no_longer_than_the_operator_allows() {
    let node = TestNode::with(echo(), &["--max-tokens-per-request", "3"], |_| {}).await;
    let mut peer = node.connect().await;
    let mut session = peer.open("1").await.session;
    for more in ["", r#","max_tokens":9"#, r#","max_completion_tokens":9"#] {
        let heard = peer.ask(&mut session, &format!(r#"{{"prompt":"a b c d e"{more}}}"#)).await;
        assert_eq!((heard.text.as_str(), heard.finish_reason.as_str()), ("a b c ", "length"));
    }
    let heard = peer.ask(&mut session, r#"{"prompt":"a b c d e","max_tokens":2}"#).await;
    assert_eq!(heard.text, "a b ");
}

#[tokio::test]
async fn the_operators_words_come_before_who_brings_none() {
    let node = TestNode::with(echo(), &["--default-system-prompt", "be very brief"], |_| {}).await;
    let mut peer = node.connect().await;
    let mut session = peer.open("1").await.session;
    let mut counted = async |request: Value| tokens(&peer.ask(&mut session, &request.to_string()).await.end);
    assert_eq!(counted(json!({"prompt": "a"})).await, 4);
    assert_eq!(counted(json!({"messages": [{"role": "user", "content": "a"}]})).await, 4);
    let own = json!([{"role": "system", "content": "own"}, {"role": "user", "content": "a"}]);
    assert_eq!(counted(json!({"messages": own})).await, 2);
}

#[tokio::test]
async fn challenges_are_limited_and_can_be_switched_off() {
    let challenge = json!({"challenge": "ab".repeat(32), "context": "fabstir-node/1"}).to_string();
    let node = TestNode::with(echo(), &["--challenges-per-minute", "2"], |_| {}).await;
    let mut outcomes = Vec::new();
    for _ in 0..3 {
        outcomes.push(node.http("POST", "/v1/auth/challenge", &[], &challenge).await.0);
    }
    assert_eq!(outcomes, [200, 200, 429]);
    let node = TestNode::with(echo(), &["--challenge", "off"], |_| {}).await;
    let (status, body) = node.http("POST", "/v1/auth/challenge", &[], &challenge).await;
    assert!(status == 403 && body.contains("CHALLENGE_DISABLED"), "{status} {body}");
}

/// A peer that reads nothing for too long hears why when it reads again.
#[tokio::test]
async fn a_slow_reader_is_told_what_it_was() {
    let node = TestNode::with(echo(), &[], |config| config.send_timeout = Duration::from_millis(200)).await;
    let mut peer = node.connect().await;
    let mut session = peer.open("1").await.session;
    let flood = "x".repeat(300_000);
    for _ in 0..30 {
        let frame = message(&mut session, &flood);
        if peer.socket.send(Message::text(frame)).await.is_err() {
            break;
        }
    }
    until("the end of its connection", || node.node.sessions.metrics().active_sessions == 0).await;
    let rest = async {
        loop {
            match peer.socket.next().await {
                Some(Ok(Message::Close(frame))) => return frame.map(|frame| u16::from(frame.code)),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return None,
            }
        }
    };
    let told = timeout(PATIENCE, rest).await.unwrap();
    assert!(matches!(told, None | Some(1008)), "{told:?}: never that the node goes away");
}
