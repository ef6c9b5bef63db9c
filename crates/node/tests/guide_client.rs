//! The specification's own client, mended, in JavaScript: examples/guide-client.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test is meant to panic")]

mod support;

use support::{TestNode, echo};
use tokio::process::Command;

#[tokio::test]
async fn the_specification_s_client_is_served() {
    let node = TestNode::start(echo()).await;
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/guide-client");
    let installed = std::path::Path::new(folder).join("node_modules").is_dir();
    assert!(installed, "its packages are missing: run npm ci in examples/guide-client");
    let output = Command::new("node")
        .current_dir(folder)
        .args(["client.mjs", &format!("ws://{}/v1/ws", node.address), &node.key.to_string(), "one two three"])
        .output()
        .await
        .expect("node can be run");
    let (said, noted) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{noted}");
    assert_eq!(said, "one two three");
    assert!(noted.contains("finish reason: stop"), "{noted}");
}
