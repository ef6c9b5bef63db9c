//! The connection between the proxy and the node falls while an answer is on its way to a program.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::expect_used,
    reason = "a test is meant to panic"
)]
#![cfg(unix)]

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::{
    TestNode, User,
    proxy::{Proxy, events, said},
    way::Way,
};

/// The words of a stream of chat completions, and its end.
fn told(stream: &str) -> (String, Value, Value) {
    let data = events(stream);
    assert_eq!(data.last(), Some(&"[DONE]"), "{stream}");
    let chunks: Vec<Value> =
        data[..data.len() - 1].iter().map(|one| serde_json::from_str(one).unwrap()).collect();
    let words = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    let ends = chunks.iter().map(|chunk| &chunk["choices"][0]["finish_reason"]).filter(|end| !end.is_null());
    (words, ends.cloned().collect(), chunks.last().unwrap()["usage"].clone())
}

#[tokio::test]
async fn an_answer_goes_on_in_the_same_stream_when_the_connection_falls() {
    let (node, user) = (TestNode::slow(&[], Duration::from_millis(5)), User::new());
    let mut way = Way::to(&node);
    let url = format!("ws://{}/v1/ws", way.address);
    let proxy = Proxy::with(&user, &["--node", &url, "--node-key", &node.identity.to_string()]);
    way.connected().await;
    let words: Vec<String> = (0..300).map(|at| format!("word{at}")).collect();
    let asked = json!({"messages": said(&words.join(" ")), "stream": true, "max_tokens": 2000,
                       "stream_options": {"include_usage": true}});
    let uncut = told(&proxy.ask(asked.clone()).await.text().await.unwrap());
    assert_eq!(uncut.0.trim(), words.join(" "));

    let once = node.counted().await;
    assert_eq!(uncut.2["completion_tokens"], once);

    // Three times in the midst of it, at words that are far apart.
    let mut response = proxy.ask(asked).await;
    let (mut came, mut cuts) = (String::new(), 0);
    while let Some(piece) = response.chunk().await.unwrap() {
        came.push_str(std::str::from_utf8(&piece).unwrap());
        if cuts < 3 && came.contains(&format!("word{}", 40 + 70 * cuts)) {
            way.cut();
            tokio::time::timeout(Duration::from_secs(10), way.connected()).await.expect("it stayed cut");
            cuts += 1;
        }
    }
    assert_eq!(cuts, 3);
    assert_eq!(told(&came), uncut);
    assert_eq!(node.counted().await, 2 * once, "nothing was computed twice");
    assert_eq!(node.node.channels.count().0, 1);
    assert_eq!(node.node.engine.status().running, 0);
}
