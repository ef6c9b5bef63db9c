//! The proxy, as a program on the same machine meets it, with a real node behind it.

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
    TestNode, User, assert_exit, err, out,
    proxy::{Proxy, events, json_of, said},
};

#[tokio::test]
async fn an_answer_comes_whole_or_as_a_stream_in_openais_shapes() {
    let (node, user) = (TestNode::start(&[]), User::new());
    let proxy = Proxy::start(&user, &node);
    let whole = json_of(proxy.ask(json!({"model": "echo", "messages": said("hello there")})).await).await;
    assert_eq!(whole["object"], "chat.completion");
    assert_eq!(whole["model"], "echo");
    let choice = &whole["choices"][0];
    assert_eq!(choice["message"]["role"], "assistant");
    assert_eq!(choice["message"]["content"].as_str().unwrap().trim(), "hello there");
    assert_eq!(choice["finish_reason"], "stop");
    let tokens = whole["usage"]["completion_tokens"].as_u64().unwrap();
    assert!(tokens > 0);

    let asked = json!({"model": "echo", "messages": said("hello there"), "stream": true,
                       "stream_options": {"include_usage": true}});
    let response = proxy.ask(asked).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let text = response.text().await.unwrap();
    let data = events(&text);
    assert_eq!(data.last(), Some(&"[DONE]"));
    let chunks: Vec<Value> =
        data[..data.len() - 1].iter().map(|one| serde_json::from_str(one).unwrap()).collect();
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    let words: String =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(words.trim(), "hello there");
    let ends: Vec<&Value> = chunks
        .iter()
        .map(|chunk| &chunk["choices"][0]["finish_reason"])
        .filter(|end| !end.is_null())
        .collect();
    assert_eq!(ends, ["stop"]);
    assert_eq!(chunks.last().unwrap()["usage"]["completion_tokens"], tokens);
    assert!(chunks.iter().all(|chunk| chunk["id"] == chunks[0]["id"]));
}

#[tokio::test]
async fn texts_go_on_and_models_are_listed() {
    let (node, user) = (TestNode::start(&[]), User::new());
    let proxy = Proxy::start(&user, &node);
    let mut asked = json!({"prompt": "once upon"});
    let whole = json_of(proxy.post("/completions", &asked).send().await.unwrap()).await;
    assert_eq!(whole["object"], "text_completion");
    let text = whole["choices"][0]["text"].as_str().unwrap();
    assert!(text.contains("once upon"), "{whole}");
    assert_eq!(whole["choices"][0]["finish_reason"], "stop");
    asked["stream"] = true.into();
    let stream = proxy.post("/completions", &asked).send().await.unwrap().text().await.unwrap();
    let data = events(&stream);
    assert_eq!(data.last(), Some(&"[DONE]"));
    let chunks = data[..data.len() - 1].iter().map(|one| serde_json::from_str::<Value>(one).unwrap());
    let words: Vec<String> =
        chunks.map(|chunk| chunk["choices"][0]["text"].as_str().unwrap().to_owned()).collect();
    assert_eq!(words.concat(), text);

    let models = json_of(proxy.get("/models").await).await;
    assert_eq!(models["object"], "list");
    assert_eq!(models["data"][0]["id"], "echo");
    assert_eq!(models["data"][0]["context_window"], 2048);
    assert_eq!(models["data"][0]["owned_by"], node.identity.to_checksum());
    assert_eq!(json_of(proxy.get("/models/echo").await).await, models["data"][0]);
    for unknown in ["/models/another", "/models/some/other"] {
        let response = proxy.get(unknown).await;
        assert_eq!(response.status(), 404);
        let fault = json_of(response).await;
        assert_eq!(fault["error"]["code"], "MODEL_NOT_FOUND");
        assert_eq!(fault["error"]["type"], "invalid_request_error");
    }
}

#[tokio::test]
async fn what_is_refused_has_openais_shape_and_the_protocols_code() {
    let (node, user) = (TestNode::start(&[]), User::new());
    let proxy = Proxy::start(&user, &node);
    for stream in [false, true] {
        let asked = json!({"model": "another", "messages": said("?"), "stream": stream});
        let response = proxy.ask(asked).await;
        assert_eq!(response.status(), 404);
        let fault = json_of(response).await;
        assert_eq!(fault["error"]["code"], "MODEL_NOT_FOUND");
        assert_eq!(fault["error"]["type"], "invalid_request_error");
        assert!(fault["error"]["message"].is_string());
    }
    // The session is shared: nobody may have the node keep a conversation in it.
    for body in [json!({"prompt": "?"}), json!({"prompt": "?", "messages": said("?")}), json!([])] {
        assert_eq!(proxy.ask(body).await.status(), 400);
    }
    let response = proxy.post("/nothing", &json!({})).send().await.unwrap();
    assert_eq!(response.status(), 404);
    assert_eq!(json_of(response).await["error"]["code"], "not_found");
}

#[tokio::test]
async fn anthropics_clients_are_answered_in_their_shapes() {
    let (node, user) = (TestNode::start(&[]), User::new());
    let proxy = Proxy::start(&user, &node);
    let post = |body: &Value| {
        let request = proxy.http.post(format!("{}/messages", proxy.base)).header("x-api-key", &proxy.token);
        request.body(body.to_string()).send()
    };
    let mut asked = json!({"model": "echo", "max_tokens": 50, "messages": said("hello there")});
    let whole = json_of(post(&asked).await.unwrap()).await;
    assert_eq!((&whole["type"], &whole["stop_reason"]), (&json!("message"), &json!("end_turn")));
    let text = whole["content"][0]["text"].as_str().unwrap();
    assert_eq!(text.trim(), "hello there");
    assert!(whole["usage"]["output_tokens"].as_u64().unwrap() > 0);
    asked["max_tokens"] = 1.into();
    assert_eq!(json_of(post(&asked).await.unwrap()).await["stop_reason"], "max_tokens");

    asked["max_tokens"] = 50.into();
    asked["stream"] = true.into();
    let stream = post(&asked).await.unwrap().text().await.unwrap();
    let told: Vec<Value> =
        events(&stream).into_iter().map(|one| serde_json::from_str(one).unwrap()).collect();
    let named: Vec<&str> = stream.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    assert!(told.iter().map(|event| event["type"].as_str().unwrap()).eq(named.iter().copied()));
    assert_eq!((named[0], named.last()), ("message_start", Some(&"message_stop")));
    assert_eq!(told.iter().filter_map(|event| event["delta"]["text"].as_str()).collect::<String>(), text);
    assert_eq!(told[told.len() - 2]["usage"], whole["usage"]);

    asked["model"] = "another".into();
    let response = post(&asked).await.unwrap();
    assert_eq!(response.status(), 404);
    let fault = json_of(response).await;
    assert_eq!((&fault["type"], &fault["error"]["type"]), (&json!("error"), &json!("not_found_error")));
    let nobody = proxy.http.post(format!("{}/messages", proxy.base)).body("{}").send().await.unwrap();
    assert_eq!(nobody.status(), 401);
    assert_eq!(json_of(nobody).await["type"], "error");
}

#[tokio::test]
async fn nobody_asks_without_the_token_or_from_another_site() {
    let (node, user) = (TestNode::start(&[]), User::new());
    let proxy = Proxy::start(&user, &node);
    let body = json!({"messages": said("?")});
    let mut stranger = proxy.post("/chat/completions", &body);
    stranger = stranger.header("origin", "https://evil.example");
    assert_eq!(stranger.send().await.unwrap().status(), 403);
    let rebound = proxy.post("/chat/completions", &body).header("host", "evil.example");
    assert_eq!(rebound.send().await.unwrap().status(), 403);
    let nobody = proxy.http.post(format!("{}/chat/completions", proxy.base)).body(body.to_string());
    let response = nobody.send().await.unwrap();
    assert_eq!(response.status(), 401);
    assert_eq!(json_of(response).await["error"]["type"], "authentication_error");
    assert_eq!(node.node.engine.status().running, 0);
}

#[tokio::test]
async fn a_program_that_goes_away_ends_its_answer_at_the_node() {
    let (node, user) = (TestNode::slow(&[], Duration::from_millis(20)), User::new());
    let proxy = Proxy::start(&user, &node);
    let asked = json!({"messages": said(&"word ".repeat(1500)), "stream": true});
    let mut response = proxy.ask(asked).await;
    assert!(response.chunk().await.unwrap().is_some());
    assert_eq!(node.node.engine.status().running, 1);
    drop(response);
    // The whole answer would take half a minute.
    let ended = async {
        while node.node.engine.status().running > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), ended).await.expect("the answer went on");
}

#[tokio::test]
async fn a_stream_says_that_it_is_there_while_the_node_is_silent() {
    let (node, user) = (TestNode::slow(&[], Duration::from_secs(5)), User::new());
    let proxy = Proxy::start(&user, &node);
    let mut response = proxy.ask(json!({"messages": said("?"), "stream": true})).await;
    let mut came = String::new();
    while !came.contains(": the node is at work") {
        came.push_str(std::str::from_utf8(&response.chunk().await.unwrap().unwrap()).unwrap());
    }
    assert_eq!(events(&came).len(), 1, "the role, and no words yet: {came}");
}

#[tokio::test]
async fn requests_side_by_side_share_a_session_and_a_lost_one_is_replaced() {
    let (node, user) = (TestNode::start(&[]), User::new());
    let proxy = Proxy::start(&user, &node);
    for _ in 0..2 {
        let asked = (0..8).map(|at| {
            let (words, proxy) = (format!("number {at}"), &proxy);
            async move {
                let answer = json_of(proxy.ask(json!({"messages": said(&words)})).await).await;
                assert_eq!(answer["choices"][0]["message"]["content"].as_str().unwrap().trim(), words);
            }
        });
        futures_util::future::join_all(asked).await;
        assert_eq!(node.node.channels.count().0, 1);
        // As a restart of the node would have it. Whether it began what was on its way just then nobody knows, so that is not
        // asked once more, and said to be cut off.
        node.node.channels.wipe();
        for _ in 0..100 {
            let response = proxy.ask(json!({"messages": said("?")})).await;
            if response.status() == 200 {
                break;
            }
            assert_eq!(response.headers()["x-should-retry"], "false");
            assert_eq!(json_of(response).await["error"]["code"], "truncated");
        }
    }
}

#[test]
fn the_proxy_is_for_this_machine_alone() {
    let (node, user) = (TestNode::start(&[]), User::new());
    let (url, identity) = (node.url(), node.identity.to_string());
    let arguments = ["proxy", "--node", &url, "--node-key", &identity];
    let output = user.run(&[&arguments[..], &["--listen", "0.0.0.0:0"]].concat());
    assert_exit(&output, 2);
    assert!(err(&output).contains("this machine alone"), "{}", err(&output));
    let output = user.run(&[&arguments[..], &["--protocol", "1"]].concat());
    assert_exit(&output, 2);
    // Its settings are the same each time, and show nothing where no token is wanted.
    let output = out(&user.run(&["proxy", "--env"]));
    assert!(
        output.starts_with("export OPENAI_BASE_URL=http://127.0.0.1:8787/v1\nexport OPENAI_API_KEY=fabstir-")
    );
    assert_eq!(out(&user.run(&["proxy", "--env"])), output);
    assert!(out(&user.run(&["proxy", "--env", "--no-auth"])).contains("OPENAI_API_KEY=none"));
    // What a shell has set for other commands is not in the way.
    let mut command = user.command(&["proxy", "--env"]);
    assert_eq!(out(&command.env("FABSTIR_DELEGATE", "/nowhere").output().unwrap()), output);
}

#[tokio::test]
async fn every_refusal_has_the_shape_of_the_api_that_was_asked() {
    let (node, user) = (TestNode::start(&[]), User::new());
    let proxy = Proxy::start(&user, &node);
    for (path, status, kind) in
        [("/chat/completions", 405, "invalid_request_error"), ("/nothing", 404, "invalid_request_error")]
    {
        let refused = proxy.get(path).await;
        assert_eq!(refused.status(), status, "{path}");
        assert!(status != 405 || refused.headers()["allow"] == "POST");
        assert_eq!(json_of(refused).await["error"]["type"], kind, "{path}");
    }
    let counted = proxy.post("/messages/count_tokens", &json!({})).send().await.unwrap();
    assert_eq!(counted.status(), 404);
    assert_eq!(json_of(counted).await["error"]["type"], "not_found_error");
    let nobody = proxy.http.post(format!("{}/messages/", proxy.base)).send().await.unwrap();
    assert_eq!(nobody.status(), 401);
    assert_eq!(json_of(nobody).await["type"], "error");
}
