//! Whole sessions over real sockets; with the real model where the words matter.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test is meant to panic, and to do so on what it does not expect"
)]

mod support;

use std::{sync::Arc, time::Duration};

use fabstir_engine::{Engine as _, InjectedFault};
use fabstir_protocol::{
    aad::Aad,
    id::Index,
    v1::{ClientSession, Dialect},
};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use support::{Peer, TestNode, echo, edit, init, llama, message_frame, rng, slow_echo, until, wallet};
use tokio_tungstenite::tungstenite::{Bytes, Message};

fn paris(max_tokens: u32) -> String {
    json!({
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "What is the capital of France?"},
        ],
        "temperature": 0, "max_tokens": max_tokens,
    })
    .to_string()
}

/// A request whose answer is long.
fn story() -> String {
    json!({"prompt": "Write a very long story about a fox.", "seed": 1}).to_string()
}

#[tokio::test]
async fn every_dialect_is_answered_by_the_model() {
    let node = TestNode::start(llama(2)).await;
    let mut peer = node.connect().await;
    for dialect in Dialect::ALL {
        let mut opened = peer.open_as(&wallet(), &format!("{dialect:?}"), dialect).await;
        let answer = peer.ask(&mut opened.session, &paris(24)).await;
        assert!(answer.text.contains("Paris"), "{dialect:?}: {}", answer.text);
        assert_eq!((answer.finish_reason.as_str(), &answer.end["reason"]), ("stop", &json!("complete")));
        let usage = &answer.end["usage"];
        let (prompt, completion) =
            (usage["prompt_tokens"].as_u64().unwrap(), usage["completion_tokens"].as_u64().unwrap());
        assert!(prompt > 10 && completion > 3, "{usage}");
        assert_eq!(usage["total_tokens"], prompt + completion);
        assert_eq!(usage["context_window_size"], 512);
        assert_eq!(answer.end["tokens_used"], completion);
    }
}

#[tokio::test]
async fn an_answer_has_the_form_that_deployed_clients_wait_for() {
    let node = TestNode::start(echo()).await;
    let mut peer = node.connect().await;
    let mut session = peer.open("7").await.session;
    let id = json!({"request": [1, null]});
    let frame = edit(&session.message(b"one two", &mut rng()).unwrap(), |frame| frame["id"] = id.clone());
    peer.send(frame).await;
    let heard = peer.hear(&session).await;
    let types: Vec<_> = heard.frames.iter().map(|frame| frame["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["encrypted_chunk", "encrypted_chunk", "encrypted_chunk", "encrypted_response"]);
    for (index, chunk) in heard.frames[..3].iter().enumerate() {
        assert_eq!((&chunk["index"], &chunk["payload"]["index"]), (&json!(index), &json!(index)));
        assert_eq!(chunk["payload"]["aadHex"], const_hex::encode(format!("chunk_{index}")));
        assert_eq!((&chunk["session_id"], &chunk["id"]), (&json!("7"), &id));
    }
    assert_eq!((&heard.frames[2]["final"], &heard.frames[2]["tokens"]), (&json!(true), &json!(0)));
    assert_eq!((&heard.end["id"], &heard.end["finish_reason"]), (&id, &json!("stop")));
}

#[tokio::test]
async fn a_second_turn_remembers_the_first_and_a_new_key_changes_nothing() {
    let node = TestNode::start(llama(2)).await;
    let client = wallet();
    let mut peer = node.connect().await;
    let prompt = json!({"prompt": "Say hello.", "max_tokens": 4, "temperature": 0}).to_string();
    let mut tokens = Vec::new();
    // As deployed clients do: a new init for the same session before every prompt.
    for _ in 0..3 {
        let mut opened = peer.open_as(&client, "1", Dialect::Deployed).await;
        let answer = peer.ask(&mut opened.session, &prompt).await;
        tokens.push(answer.end["usage"]["prompt_tokens"].as_u64().unwrap());
    }
    assert!(tokens[0] < tokens[1] && tokens[1] < tokens[2], "{tokens:?}");
    // Somebody else under the same id talks to themselves.
    let mut other = node.connect().await;
    let mut theirs = other.open_as(&wallet(), "1", Dialect::Deployed).await;
    let answer = other.ask(&mut theirs.session, &prompt).await;
    assert_eq!(answer.end["usage"]["prompt_tokens"], tokens[0]);
    // With `messages`, nothing is remembered and nothing comes from memory.
    let mut opened = peer.open_as(&client, "1", Dialect::Deployed).await;
    let stateless =
        json!({"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 4}).to_string();
    assert_eq!(peer.ask(&mut opened.session, &stateless).await.end["usage"]["prompt_tokens"], tokens[0]);
}

#[tokio::test]
async fn a_conversation_longer_than_the_context_goes_on() {
    let node = TestNode::start(llama(1)).await;
    let mut peer = node.connect().await;
    let mut session = peer.open("1").await.session;
    let prompt = json!({"prompt": "fox ".repeat(100), "max_tokens": 8}).to_string();
    let mut dropped = 0;
    for _ in 0..6 {
        let heard = peer.ask(&mut session, &prompt).await;
        assert_eq!(heard.end["reason"], "complete", "{}", heard.end);
        assert!(heard.end["usage"]["prompt_tokens"].as_u64().unwrap() < 512);
        dropped += heard.end["dropped_messages"].as_u64().unwrap_or(0);
    }
    assert!(dropped > 0, "the client is told what was left out");
}

#[tokio::test]
async fn a_second_turn_computes_what_is_new_and_what_was_computed_goes_with_the_session() {
    let node = TestNode::with(llama(1), &["--conversation-grace-seconds", "0"], |_| {}).await;
    let client = wallet();
    let cached = |heard: &support::Heard| {
        let usage = &heard.end["usage"];
        let count = |value: &Value| value.as_u64().unwrap();
        (count(&usage["prompt_tokens"]), count(&usage["prompt_tokens_details"]["cached_tokens"]))
    };
    let prompt = json!({"prompt": "fox ".repeat(100), "max_tokens": 8}).to_string();
    let mut peer = node.connect().await;
    let mut opened = peer.open_as(&client, "1", Dialect::Deployed).await;
    let (first, none) = cached(&peer.ask(&mut opened.session, &prompt).await);
    assert_eq!(none, 0);
    // Deployed clients open the session anew before every prompt.
    let mut opened = peer.open_as(&client, "1", Dialect::Deployed).await;
    let (_, again) = cached(&peer.ask(&mut opened.session, &prompt).await);
    assert!(again >= first - 1, "{again} of {first}");
    let mut other = node.connect().await;
    let mut session = other.open("1").await.session;
    let (_, strangers) = cached(&other.ask(&mut session, &prompt).await);
    assert!(strangers < 40, "another client's first turn finds the template's words at most: {strangers}");
    drop(peer);
    until("the session's end", || node.node.sessions.metrics().active_sessions == 1).await;
    let mut peer = node.connect().await;
    let mut opened = peer.open_as(&client, "1", Dialect::Deployed).await;
    let (_, after) = cached(&peer.ask(&mut opened.session, &prompt).await);
    assert!(after < 40, "gone with the session: {after}");
}

#[tokio::test]
async fn a_prompt_longer_than_the_context_is_refused_with_its_size() {
    let node = TestNode::start(llama(1)).await;
    let mut peer = node.connect().await;
    let mut session = peer.open("1").await.session;
    let frame = session.message("fox ".repeat(600).as_bytes(), &mut rng()).unwrap();
    peer.send(frame).await;
    let error = peer.receive().await;
    assert_eq!(error["code"], "TOKEN_LIMIT_EXCEEDED");
    assert_eq!(error["context_window_size"], 512);
    assert!(error["prompt_tokens"].as_u64().unwrap() > 512);
}

#[tokio::test]
async fn every_malformed_frame_has_its_code_and_the_connection_survives() {
    let node = TestNode::start(echo()).await;
    let mut peer = node.connect().await;
    let (genuine, _) = init(&node.key, &wallet(), "1", Dialect::Deployed, true);
    let without =
        |field: &str| edit(&genuine, |frame| drop(frame["payload"].as_object_mut().unwrap().remove(field)));
    let with = |field: &str, value: &str| edit(&genuine, |frame| frame["payload"][field] = json!(value));
    let deep = format!("{{\"type\":\"ping\",\"x\":{}{}}}", "[".repeat(5000), "]".repeat(5000));
    let cases = [
        ("{", "MALFORMED_FRAME"),
        ("[]", "MALFORMED_FRAME"),
        ("null", "MALFORMED_FRAME"),
        (&deep, "pong"),
        (&deep.replace("\"x\"", "\"id\"").replace("ping", "dance"), "MALFORMED_FRAME"),
        (r#"{"type":"ping","type":"pong"}"#, "MALFORMED_FRAME"),
        (r#"{"type":7}"#, "MALFORMED_FRAME"),
        (r#"{"type":"encrypted_message","session_id":7,"payload":{}}"#, "MALFORMED_FRAME"),
        (r#"{"type":"encrypted_message","session_id":"a b","payload":{}}"#, "MALFORMED_FRAME"),
        (r#"{"type":"dance"}"#, "UNKNOWN_MESSAGE_TYPE"),
        (r#"{"type":"encrypted_message","payload":{}}"#, "MISSING_SESSION_ID"),
        (r#"{"type":"encrypted_session_init","session_id":"1"}"#, "MISSING_PAYLOAD"),
        (r#"{"type":"encrypted_session_init","session_id":"1","payload":{}}"#, "MISSING_PAYLOAD_FIELDS"),
        (&without("nonceHex"), "MISSING_PAYLOAD_FIELDS"),
        (&with("nonceHex", "zz"), "INVALID_HEX_ENCODING"),
        (&with("ciphertextHex", "abc"), "INVALID_HEX_ENCODING"),
        (&with("nonceHex", &"00".repeat(12)), "INVALID_NONCE_SIZE"),
        (&with("ephPubHex", &format!("02{}", "ff".repeat(32))), "INVALID_PAYLOAD"),
        (&with("ephPubHex", "00"), "INVALID_PAYLOAD"),
        (&with("signatureHex", "00"), "INVALID_SIGNATURE"),
        (&with("aadHex", "00"), "DECRYPTION_FAILED"),
        (r#"{"type":"prompt","session_id":"1","prompt":"hi"}"#, "PLAINTEXT_DISABLED"),
        (r#"{"type":"session_init","session_id":"1"}"#, "PLAINTEXT_DISABLED"),
        (r#"{"type":"encrypted_message","session_id":"1","payload":{}}"#, "SESSION_KEY_NOT_FOUND"),
    ];
    for (frame, code) in cases {
        let shown: String = frame.chars().take(80).collect();
        assert_eq!(peer.outcome(frame).await, code, "{shown}");
    }
    peer.socket.send(Message::Binary(Bytes::from_static(b"\x00"))).await.unwrap();
    assert_eq!(peer.receive().await["code"], "MALFORMED_FRAME");
    assert_eq!(peer.outcome(r#"{"type":"ping"}"#).await, "pong");
    // Ignored without a word, then answered in order: nothing was said in between.
    peer.send(r#"{"type":"stream_cancel","session_id":"nobody"}"#).await;
    assert_eq!(peer.outcome(genuine).await, "session_init_ack");
}

#[tokio::test]
async fn a_request_that_cannot_be_served_is_refused_by_name() {
    let node = TestNode::start(echo()).await;
    let mut peer = node.connect().await;
    let mut session = peer.open("1").await.session;
    let cases: [(&[u8], &str); 8] = [
        (br#"{"prompt":"a","model":"another"}"#, "MODEL_NOT_FOUND"),
        (br#"{"prompt":"a","functions":[]}"#, "UNSUPPORTED_FIELD"),
        (br#"{"prompt":"a","n":2}"#, "UNSUPPORTED_FIELD"),
        (br#"{"prompt":"a","logprobs":true}"#, "UNSUPPORTED_FIELD"),
        (br#"{"prompt":"a","op":"embeddings"}"#, "UNSUPPORTED_FIELD"),
        (br#"{"prompt":"a","temperature":-1}"#, "INVALID_PAYLOAD"),
        (br#"{"prompt":"a","messages":[]}"#, "INVALID_PAYLOAD"),
        (b"\xff\xfe", "INVALID_UTF8"),
    ];
    for (plaintext, code) in cases {
        let frame = session.message(plaintext, &mut rng()).unwrap();
        assert_eq!(peer.outcome(frame).await, code);
    }
    let frame =
        session.message(br#"{"prompt":"a","response_format":{"type":"json_object"}}"#, &mut rng()).unwrap();
    peer.send(frame).await;
    let refused = peer.receive().await;
    assert!(refused["message"].as_str().unwrap().ends_with(": response_format"), "{refused}");
    assert_eq!(peer.ask(&mut session, "hello").await.text, "hello");
}

#[tokio::test]
async fn frames_that_break_websocket_close_with_its_codes() {
    let node = TestNode::with(echo(), &["--max-frame-bytes", "50000"], |_| {}).await;
    let mut large = node.connect().await;
    large.send("x".repeat(50_001)).await;
    assert_eq!(large.close_code().await, Some(1009));
    // A text frame that is not UTF-8, masked by hand with a key of zeros.
    use tokio::io::AsyncWriteExt as _;
    let mut broken = node.connect().await;
    broken.socket.get_mut().write_all(&[0x81, 0x82, 0, 0, 0, 0, 0xff, 0xfe]).await.unwrap();
    assert_eq!(broken.close_code().await, Some(1007));
}

#[tokio::test]
async fn a_stranger_under_a_known_session_id_gains_and_breaks_nothing() {
    let node = TestNode::start(slow_echo(Duration::from_millis(5))).await;
    let mut victim = node.connect().await;
    let mut session = victim.open("42").await.session;
    let frame = session.message("word ".repeat(60).as_bytes(), &mut rng()).unwrap();
    victim.send(frame).await;
    assert_eq!(victim.receive().await["type"], "encrypted_chunk");

    let mut stranger = node.connect().await;
    stranger.send(r#"{"type":"stream_cancel","session_id":"42"}"#).await;
    let forged = message_frame(&session, "42", Aad::Message(Index::new(5)), "message_5", "x");
    assert_eq!(stranger.outcome(forged).await, "SESSION_KEY_NOT_FOUND");
    let mut own = stranger.open("42").await.session;
    assert_eq!(stranger.ask(&mut own, "mine").await.text, "mine");
    // On the victim's own connection another owner's init is refused.
    let rest = drain_answer(&mut victim).await;
    assert_eq!(rest["reason"], "complete");
    let (other_owner, _) = init(&node.key, &wallet(), "42", Dialect::Deployed, true);
    assert_eq!(victim.outcome(other_owner).await, "INVALID_SIGNATURE");
    assert_eq!(victim.ask(&mut session, "still here").await.text, "still here");
}

/// Reads an answer to its end without opening it.
async fn drain_answer(peer: &mut Peer) -> Value {
    loop {
        let frame = peer.receive().await;
        if frame["type"] == "stream_end" {
            return frame;
        }
    }
}

#[tokio::test]
async fn a_new_key_during_an_answer_leaves_the_answer_under_the_old_one() {
    let node = TestNode::start(slow_echo(Duration::from_millis(3))).await;
    let client = wallet();
    let mut peer = node.connect().await;
    let mut first = peer.open_as(&client, "1", Dialect::Deployed).await.session;
    let words = "word ".repeat(50);
    let frame = first.message(words.as_bytes(), &mut rng()).unwrap();
    peer.send(frame).await;
    let (again, mut second) = init(&node.key, &client, "1", Dialect::Deployed, true);
    peer.send(again).await;
    let next = second.message(b"next", &mut rng()).unwrap();
    peer.send(next).await;
    // The ack comes between the chunks; take it out and open the rest under the first key.
    let mut opener = Some(first.answer());
    let mut text = String::new();
    loop {
        let frame = peer.receive().await;
        match fabstir_protocol::v1::Reply::decode(&frame.to_string()).unwrap() {
            fabstir_protocol::v1::Reply::Chunk { payload, .. } => {
                let opened = first.open_chunk(opener.as_mut().unwrap(), &payload).unwrap();
                text.push_str(std::str::from_utf8(opened.as_bytes()).unwrap());
            }
            fabstir_protocol::v1::Reply::Response { payload, .. } => {
                first.open_final(opener.take().unwrap(), &payload).unwrap();
            }
            fabstir_protocol::v1::Reply::StreamEnd { .. } => break,
            fabstir_protocol::v1::Reply::Ack { session_id, .. } => assert_eq!(session_id, "1"),
            other => panic!("not expected here: {other:?}"),
        }
    }
    assert_eq!(text, words);
    let stored = node.node.sessions.metrics();
    assert!(stored.total_keys_stored <= 2, "{stored:?}");
    assert_eq!(peer.hear(&second).await.text, "next");
    until("the first key to be wiped", || node.node.sessions.metrics().total_keys_stored == 1).await;
}

#[tokio::test]
async fn cancel_ends_the_running_and_the_queued_answers_and_frees_the_engine() {
    let engine = llama(1);
    let node = TestNode::start(Arc::clone(&engine) as _).await;
    let mut peer = node.connect().await;
    let mut session = peer.open("1").await.session;
    for _ in 0..2 {
        let frame = session.message(story().as_bytes(), &mut rng()).unwrap();
        peer.send(frame).await;
    }
    assert_eq!(peer.receive().await["type"], "encrypted_chunk");
    peer.send(r#"{"type":"stream_cancel","session_id":"1"}"#).await;
    for _ in 0..2 {
        let end = drain_answer(&mut peer).await;
        assert_eq!((&end["reason"], &end["finish_reason"]), (&json!("cancelled"), &json!("cancelled")));
    }
    until("a free engine", || engine.status().running == 0 && engine.status().waiting == 0).await;
    assert!(peer.ask(&mut session, &paris(24)).await.text.contains("Paris"));
}

#[tokio::test]
async fn a_disconnect_frees_the_engine_and_wipes_the_key() {
    let engine = llama(1);
    let node = TestNode::start(Arc::clone(&engine) as _).await;
    let mut peer = node.connect().await;
    let mut session = peer.open("1").await.session;
    let frame = session.message(story().as_bytes(), &mut rng()).unwrap();
    peer.send(frame).await;
    assert_eq!(peer.receive().await["type"], "encrypted_chunk");
    drop(peer);
    until("a free engine", || engine.status().running == 0).await;
    until("no key", || node.node.sessions.metrics().total_keys_stored == 0).await;
}

#[tokio::test]
async fn an_engine_failure_is_told_in_the_stream_and_the_next_request_is_served() {
    let engine = llama(1);
    let node = TestNode::start(Arc::clone(&engine) as _).await;
    let mut peer = node.connect().await;
    let mut session = peer.open("1").await.session;
    let frame = session.message(story().as_bytes(), &mut rng()).unwrap();
    peer.send(frame).await;
    assert_eq!(peer.receive().await["type"], "encrypted_chunk");
    engine.inject(InjectedFault::Step);
    let answer = peer.hear_or_error(&session).await;
    assert_eq!(answer["code"], "ENGINE_FAILED", "{answer}");
    assert!(peer.ask(&mut session, &paris(24)).await.text.contains("Paris"));
}

#[tokio::test]
async fn an_idle_session_expires_on_an_open_socket() {
    let node = TestNode::with(echo(), &[], |config| config.store.ttl = Duration::from_secs(1)).await;
    let mut peer = node.connect().await;
    let mut session = peer.open("1").await.session;
    assert_eq!(peer.ask(&mut session, "hello").await.text, "hello");
    until("the expiry", || node.node.sessions.metrics().expired_keys_cleaned == 1).await;
    assert_eq!(node.node.sessions.metrics().total_keys_stored, 0, "the sweeper has wiped it, nobody asked");
    let frame = session.message(b"hello?", &mut rng()).unwrap();
    assert_eq!(peer.outcome(frame).await, "SESSION_KEY_NOT_FOUND");
    let mut again = peer.open("1").await.session;
    assert_eq!(peer.ask(&mut again, "hello").await.text, "hello");
}

#[tokio::test]
async fn a_running_answer_is_not_cut_by_the_ttl() {
    let node = TestNode::with(slow_echo(Duration::from_millis(40)), &[], |config| {
        config.store.ttl = Duration::from_millis(800);
    })
    .await;
    let mut peer = node.connect().await;
    let mut session = peer.open("1").await.session;
    let words = "word ".repeat(40);
    assert_eq!(peer.ask(&mut session, &words).await.text, words);
}

#[tokio::test]
async fn a_conversation_has_a_longest_life_whatever_is_said_in_it() {
    let node =
        TestNode::with(echo(), &[], |config| config.store.session_max = Duration::from_millis(300)).await;
    let client = wallet();
    let mut peer = node.connect().await;
    let mut expired = false;
    for _ in 0..10_000 {
        let opened = peer.open_as(&client, "1", Dialect::Deployed).await;
        drop(opened);
        expired = node.node.sessions.metrics().expired_keys_cleaned > 0;
        if expired {
            break;
        }
    }
    assert!(expired, "re-init must not renew it");
}

#[tokio::test]
async fn a_forged_index_does_not_burn_the_counter() {
    let node = TestNode::start(echo()).await;
    let mut peer = node.connect().await;
    let mut session = peer.open("1").await.session;
    for index in [u64::MAX.to_string(), "1000000".into(), "1".into()] {
        let forged = message_frame(&session, "1", Aad::Final, &format!("message_{index}"), "x");
        assert_eq!(peer.outcome(forged).await, "DECRYPTION_FAILED");
    }
    assert_eq!(peer.ask(&mut session, "zero").await.text, "zero");
    let skipping = message_frame(&session, "1", Aad::Message(Index::new(7)), "message_7", "seven");
    peer.send(skipping).await;
    assert_eq!(peer.hear(&session).await.text, "seven", "indices may skip");
    let back = message_frame(&session, "1", Aad::Message(Index::new(3)), "message_3", "three");
    assert_eq!(peer.outcome(back).await, "REPLAY_DETECTED", "and never go back");
}

#[tokio::test]
async fn the_newest_connection_of_an_owner_wins() {
    let node = TestNode::start(slow_echo(Duration::from_millis(5))).await;
    let client = wallet();
    let (mut old, mut new) = (node.connect().await, node.connect().await);
    let mut before = old.open_as(&client, "1", Dialect::Deployed).await.session;
    let frame = before.message("word ".repeat(500).as_bytes(), &mut rng()).unwrap();
    old.send(frame).await;
    assert_eq!(old.receive().await["type"], "encrypted_chunk");
    let mut after = new.open_as(&client, "1", Dialect::Deployed).await.session;
    assert_eq!(drain_answer(&mut old).await["reason"], "cancelled");
    let late = before.message(b"hello?", &mut rng()).unwrap();
    assert_eq!(old.outcome(late).await, "SESSION_KEY_NOT_FOUND");
    assert_eq!(new.ask(&mut after, "here").await.text, "here");
    until("the old key to be wiped", || node.node.sessions.metrics().total_keys_stored == 1).await;
}

#[tokio::test]
async fn a_claimed_conversation_outlives_its_connection_for_the_grace() {
    for (grace, dialect, claim, kept) in [
        (60_000, Dialect::Deployed, true, true),
        (0, Dialect::Deployed, true, false),
        (60_000, Dialect::Deployed, false, false),
    ] {
        let node =
            TestNode::with(echo(), &[], |config| config.store.grace = Duration::from_millis(grace)).await;
        let client = wallet();
        let mut tokens = Vec::new();
        for _ in 0..2 {
            let mut peer = node.connect().await;
            let (frame, mut session) = init(&node.key, &client, "1", dialect, claim);
            assert_eq!(peer.outcome(frame).await, "session_init_ack");
            tokens.push(
                peer.ask(&mut session, "one two").await.end["usage"]["prompt_tokens"].as_u64().unwrap(),
            );
            drop(peer);
            until("the disconnect", || node.node.sessions.metrics().active_sessions == 0).await;
        }
        assert_eq!(tokens[1] > tokens[0], kept, "grace {grace} ms, claim {claim}: {tokens:?}");
    }
}

#[tokio::test]
async fn a_reader_that_does_not_read_is_closed_and_holds_nobody_up() {
    let node = TestNode::with(echo(), &["--context-tokens", "2048"], |config| {
        config.send_timeout = Duration::from_millis(300);
    })
    .await;
    let mut slow = node.connect().await;
    let mut session = slow.open("1").await.session;
    // Far more than the sockets' buffers take, asked for and never read.
    let long =
        json!({"messages": [{"role": "user", "content": format!("{} ", "x".repeat(400)).repeat(1000)}]})
            .to_string();
    for _ in 0..9 {
        let frame = session.message(long.as_bytes(), &mut rng()).unwrap();
        slow.send(frame).await;
    }
    let mut quick = node.connect().await;
    let mut other = quick.open("2").await.session;
    assert_eq!(quick.ask(&mut other, "hello").await.text, "hello");
    for _ in 0..20 {
        let frame = session.message(long.as_bytes(), &mut rng()).unwrap();
        if slow.socket.send(Message::text(frame)).await.is_err() {
            break;
        }
    }
    until("the slow one to be gone", || node.node.sessions.metrics().active_sessions == 1).await;
    assert_eq!(quick.ask(&mut other, "hello").await.text, "hello");
}

#[tokio::test]
async fn a_drain_lets_running_answers_finish_and_takes_nothing_new() {
    let node = TestNode::start(slow_echo(Duration::from_millis(5))).await;
    let mut idle = node.connect().await;
    let mut busy = node.connect().await;
    let mut session = busy.open("1").await.session;
    let words = "word ".repeat(60);
    let frame = session.message(words.as_bytes(), &mut rng()).unwrap();
    busy.send(frame).await;
    assert_eq!(busy.receive().await["type"], "encrypted_chunk");
    node.node.draining.cancel();
    assert_eq!(idle.close_code().await, Some(1001), "an idle connection is told at once");
    let (late, _) = init(&node.key, &wallet(), "2", Dialect::Deployed, true);
    busy.send(late).await;
    let mut refused = false;
    let end = loop {
        let frame = busy.receive().await;
        refused |= frame["code"] == "DRAINING";
        if frame["type"] == "stream_end" {
            break frame;
        }
    };
    assert!(refused, "a new session is refused while draining");
    assert_eq!((&end["reason"], &end["tokens_used"]), (&json!("complete"), &json!(60)));
    assert_eq!(busy.close_code().await, Some(1001));
    let sessions = Arc::clone(&node.node.sessions);
    node.stop().await;
    assert_eq!(sessions.metrics().total_keys_stored, 0);
}

#[tokio::test]
async fn what_does_not_finish_in_time_is_cancelled() {
    let node = TestNode::with(slow_echo(Duration::from_millis(50)), &[], |config| {
        config.drain = Duration::from_millis(100);
    })
    .await;
    let mut peer = node.connect().await;
    let mut session = peer.open("1").await.session;
    let frame = session.message("word ".repeat(2000).as_bytes(), &mut rng()).unwrap();
    peer.send(frame).await;
    assert_eq!(peer.receive().await["type"], "encrypted_chunk");
    // 100 seconds of words; a stop that waits for them waits longer than this test has patience.
    node.stop().await;
    // What is cut off says so, sealed, as a cancelled answer does.
    let heard = async {
        loop {
            let frame = peer.next().await.expect("the answer has an end");
            if frame["type"] == "stream_end" {
                return frame;
            }
        }
    };
    assert_eq!(heard.await["reason"], "cancelled");
    assert_eq!(peer.close_code().await, Some(1001));
}

#[tokio::test]
async fn every_bound_has_its_answer() {
    let flags = ["--max-sessions", "3", "--max-sessions-per-connection", "2", "--max-queued-messages", "1"];
    let node = TestNode::with(slow_echo(Duration::from_millis(20)), &flags, |_| {}).await;
    let mut peer = node.connect().await;
    let mut session: ClientSession = peer.open("1").await.session;
    peer.open("2").await;
    let third = |id: &str| init(&node.key, &wallet(), id, Dialect::Deployed, true).0;
    assert_eq!(peer.outcome(third("3")).await, "NODE_BUSY", "two a connection");
    let mut other = node.connect().await;
    other.open("1").await;
    assert_eq!(other.outcome(third("2")).await, "NODE_BUSY", "three in all");
    for _ in 0..2 {
        let frame = session.message("word ".repeat(30).as_bytes(), &mut rng()).unwrap();
        peer.send(frame).await;
    }
    let frame = session.message(b"one too many", &mut rng()).unwrap();
    peer.send(frame.clone()).await;
    let busy = loop {
        let reply = peer.receive().await;
        if reply["type"] == "error" {
            break reply;
        }
    };
    assert_eq!(busy["code"], "NODE_BUSY");
    let (_, metrics) = node.http("GET", "/metrics", &[], "").await;
    for limit in ["sessions_per_connection", "sessions", "queued_messages"] {
        let counted = format!("fabstir_limits_hit_total{{limit=\"{limit}\"}}");
        assert!(metrics.contains(&counted), "{limit} was hit, and is not counted:\n{metrics}");
    }
    for _ in 0..2 {
        drain_answer(&mut peer).await;
    }
    peer.send(frame).await;
    assert_eq!(peer.hear(&session).await.text, "one too many", "what was refused can be sent again as it is");
}

#[tokio::test]
async fn inits_are_limited_by_network() {
    let node = TestNode::with(echo(), &[], |config| config.inits_per_minute = 2.try_into().unwrap()).await;
    let mut peer = node.connect().await;
    peer.open("1").await;
    // Another connection is no other network.
    let mut peer = node.connect().await;
    peer.open("2").await;
    let (third, _) = init(&node.key, &wallet(), "3", Dialect::Deployed, true);
    peer.send(third).await;
    let refused = peer.receive().await;
    assert_eq!(refused["code"], "RATE_LIMITED");
    assert!(refused["retry_after_ms"].as_u64().unwrap() > 1000, "{refused}");
}

#[tokio::test]
async fn only_listed_clients_open_sessions_where_there_is_a_list() {
    let listed = wallet();
    let node = TestNode::with(echo(), &["--allowed-clients", &listed.address().to_string()], |_| {}).await;
    let mut peer = node.connect().await;
    let (stranger, _) = init(&node.key, &wallet(), "1", Dialect::Deployed, true);
    assert_eq!(peer.outcome(stranger).await, "CLIENT_NOT_ALLOWED");
    peer.open_as(&listed, "1", Dialect::Deployed).await;
}

#[tokio::test]
async fn a_timestamp_must_be_of_this_moment_where_it_is_required() {
    let node = TestNode::with(echo(), &["--require-init-timestamp"], |_| {}).await;
    let mut peer = node.connect().await;
    let (without, _) = init(&node.key, &wallet(), "1", Dialect::Deployed, true);
    assert_eq!(peer.outcome(without).await, "REPLAY_DETECTED");
}

#[tokio::test]
async fn a_node_without_a_key_serves_plaintext_and_says_so() {
    let (config, _, _) = support::settings(&[]);
    let node = TestNode::run(config, None, echo()).await;
    let mut peer = node.connect().await;
    let (encrypted, session) = init(&node.key, &wallet(), "1", Dialect::Deployed, true);
    assert_eq!(peer.outcome(encrypted).await, "ENCRYPTION_NOT_SUPPORTED");
    let message = message_frame(&session, "1", Aad::Message(Index::new(0)), "message_0", "x");
    assert_eq!(peer.outcome(message).await, "ENCRYPTION_NOT_SUPPORTED");
    assert_eq!(
        peer.outcome(r#"{"type":"prompt","session_id":"1","prompt":"x"}"#).await,
        "SESSION_KEY_NOT_FOUND"
    );
    peer.send(r#"{"type":"session_init","session_id":"1","job_id":5}"#).await;
    let ack = peer.receive().await;
    assert!(ack["warning"].as_str().unwrap().contains("deprecated"), "{ack}");
    for request in [r#""prompt":"one two""#, r#""request":{"prompt":"one two"}"#] {
        for kind in ["prompt", "inference"] {
            peer.send(format!(r#"{{"type":"{kind}","session_id":"1","id":9,{request}}}"#)).await;
            let mut text = String::new();
            loop {
                let frame = peer.receive().await;
                assert_eq!(frame["id"], 9);
                if frame["type"] == "stream_end" {
                    break;
                }
                assert_eq!(frame["type"], "stream_chunk");
                text.push_str(frame["content"].as_str().unwrap());
            }
            assert_eq!(text, "one two");
        }
    }
}

#[tokio::test]
async fn a_waiting_client_is_kept_company() {
    let node = TestNode::with(slow_echo(Duration::from_millis(120)), &[], |config| {
        config.keep_alive = Duration::from_millis(30);
    })
    .await;
    let mut peer = node.connect().await;
    let mut session = peer.open("1").await.session;
    let heard = peer.ask(&mut session, "one two").await;
    assert_eq!(heard.text, "one two");
    assert!(heard.chunks > 4, "empty chunks came while it waited: {}", heard.chunks);
}

#[tokio::test]
async fn http_says_what_the_node_is() {
    let node = TestNode::start(echo()).await;
    assert_eq!(node.http("GET", "/health", &[], "").await.0, 200);
    assert_eq!(node.http("GET", "/ready", &[], "").await.0, 200);
    let version = node.get_json("/v1/version").await;
    assert_eq!((&version["engine"], &version["encryption"]), (&json!("echo"), &json!(true)));
    assert_eq!(version["public_key"], node.key.to_string());
    assert_eq!(node.get_json("/v1/models").await["data"][0]["id"], "echo");
    let mut peer = node.connect().await;
    peer.open("1").await;
    let keys = node.get_json("/v1/metrics/session_keys").await;
    assert_eq!((&keys["active_sessions"], &keys["total_keys_stored"]), (&json!(1), &json!(1)));
    assert!(keys["memory_usage_estimate_bytes"].as_u64().unwrap() > 32);
    let (status, page) = node.http("GET", "/metrics", &[], "").await;
    assert!(status == 200 && page.contains("fabstir_sessions_active"), "{page}");
    assert_eq!(node.http("GET", "/nothing", &[], "").await.0, 404);
    assert_eq!(node.http("GET", "/v1/ws", &[], "").await.0, 426);
}

#[tokio::test]
async fn a_post_of_one_frame_is_answered_like_a_socket_and_leaves_nothing() {
    let node = TestNode::start(echo()).await;
    let (frame, _) = init(&node.key, &wallet(), "test-session", Dialect::GuideRust, true);
    let (status, body) = node.http("POST", "/v1/ws", &[], &frame).await;
    assert!(status == 200 && body.contains("session_init_ack"), "{status} {body}");
    assert_eq!(node.node.sessions.metrics().total_keys_stored, 0);
    let (status, body) = node.http("POST", "/v1/ws", &[], &frame).await;
    assert!(status == 409 && body.contains("REPLAY_DETECTED"), "{status} {body}");
    let evil = [("origin", "https://evil.example")];
    let (status, body) = node.http("POST", "/v1/ws", &evil, &frame).await;
    assert!(status == 403 && body.contains("ORIGIN_NOT_ALLOWED"), "{status} {body}");
    let large = "x".repeat(2_000_000);
    let (status, body) = node.http("POST", "/v1/ws", &[], &large).await;
    assert!(status == 413 && body.contains("REQUEST_TOO_LARGE"), "{status} {body}");
}

#[tokio::test]
async fn a_challenge_is_signed_with_its_context_only() {
    let node = TestNode::start(echo()).await;
    let challenge = "ab".repeat(32);
    let good = json!({"challenge": challenge, "context": "fabstir-node/1"}).to_string();
    let (status, body) = node.http("POST", "/v1/auth/challenge", &[], &good).await;
    assert_eq!(status, 200, "{body}");
    let proof: Value = serde_json::from_str(&body).unwrap();
    let mut signature = const_hex::decode(proof["signature"].as_str().unwrap()).unwrap();
    signature.push(u8::try_from(proof["recid"].as_u64().unwrap()).unwrap());
    let signature = fabstir_protocol::identity::Signature::try_from(signature.as_slice()).unwrap();
    use sha2::{Digest as _, Sha256};
    let digest: [u8; 32] = Sha256::new()
        .chain_update("fabstir node challenge|")
        .chain_update(node.key.address().as_bytes())
        .chain_update([0xab; 32])
        .finalize()
        .into();
    assert_eq!(signature.recover(&digest), Ok(node.key.address()));
    let bare = json!({"challenge": challenge}).to_string();
    let (status, body) = node.http("POST", "/v1/auth/challenge", &[], &bare).await;
    assert!(status == 403 && body.contains("CHALLENGE_DISABLED"), "{body}");
    let legacy = TestNode::with(echo(), &["--challenge", "legacy"], |_| {}).await;
    assert_eq!(legacy.http("POST", "/v1/auth/challenge", &[], &bare).await.0, 200);
}

#[tokio::test]
async fn an_idle_socket_is_pinged_and_a_silent_one_is_closed() {
    let node = TestNode::with(echo(), &[], |config| config.ping_interval = Duration::from_millis(300)).await;
    let mut peer = node.connect().await;
    let message = peer.socket.next().await.unwrap().unwrap();
    assert!(matches!(message, Message::Ping(_)), "{message:?}");
    // Not read from any more, it sends no pong.
    until("the silent one to be gone", || {
        node.node.connections.load(std::sync::atomic::Ordering::Relaxed) == 0
    })
    .await;
}
