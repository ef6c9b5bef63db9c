//! OpenAI's Responses API at the proxy, as a program on the same machine meets it, with a real node behind it.

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

use serde_json::{Value, json};
use support::{
    TestNode, User,
    proxy::{Proxy, events, json_of, said},
};

#[tokio::test]
async fn a_response_is_the_same_whole_and_as_a_stream() {
    let (node, user) = (TestNode::start(&[]), User::new());
    let proxy = Proxy::start(&user, &node);
    let post = |body: &Value| proxy.post("/responses", body).send();
    let mut asked = json!({"model": "echo", "input": "hello there", "metadata": {"a": "b"}});
    let whole = json_of(post(&asked).await.unwrap()).await;
    assert_eq!((&whole["object"], &whole["status"]), (&json!("response"), &json!("completed")));
    assert_eq!((&whole["store"], &whole["metadata"]), (&json!(false), &json!({"a": "b"})));
    let text = whole["output"][0]["content"][0]["text"].as_str().unwrap();
    assert_eq!(text.trim(), "hello there");
    let usage = &whole["usage"];
    let tokens = |name: &str| usage[name].as_u64().unwrap();
    assert!(tokens("output_tokens") > 0);
    assert_eq!(tokens("total_tokens"), tokens("input_tokens") + tokens("output_tokens"));

    asked["stream"] = true.into();
    let response = post(&asked).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let stream = response.text().await.unwrap();
    let told: Vec<Value> =
        events(&stream).into_iter().map(|one| serde_json::from_str(one).unwrap()).collect();
    let named: Vec<&str> = stream.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    assert!(told.iter().map(|event| event["type"].as_str().unwrap()).eq(named.iter().copied()));
    assert!((0_u64..).zip(&told).all(|(at, event)| event["sequence_number"] == at));
    assert_eq!(
        named[..4],
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added"
        ]
    );
    let deltas = told.iter().filter(|event| event["type"] == "response.output_text.delta");
    assert_eq!(deltas.map(|event| event["delta"].as_str().unwrap()).collect::<String>(), text);
    let last = told.last().unwrap();
    assert_eq!(last["type"], "response.completed");
    assert_eq!(last["response"]["output"][0]["content"], whole["output"][0]["content"]);
    assert_eq!(last["response"]["usage"]["output_tokens"], usage["output_tokens"]);

    asked["stream"] = false.into();
    asked["max_output_tokens"] = 1.into();
    let cut = json_of(post(&asked).await.unwrap()).await;
    assert_eq!(cut["status"], "incomplete");
    assert_eq!(cut["incomplete_details"], json!({"reason": "max_output_tokens"}));
}

#[tokio::test]
async fn what_a_response_cannot_be_is_refused_in_openais_shape() {
    let (node, user) = (TestNode::start(&[]), User::new());
    let proxy = Proxy::start(&user, &node);
    for (asked, status, code) in [
        (json!({"input": "?", "previous_response_id": "resp_1"}), 400, "invalid_request"),
        (json!({"input": [{"type": "item_reference", "id": "msg_1"}]}), 400, "invalid_request"),
        (json!({}), 400, "invalid_request"),
        (json!({"input": "?", "model": "another"}), 404, "MODEL_NOT_FOUND"),
        (json!({"input": "?", "model": "another", "stream": true}), 404, "MODEL_NOT_FOUND"),
    ] {
        let response = proxy.post("/responses", &asked).send().await.unwrap();
        assert_eq!(response.status(), status, "{asked}");
        let fault = json_of(response).await;
        assert_eq!((&fault["error"]["code"], &fault["error"]["param"]), (&json!(code), &Value::Null));
    }
}

#[tokio::test]
async fn a_response_says_that_it_is_there_while_the_node_is_silent() {
    let (node, user) = (TestNode::slow(&[], Duration::from_secs(5)), User::new());
    let proxy = Proxy::start(&user, &node);
    let asked = json!({"input": said("?"), "stream": true});
    let mut response = proxy.post("/responses", &asked).send().await.unwrap();
    let mut came = String::new();
    while !came.contains(": the node is at work") {
        came.push_str(std::str::from_utf8(&response.chunk().await.unwrap().unwrap()).unwrap());
    }
    assert_eq!(events(&came).len(), 2, "created and in progress, and no item yet: {came}");
}
