//! A client in JavaScript that was written from docs/protocol.md alone: examples/channel-client, against the vectors and
//! against a node.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test is meant to panic")]

mod support;

use std::time::Duration;

use support::{TestNode, slow_echo};
use tokio::process::Command;

async fn run(arguments: &[&str]) -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/channel-client");
    let installed = std::path::Path::new(folder).join("node_modules").is_dir();
    assert!(installed, "its packages are missing: run npm ci in examples/channel-client");
    let output = Command::new("node").current_dir(folder).args(arguments).output().await;
    let output = output.expect("node can be run");
    let (said, noted) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{noted}");
    said.into_owned()
}

#[tokio::test]
async fn a_client_from_the_document_alone_meets_the_vectors() {
    let said = run(&["vectors.mjs"]).await;
    let last = said.lines().last().unwrap().strip_prefix("vectors: ").unwrap();
    let (met, all) = last.split_once(" of ").unwrap();
    assert_eq!(met, all, "{said}");
    assert!(met.parse::<usize>().unwrap() > 600);
}

#[tokio::test]
async fn a_client_from_the_document_alone_asks_and_resumes() {
    let node = TestNode::start(slow_echo(Duration::from_millis(1))).await;
    let url = format!("ws://{}/v1/ws", node.address);
    let said = run(&["client.mjs", &url, &node.key.address().to_string(), "one two three"]).await;
    assert!(said.contains("one two three"), "{said}");
    let said = run(&["live.mjs", &url, &node.key.address().to_string()]).await;
    assert!(!said.contains("BAD"), "{said}");
}
