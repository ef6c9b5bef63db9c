//! Every rejected vector, sent to a node over a socket: it gives the code that the vector names, and what comes
//! after it is served.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test is meant to panic"
)]

mod support;

use fabstir_llm_node::crypto::{NodeKey, TestKeys};
use serde::Deserialize;
use support::{Peer, TestNode, echo, settings};

#[derive(Deserialize)]
struct Vectors {
    node: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    node_private_key: String,
    before: Vec<String>,
    frame: String,
    code: String,
    after: Vec<String>,
}

/// What the node says to a frame when it has said all of it: a code, or nothing to complain of.
async fn outcome(peer: &mut Peer, frame: &str) -> Option<String> {
    peer.send(frame).await;
    loop {
        let reply = peer.receive().await;
        match reply["type"].as_str().unwrap() {
            "error" => return Some(reply["code"].as_str().unwrap().to_owned()),
            "session_init_ack" | "stream_end" | "pong" => return None,
            _ => {}
        }
    }
}

#[tokio::test]
async fn every_rejected_vector_is_rejected_over_a_socket_with_its_code() {
    let text = include_str!("../../../vectors/v1-rejected.json");
    let vectors: Vectors = serde_json::from_str(text).unwrap();
    // Those about time are of a moment that is past.
    let cases: Vec<&Case> = vectors.node.iter().filter(|case| !case.name.starts_with("time: ")).collect();
    assert!(cases.len() > 400);
    for case in cases {
        let (config, _, _) = settings(&[]);
        let key = NodeKey::read(&case.node_private_key, TestKeys::Allowed).unwrap();
        let node = TestNode::run(config, Some(key), echo()).await;
        let mut peer = node.connect().await;
        // A cancel that finds nothing to end is not answered.
        let answered = |frame: &&String| !frame.contains("\"stream_cancel\"");
        let mut others = Vec::new();
        for frame in &case.before {
            let mut said = outcome(&mut peer, frame).await;
            // On one connection an id stays with its owner: another owner comes by another connection.
            if said.as_deref() == Some("INVALID_SIGNATURE") {
                let mut other = node.connect().await;
                said = outcome(&mut other, frame).await;
                others.push(other);
            }
            assert_eq!(said, None, "{}, before", case.name);
        }
        assert_eq!(outcome(&mut peer, &case.frame).await.as_ref(), Some(&case.code), "{}", case.name);
        for frame in case.after.iter().filter(answered) {
            assert_eq!(outcome(&mut peer, frame).await, None, "{}, after", case.name);
        }
        node.node.stopping.cancel();
    }
}
