//! Clients of version 2.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "each test file uses its part of this, and a test is meant to panic"
)]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use fabstir_client::{Answer, ClientIdentity, Config, End, Error, Request, Session, SessionDelegation};
use fabstir_protocol::identity::PrivateKey;
use tokio::time::timeout;

use crate::support::{PATIENCE, TestNode};

/// Comes back at once, or not at all.
pub(crate) fn config(node: &TestNode, by: SocketAddr, identity: ClientIdentity) -> Config {
    let url = format!("ws://{by}/v1/ws");
    Config { resume_for: Duration::from_secs(2), ..Config::new(url, node.key.address(), identity) }
}

/// A delegate of `wallet` for this node.
pub(crate) fn delegate(node: &TestNode, wallet: &PrivateKey) -> ClientIdentity {
    let key = fabstir_client::random_key();
    let now = node.node.clock.unix(tokio::time::Instant::now());
    let delegation = SessionDelegation {
        wallet: wallet.address(),
        delegate_key: key.public_key(),
        node: Some(node.key.address()),
        not_before: now - 60,
        not_after: now + 3600,
    };
    ClientIdentity { key: Arc::new(key), delegation: Some(delegation.sign(wallet).unwrap()) }
}

pub(crate) async fn open(node: &TestNode, identity: ClientIdentity) -> Result<Session, Error> {
    Session::connect(config(node, node.address, identity)).await
}

pub(crate) async fn whole(answer: Answer) -> Result<(String, End), Error> {
    let (words, end) = timeout(PATIENCE, answer.text()).await.expect("an answer in time")?;
    Ok((words.as_str().to_owned(), end))
}

pub(crate) async fn say(session: &Session, words: &str) -> Result<String, Error> {
    whole(session.ask(&Request::prompt(words)).await?).await.map(|(words, _)| words.trim().to_owned())
}

/// The code of a refusal, and how long to wait.
pub(crate) fn refusal<T>(outcome: Result<T, Error>) -> (String, Option<Duration>) {
    match outcome {
        Err(Error::Refused { code, retry_after, .. }) => (code, retry_after),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("was not refused"),
    }
}

pub(crate) fn code<T>(outcome: Result<T, Error>) -> String {
    refusal(outcome).0
}
