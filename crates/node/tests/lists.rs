//! Who is allowed and who is denied, from files that change while sessions run, in both versions.

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
mod support;

use std::{fs, path::PathBuf, time::Duration};

use channel::{code, config, delegate, open, say};
use fabstir_client::{ClientIdentity, Error, Request, Session, anonymous};
use fabstir_protocol::{identity::PrivateKey, v1::Dialect};
use support::{PATIENCE, Peer, TestNode, init, rng, slow_echo, until, wallet};

/// A node with a list in a file.
struct Listed {
    node: TestNode,
    file: PathBuf,
    _folder: tempfile::TempDir,
}

impl Listed {
    async fn denying(text: &str) -> Self {
        Self::with("--denied-clients-file", text).await
    }

    async fn allowing(text: &str) -> Self {
        Self::with("--allowed-clients-file", text).await
    }

    async fn with(flag: &str, text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("clients");
        fs::write(&file, text).unwrap();
        let flags = [flag, file.to_str().unwrap()];
        let node = TestNode::with(slow_echo(Duration::from_millis(10)), &flags, |_| {}).await;
        Self { node, file, _folder: folder }
    }

    fn write(&self, text: &str) {
        fs::write(&self.file, text).unwrap();
    }
}

fn line(wallet: &PrivateKey) -> String {
    format!("{} # somebody\n", wallet.address())
}

async fn opens(peer: &mut Peer, wallet: &PrivateKey) -> String {
    let (frame, _) = init(&peer.node_key, wallet, "1", Dialect::Deployed, true);
    peer.outcome(frame).await
}

/// What a new connection of the wallet's comes to, in version 1.
async fn comes(node: &TestNode, wallet: &PrivateKey) -> String {
    opens(&mut node.connect().await, wallet).await
}

/// The error that ends an answer.
async fn end_of(mut answer: fabstir_client::Answer) -> Error {
    loop {
        match tokio::time::timeout(PATIENCE, answer.next()).await.unwrap() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the answer is whole"),
            Err(error) => return error,
        }
    }
}

#[tokio::test]
async fn who_is_denied_does_not_come_in_whatever_allows_them() {
    let (one, two) = (wallet(), wallet());
    let folder = tempfile::tempdir().unwrap();
    let (allowed, denied) = (folder.path().join("allowed"), folder.path().join("denied"));
    fs::write(&allowed, line(&one) + &line(&two)).unwrap();
    fs::write(&denied, line(&one)).unwrap();
    let flags = [
        "--allowed-clients-file",
        allowed.to_str().unwrap(),
        "--denied-clients-file",
        denied.to_str().unwrap(),
        "--allowed-clients",
        &one.address().to_string(),
    ];
    let node = TestNode::with(support::echo(), &flags, |_| {}).await;
    assert_eq!(comes(&node, &one).await, "CLIENT_NOT_ALLOWED");
    assert_eq!(code(open(&node, delegate(&node, &one)).await), "CLIENT_NOT_ALLOWED");
    assert_eq!(comes(&node, &two).await, "session_init_ack");
    open(&node, delegate(&node, &two)).await.unwrap();
    assert_eq!(comes(&node, &wallet()).await, "CLIENT_NOT_ALLOWED");
    assert_eq!(code(open(&node, anonymous()).await), "CLIENT_NOT_ALLOWED");
}

#[tokio::test]
async fn a_session_of_version_1_ends_when_its_client_is_denied() {
    let listed = Listed::denying("").await;
    let wallet = wallet();
    let mut peer = listed.node.connect().await;
    let mut session = peer.open_as(&wallet, "1", Dialect::Deployed).await.session;
    let frame = session.message("word ".repeat(1000).as_bytes(), &mut rng()).unwrap();
    peer.send(frame).await;
    assert_eq!(peer.receive().await["type"], "encrypted_chunk");
    listed.write(&line(&wallet));
    let (mut ended, mut told) = (false, false);
    while let Some(frame) = peer.next().await {
        ended |= frame["type"] == "stream_end" && frame["reason"] == "cancelled";
        told |= frame["code"] == "CLIENT_NOT_ALLOWED" && frame["session_id"] == "1";
    }
    assert!(ended && told, "{ended} {told}");
    until("the key is wiped", || listed.node.node.sessions.metrics().total_keys_stored == 0).await;
    assert_eq!(comes(&listed.node, &wallet).await, "CLIENT_NOT_ALLOWED");
    listed.write("");
    while comes(&listed.node, &wallet).await != "session_init_ack" {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn others_on_the_same_connection_go_on() {
    let listed = Listed::denying("").await;
    let (one, two) = (wallet(), wallet());
    let mut peer = listed.node.connect().await;
    peer.open_as(&one, "1", Dialect::Deployed).await;
    let mut session = peer.open_as(&two, "2", Dialect::Deployed).await.session;
    listed.write(&line(&one));
    let told = peer.receive().await;
    assert_eq!((&told["code"], &told["session_id"]), (&"CLIENT_NOT_ALLOWED".into(), &"1".into()));
    assert_eq!(peer.ask(&mut session, "hello").await.text, "hello");
    assert_eq!(opens(&mut peer, &one).await, "CLIENT_NOT_ALLOWED");
}

#[tokio::test]
async fn a_channel_ends_when_its_client_is_denied_and_is_told_so_under_seal() {
    let listed = Listed::denying("").await;
    let wallet = wallet();
    let session = open(&listed.node, delegate(&listed.node, &wallet)).await.unwrap();
    let mut answer = session.ask(&Request::prompt("word ".repeat(1000))).await.unwrap();
    answer.next().await.unwrap();
    listed.write(&line(&wallet));
    assert_eq!(code(Err::<(), _>(end_of(answer).await)), "CLIENT_NOT_ALLOWED");
    until("nothing of it is left", || listed.node.node.channels.count() == (0, 0)).await;
    until("nothing is made", || listed.node.node.engine.status().running == 0).await;
}

#[tokio::test]
async fn who_falls_off_the_allow_list_is_shown_out_and_who_is_put_on_it_comes_in() {
    let (one, two) = (wallet(), wallet());
    let listed = Listed::allowing(&line(&one)).await;
    let node = &listed.node;
    let session = open(node, delegate(node, &one)).await.unwrap();
    let mut peer = node.connect().await;
    peer.open_as(&one, "1", Dialect::Deployed).await;
    assert_eq!(comes(node, &two).await, "CLIENT_NOT_ALLOWED");
    listed.write(&line(&two));
    assert_eq!(peer.receive().await["code"], "CLIENT_NOT_ALLOWED");
    assert_eq!(peer.close_code().await, Some(1008));
    until("the channel is gone", || node.channels_are(0)).await;
    assert!(say(&session, "hello").await.is_err());
    assert_eq!(comes(node, &two).await, "session_init_ack");
}

impl TestNode {
    fn channels_are(&self, number: usize) -> bool {
        self.node.channels.count().0 == number
    }
}

#[tokio::test]
async fn a_delegate_key_is_denied_and_the_wallets_other_delegates_are_not() {
    let listed = Listed::denying("").await;
    let node = &listed.node;
    let wallet = wallet();
    let (lost, kept) = (delegate(node, &wallet), delegate(node, &wallet));
    let lost_key = lost.key.public_key();
    let lost_again = ClientIdentity { key: lost.key.clone(), delegation: lost.delegation.clone() };
    let (gone, goes_on) = (open(node, lost).await.unwrap(), open(node, kept).await.unwrap());
    listed.write(&format!("{lost_key} the laptop that was lost"));
    until("one is left", || node.channels_are(1)).await;
    assert!(say(&gone, "hello").await.is_err());
    assert_eq!(say(&goes_on, "hello").await.unwrap(), "hello");
    // Its signature was verified before, and is remembered; whether it may come in is asked again.
    assert_eq!(code(open(node, lost_again).await), "CLIENT_NOT_ALLOWED");
    open(node, delegate(node, &wallet)).await.unwrap();
}

#[tokio::test]
async fn nobody_who_was_denied_comes_back_to_the_session_that_they_had() {
    let listed = Listed::denying("").await;
    let node = &listed.node;
    let wallet = wallet();
    let identity = delegate(node, &wallet);
    let session = Session::connect(config(node, node.address, identity)).await.unwrap();
    let mut answer = session.ask(&Request::prompt("word ".repeat(1000))).await.unwrap();
    answer.next().await.unwrap();
    session.lose_connection_for(Duration::from_millis(300));
    until("it is lost", || node.node.connections.load(std::sync::atomic::Ordering::Relaxed) == 0).await;
    listed.write(&line(&wallet));
    until("the session is gone", || node.node.channels.count() == (0, 0)).await;
    // By the ticket, and then by a claim in a new handshake.
    match end_of(answer).await {
        Error::SessionLost | Error::Truncated => {}
        Error::Refused { code, .. } => assert_eq!(code, "CLIENT_NOT_ALLOWED"),
        other => panic!("{other:?}"),
    }
    assert!(node.channels_are(0));
}

#[tokio::test]
async fn a_key_without_a_wallet_is_denied_too() {
    let listed = Listed::denying("").await;
    let identity = anonymous();
    let key = identity.key.public_key();
    let session = open(&listed.node, identity).await.unwrap();
    let other = open(&listed.node, anonymous()).await.unwrap();
    listed.write(&key.to_string());
    until("one is left", || listed.node.channels_are(1)).await;
    assert!(say(&session, "hello").await.is_err());
    assert_eq!(say(&other, "hello").await.unwrap(), "hello");
}

#[tokio::test]
async fn a_list_that_cannot_be_read_stays_what_it_was() {
    let (one, two) = (wallet(), wallet());
    let listed = Listed::allowing(&line(&one)).await;
    let node = &listed.node;
    for wrong in [format!("{}0xnonsense\n", line(&two)), String::from_utf8_lossy(&[0xff]).into_owned()] {
        listed.write(&wrong);
        node.node.reload_lists().await;
        assert_eq!(comes(node, &one).await, "session_init_ack");
        assert_eq!(comes(node, &two).await, "CLIENT_NOT_ALLOWED");
    }
    fs::remove_file(&listed.file).unwrap();
    node.node.reload_lists().await;
    assert_eq!(comes(node, &one).await, "session_init_ack");
    assert_eq!(comes(node, &two).await, "CLIENT_NOT_ALLOWED");
}

#[tokio::test]
async fn an_allow_list_without_anybody_on_it_lets_nobody_in() {
    let listed = Listed::allowing("# to be filled\n").await;
    assert_eq!(comes(&listed.node, &wallet()).await, "CLIENT_NOT_ALLOWED");
    assert_eq!(code(open(&listed.node, delegate(&listed.node, &wallet())).await), "CLIENT_NOT_ALLOWED");
    assert_eq!(code(open(&listed.node, anonymous()).await), "CLIENT_NOT_ALLOWED");
}

#[tokio::test]
async fn a_list_is_read_at_once_when_it_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("denied");
    fs::write(&file, "").unwrap();
    let flags = ["--denied-clients-file", file.to_str().unwrap()];
    let node = TestNode::with(support::echo(), &flags, |config| config.sweep_interval = PATIENCE).await;
    let wallet = wallet();
    let session = open(&node, delegate(&node, &wallet)).await.unwrap();
    fs::write(&file, line(&wallet)).unwrap();
    assert_eq!(say(&session, "hello").await.unwrap(), "hello");
    node.node.reload_lists().await;
    until("it is gone", || node.channels_are(0)).await;
    assert_eq!(comes(&node, &wallet).await, "CLIENT_NOT_ALLOWED");
}
