//! Who used how much: by session, by client and day, over restarts, and nothing twice.

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

use std::{fs, os::unix::fs::PermissionsExt as _, process::Command, sync::Arc, time::Duration};

use fabstir_client::{ClientIdentity, Config, Event, Request, Session, SessionDelegation, anonymous};
use fabstir_llm_node::ledger::Counts;
use fabstir_protocol::{identity::PrivateKey, v1::Dialect};
use spawned::{BINARY, NodeProcess};
use support::{PATIENCE, TestNode, echo, rng, slow_echo, until, wallet};
use tokio::time::timeout;

/// What a client used today, or ever: a test may run at midnight.
fn used(node: &TestNode, client: &str) -> Counts {
    let mut sum = Counts::default();
    for day in node.node.ledger.usage(None) {
        day.clients.iter().filter(|line| line.client == client).for_each(|line| sum.add(&line.counts));
    }
    sum
}

fn counts(requests: u64, cancelled: u64, prompt_tokens: u64, completion_tokens: u64) -> Counts {
    Counts { requests, cancelled, prompt_tokens, completion_tokens, reused_tokens: 0 }
}

/// A session of version 2 in the name of `wallet`.
async fn delegated(node: &TestNode, wallet: &PrivateKey) -> Session {
    let key = fabstir_client::random_key();
    let now = node.node.clock.unix(tokio::time::Instant::now());
    let delegation = SessionDelegation {
        wallet: wallet.address(),
        delegate_key: key.public_key(),
        node: Some(node.key.address()),
        not_before: now - 60,
        not_after: now + 3600,
    };
    let identity = ClientIdentity { key: Arc::new(key), delegation: Some(delegation.sign(wallet).unwrap()) };
    connect(node, identity).await
}

async fn connect(node: &TestNode, identity: ClientIdentity) -> Session {
    let url = format!("ws://{}/v1/ws", node.address);
    Session::connect(Config::new(url, node.key.address(), identity)).await.unwrap()
}

async fn say(session: &Session, words: &str) {
    let answer = session.ask(&Request::prompt(words)).await.unwrap();
    timeout(PATIENCE, answer.text()).await.unwrap().unwrap();
}

#[tokio::test]
async fn usage_is_by_client_whatever_version_they_speak() {
    let node = TestNode::with(echo(), &["--allow-plaintext"], |_| {}).await;
    let wallet = wallet();
    let client = wallet.address().to_string();
    let mut peer = node.connect().await;
    let mut first = peer.open_as(&wallet, "1", Dialect::Deployed).await.session;
    peer.ask(&mut first, "one two three").await;
    assert_eq!(used(&node, &client), counts(1, 0, 3, 3));
    let session = delegated(&node, &wallet).await;
    say(&session, "four five").await;
    assert_eq!(used(&node, &client), counts(2, 0, 5, 5));
    // Nobody vouches for these: they are counted together.
    say(&connect(&node, anonymous()).await, "six").await;
    say(&connect(&node, anonymous()).await, "seven eight").await;
    assert_eq!(used(&node, "anonymous"), counts(2, 0, 3, 3));
    peer.send(r#"{"type":"session_init","session_id":"p"}"#).await;
    peer.receive().await;
    peer.send(r#"{"type":"prompt","session_id":"p","prompt":"nine ten"}"#).await;
    until("the plaintext answer to be counted", || used(&node, "plaintext") == counts(1, 0, 2, 2)).await;
    // An address that is recovered and not claimed proves nothing, and gets no bill.
    let stranger = support::wallet();
    let (frame, mut unclaimed) = support::init(&node.key, &stranger, "u", Dialect::Deployed, false);
    peer.send(frame).await;
    peer.receive().await;
    let message = unclaimed.message(b"eleven", &mut rng()).unwrap();
    peer.send(message).await;
    until("the unclaimed answer to be counted", || used(&node, "unclaimed").requests == 1).await;
    assert_eq!(used(&node, &stranger.address().to_string()), Counts::default());
}

/// What is sent again after a lost connection was made once.
#[tokio::test]
async fn a_lost_connection_counts_nothing_twice() {
    let node = TestNode::start(slow_echo(Duration::from_millis(5))).await;
    let wallet = wallet();
    let client = wallet.address().to_string();
    let session = delegated(&node, &wallet).await;
    let mut answer = session.ask(&Request::prompt("word ".repeat(200))).await.unwrap();
    let mut pieces = 0;
    loop {
        match timeout(PATIENCE, answer.next()).await.unwrap().unwrap().unwrap() {
            Event::Text(_) | Event::Object(_) => pieces += 1,
            Event::End(_) => break,
        }
        if pieces == 5 || pieces == 10 {
            session.lose_connection();
        }
    }
    assert_eq!(session.connections_replaced(), 2);
    assert_eq!(used(&node, &client), counts(1, 0, 200, 200));
    let lines = node.node.ledger.sessions();
    assert_eq!((lines.len(), lines[0].counts), (1, counts(1, 0, 200, 200)), "and it was one session");
}

/// Who goes away in the middle of an answer has had the tokens that were made.
#[tokio::test]
async fn an_answer_that_is_left_is_counted_as_far_as_it_came() {
    let node = TestNode::start(slow_echo(Duration::from_millis(10))).await;
    let wallet = wallet();
    let client = wallet.address().to_string();
    let mut peer = node.connect().await;
    let mut session = peer.open_as(&wallet, "1", Dialect::Deployed).await.session;
    let frame = session.message("word ".repeat(1000).as_bytes(), &mut rng()).unwrap();
    peer.send(frame).await;
    for _ in 0..5 {
        assert_eq!(peer.receive().await["type"], "encrypted_chunk");
    }
    drop(peer);
    until("the answer to be counted", || used(&node, &client).requests == 1).await;
    let left = used(&node, &client);
    assert_eq!((left.cancelled, left.prompt_tokens), (1, 1000));
    assert!((5..1000).contains(&left.completion_tokens), "{left:?}");
    // A cancel counts the same way.
    let session = delegated(&node, &wallet).await;
    let mut answer = session.ask(&Request::prompt("word ".repeat(1000))).await.unwrap();
    timeout(PATIENCE, answer.next()).await.unwrap().unwrap();
    answer.cancel().await;
    until("the cancelled answer to be counted", || used(&node, &client).cancelled == 2).await;
}

#[tokio::test]
async fn usage_outlives_the_process_and_is_told_in_csv() {
    let dir = tempfile::tempdir().unwrap();
    let (usage, socket) = (dir.path().join("usage"), dir.path().join("admin.sock"));
    let env = [("USAGE_DIR", usage.to_str().unwrap()), ("ADMIN_SOCKET", socket.to_str().unwrap())];
    let wallet = wallet();
    for _ in 0..2 {
        let node = NodeProcess::start(&[], &env);
        let mut peer = node.connect().await;
        let mut session = peer.open_as(&wallet, "1", Dialect::Deployed).await.session;
        peer.ask(&mut session, "one two three").await;
        drop(peer);
        assert_eq!(node.stop().0.code(), Some(0));
    }
    let node = NodeProcess::start(&[], &env);
    let ask = |words: &[&str]| {
        let output = Command::new(BINARY).arg("usage").args(words).env_clear().envs(env).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let csv = ask(&["--csv"]);
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines[0], "day,client,requests,cancelled,prompt_tokens,completion_tokens,reused_tokens");
    // One line, or two where it was midnight in between.
    let mine: Vec<Vec<&str>> = lines[1..].iter().map(|line| line.split(',').collect()).collect();
    let sum = |column: usize| mine.iter().map(|line| line[column].parse::<u64>().unwrap()).sum::<u64>();
    assert_eq!((sum(2), sum(4), sum(5)), (2, 6, 6), "{csv}");
    assert!(mine.iter().all(|line| line[1] == wallet.address().to_string()), "{csv}");
    assert!(ask(&["--csv", "--day", mine[0][0]]).contains(mine[0][1]));
    assert_eq!(ask(&["--csv", "--day", "2020-01-01"]).lines().count(), 1);
    // On disk are addresses and counts, for this user alone, and nothing of what was said.
    for entry in fs::read_dir(&usage).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!fs::read_to_string(&path).unwrap().contains("two"));
    }
    drop(node);
}

#[test]
fn a_folder_of_usage_that_cannot_be_made_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let output = Command::new(BINARY)
        .args(spawned::ECHO)
        .args(["--usage-dir", "file/usage"])
        .current_dir(dir.path())
        .env_clear()
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("USAGE_DIR: file/usage"), "{output:?}");
}
