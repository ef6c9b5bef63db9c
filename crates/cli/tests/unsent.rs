//! A request that was not sent over one connection, and may be made elsewhere.

#![allow(clippy::unwrap_used, reason = "a test is meant to panic")]
#![cfg(unix)]

mod support;

use std::time::Duration;

use fabstir_client::{Config, Error, Event, Op, Session, anonymous};
use serde_json::json;
use support::{TestNode, proxy::said, way::Way};

#[tokio::test]
async fn a_request_that_waited_for_a_connection_in_vain_is_never_sent() {
    let node = TestNode::start(&[]);
    let mut way = Way::to(&node);
    let config = Config::new(format!("ws://{}/v1/ws", way.address), node.identity, anonymous());
    let session = Session::connect(config).await.unwrap();
    way.connected().await;
    let body = |words: &str| json!({"messages": said(words)}).to_string();
    let whole = async |words: &str| {
        let mut answer = session.ask_json(Op::Chat, &body(words)).await.unwrap();
        loop {
            if let Some(Event::End(end)) = answer.next().await.unwrap() {
                return u64::from(end.usage.unwrap().completion_tokens);
            }
        }
    };
    let before = node.counted().await;
    let first = whole("one two three").await;
    way.shut();
    let grace = Duration::from_millis(50);
    while session.is_connected_within(Duration::ZERO) {
        tokio::task::yield_now().await;
    }
    let refused = session.ask_json_within(Op::Chat, &body("never"), grace).await;
    assert!(matches!(refused, Err(Error::Silent(_))), "{refused:?}");
    assert!(session.is_open() && !session.is_connected_within(grace));
    way.open();
    way.connected().await;
    // The driver found the other one first, and nobody who waits for it.
    let last = whole("four").await;
    assert!(session.is_connected_within(grace));
    assert_eq!(node.counted().await - before, first + last);
}
