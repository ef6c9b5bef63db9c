//! The proxy in front of several nodes, of which one goes away, and what it does with a request that is too large.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::expect_used,
    reason = "a test is meant to panic"
)]
#![cfg(unix)]

mod support;

use std::time::Duration;

use serde_json::json;
use support::{
    TestNode, User, assert_exit, err,
    proxy::{Proxy, json_of, said},
};

fn both<'a>(urls: &'a [String; 2], keys: &'a [String; 2]) -> [&'a str; 8] {
    ["--node", &urls[0], "--node-key", &keys[0], "--node", &urls[1], "--node-key", &keys[1]]
}

#[tokio::test]
async fn when_a_node_is_killed_the_next_one_answers_until_the_first_is_back() {
    let (mut first, second, user) = (TestNode::serving("first"), TestNode::serving("second"), User::new());
    let urls = [first.url(), second.url()];
    let keys = [first.identity.to_string(), second.identity.to_string()];
    let proxy = Proxy::with(&user, &both(&urls, &keys));
    assert_eq!(proxy.model().await, "first");
    first.kill();
    // What was on its way to it just then is cut off; what is asked after that is answered.
    let answered = async { while proxy.model().await != "second" {} };
    tokio::time::timeout(Duration::from_secs(20), answered).await.expect("nobody took over");
    for _ in 0..5 {
        assert_eq!(proxy.model().await, "second");
    }
    let first = first.revive("first", &[]);
    let back = async { while proxy.model().await != "first" {} };
    tokio::time::timeout(Duration::from_secs(60), back).await.expect("the first was not asked again");
    assert_eq!(proxy.model().await, "first");
    assert_eq!(first.node.channels.count().0, 1);
}

#[tokio::test]
async fn at_the_start_one_node_is_enough_and_the_other_is_complained_of() {
    let (mut first, second, user) = (TestNode::serving("first"), TestNode::serving("second"), User::new());
    let urls = [first.url(), second.url()];
    let keys = [first.identity.to_string(), second.identity.to_string()];
    first.kill();
    let mut proxy = Proxy::with(&user, &both(&urls, &keys));
    let said = proxy.says();
    assert!(said.contains(&urls[0]) && said.contains("cannot connect"), "{said}");
    assert_eq!(proxy.model().await, "second");
    let first = first.revive("first", &[]);
    let back = async { while proxy.model().await != "first" {} };
    tokio::time::timeout(Duration::from_secs(20), back).await.expect("the first was not asked again");
    drop((first, second));
}

#[tokio::test]
async fn without_a_session_all_wait_for_the_same_attempt_to_open_one() {
    let (mut node, user) = (TestNode::serving("first"), User::new());
    let proxy = Proxy::with(&user, &["--node", &node.url(), "--node-key", &node.identity.to_string()]);
    node.kill();
    let node = node.revive("first", &[]);
    let asked = (0..8).map(|_| proxy.ask(json!({"messages": said("?")})));
    for response in futures_util::future::join_all(asked).await {
        assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
    }
    assert_eq!(node.node.channels.count().0, 1);
}

#[tokio::test]
async fn a_node_that_opens_no_session_is_quoted_by_its_code_and_status() {
    let (mut node, user) = (TestNode::serving("first"), User::new());
    let proxy = Proxy::with(&user, &["--node", &node.url(), "--node-key", &node.identity.to_string()]);
    node.kill();
    let nobody = fabstir_client::random_key().address().to_string();
    let node = node.revive("first", &["--allowed-clients", &nobody]);
    let response = proxy.ask(json!({"messages": said("?")})).await;
    assert_eq!(response.status(), 403);
    assert_eq!(json_of(response).await["error"]["code"], "CLIENT_NOT_ALLOWED");
    drop(node);
}

#[test]
fn keys_belong_to_the_nodes_in_their_order() {
    let (first, second, user) = (TestNode::serving("first"), TestNode::serving("second"), User::new());
    let urls = [first.url(), second.url()];
    let keys = [first.identity.to_string(), second.identity.to_string()];
    let arguments = [&["proxy", "--listen", "127.0.0.1:0"][..], &both(&urls, &keys)].concat();
    let output = user.run(&[&arguments[..], &["--node-key", &keys[0]]].concat());
    assert_exit(&output, 2);
    assert!(err(&output).contains("more --node-key than --node"), "{}", err(&output));
    // The second has none, and is not known.
    let output = user.run(&arguments[..arguments.len() - 2]);
    assert_exit(&output, 4);
    assert!(err(&output).contains(&second.address.to_string()), "{}", err(&output));
    // Neither shows the identity that it should have.
    let swapped = [keys[1].clone(), keys[0].clone()];
    let output = user.run(&[&["proxy", "--listen", "127.0.0.1:0"][..], &both(&urls, &swapped)].concat());
    assert_exit(&output, 4);
}

#[tokio::test]
async fn what_is_too_large_is_refused_before_it_is_carried_to_the_node() {
    let (node, user) = (TestNode::start(&["--max-request-bytes", "4096"]), User::new());
    let proxy = Proxy::start(&user, &node);
    let long = "word ".repeat(2000);
    for (path, body) in [
        ("/chat/completions", json!({"messages": said(&long)})),
        ("/responses", json!({"input": long})),
        ("/messages", json!({"model": "echo", "max_tokens": 5, "messages": said(&long)})),
    ] {
        let response = proxy.post(path, &body).send().await.unwrap();
        assert_eq!(response.status(), 413);
        let fault = json_of(response).await;
        assert!(fault["error"]["message"].as_str().unwrap().contains("4096 bytes at most"), "{fault}");
    }
    let longer = json!({"input": "x".repeat(32 << 20)});
    let response = proxy.post("/responses", &longer).send().await.unwrap();
    assert_eq!(response.status(), 413);
    assert_eq!(json_of(response).await["error"]["code"], "REQUEST_TOO_LARGE");
    assert_eq!(proxy.model().await, "echo");
}
