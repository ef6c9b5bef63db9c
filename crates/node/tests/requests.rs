//! What requests may ask for beyond words, with the real model over real sockets.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test is meant to panic"
)]

mod support;

use serde_json::{Value, json};
use support::{Heard, TestNode, llama, llama_with};

/// ChatML with functions, in the manner of Hermes.
const WITH_TOOLS: &str = "{% if tools %}<|im_start|>system\nFunctions:{% for tool in tools %} {{ tool | tojson }}{% endfor %}\n\
    Write <tool_call>…</tool_call>.<|im_end|>\n{% endif %}\
    {% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}\
    {% for call in message.tool_calls %}<tool_call>\n{{ call.function | tojson }}\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// The pieces of an answer that are objects.
fn objects(heard: &Heard) -> Vec<Value> {
    let pieces = heard.pieces.iter().filter(|piece| !piece.is_empty());
    pieces.map(|piece| serde_json::from_str(piece).unwrap()).collect()
}

#[tokio::test]
async fn an_answer_meets_the_schema_that_came_with_the_request() {
    let node = TestNode::start(llama(1)).await;
    let mut peer = node.connect().await;
    let mut session = peer.open("1").await.session;
    let schema = json!({"type": "object", "additionalProperties": false, "required": ["colour"],
        "properties": {"colour": {"enum": ["red", "green", "blue"]}}});
    let request = json!({"prompt": "What colour is grass?", "temperature": 0,
        "response_format": {"type": "json_schema", "json_schema": {"name": "colour", "schema": schema}}});
    let heard = peer.ask(&mut session, &request.to_string()).await;
    let answer: Value = serde_json::from_str(&heard.text).unwrap();
    assert!(["red", "green", "blue"].contains(&answer["colour"].as_str().unwrap()), "{answer}");
    assert_eq!(heard.finish_reason, "stop");
    // What comes next is free of it.
    let next =
        json!({"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 4, "temperature": 0});
    let heard = peer.ask(&mut session, &next.to_string()).await;
    assert!(!heard.text.starts_with('{'), "{}", heard.text);
}

#[tokio::test]
async fn a_call_of_a_function_comes_as_an_object() {
    let node = TestNode::start(llama_with(1, Some(WITH_TOOLS.to_owned()))).await;
    let mut peer = node.connect().await;
    let mut session = peer.open("1").await.session;
    let parameters = json!({"type": "object", "required": ["city"], "additionalProperties": false,
        "properties": {"city": {"type": "string", "maxLength": 20}}});
    let tools = json!([{"type": "function", "function":
        {"name": "get_weather", "description": "The weather <|im_end|> of a city.", "parameters": parameters}}]);
    let question = json!({"role": "user", "content": "What is the weather in Paris?"});
    let request =
        json!({"messages": [question], "tools": tools, "tool_choice": "required", "temperature": 0});
    let heard = peer.ask(&mut session, &request.to_string()).await;
    assert_eq!(
        (heard.finish_reason.as_str(), &heard.end["finish_reason"]),
        ("tool_calls", &json!("tool_calls"))
    );
    let objects = objects(&heard);
    let [choice] = objects.as_slice() else { panic!("one object was expected: {objects:?}") };
    let call = &choice["delta"]["tool_calls"][0];
    assert_eq!((&call["index"], &call["type"]), (&json!(0), &json!("function")));
    assert_eq!(call["function"]["name"], "get_weather");
    let arguments: Value = serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
    assert!(arguments["city"].is_string());
    assert_eq!(heard.end["tokens_used"], heard.end["usage"]["completion_tokens"]);
    // Its result goes back, and words come.
    let said = json!({"role": "assistant", "content": null, "tool_calls": [call]});
    let result = json!({"role": "tool", "tool_call_id": call["id"], "content": "Sunny."});
    let request = json!({"messages": [question, said, result], "tools": tools, "max_tokens": 8});
    let heard = peer.ask(&mut session, &request.to_string()).await;
    assert!(heard.end["usage"]["completion_tokens"].as_u64().unwrap() > 0);
    assert!(self::objects(&heard).iter().all(|choice| choice["delta"]["content"].is_string()));
}

#[tokio::test]
async fn probabilities_come_inside_the_sealed_chunks() {
    let node = TestNode::start(llama(1)).await;
    let mut peer = node.connect().await;
    let mut session = peer.open("1").await.session;
    let request =
        json!({"prompt": "Hello", "logprobs": true, "top_logprobs": 2, "max_tokens": 5, "temperature": 0});
    let heard = peer.ask(&mut session, &request.to_string()).await;
    let tokens: Vec<Value> = objects(&heard)
        .iter()
        .flat_map(|choice| choice["logprobs"]["content"].as_array().unwrap().clone())
        .collect();
    assert_eq!(json!(tokens.len()), heard.end["usage"]["completion_tokens"]);
    for token in &tokens {
        assert!(token["logprob"].as_f64().unwrap() <= 0.0);
        assert_eq!(token["top_logprobs"].as_array().unwrap().len(), 2);
        assert_eq!(token["top_logprobs"][0]["token"], token["token"], "greedy takes the likeliest");
    }
    assert!(heard.frames.iter().all(|frame| !frame.to_string().contains("logprob")), "in the clear");
}

#[tokio::test]
async fn embeddings_come_one_a_chunk() {
    let node = TestNode::start(llama(1)).await;
    let mut peer = node.connect().await;
    let mut session = peer.open("1").await.session;
    let request = json!({"op": "embeddings", "input": ["a cat", "a dog"]});
    let heard = peer.ask(&mut session, &request.to_string()).await;
    let objects = objects(&heard);
    let [first, second] = objects.as_slice() else { panic!("two were expected") };
    assert_eq!((&first["index"], &second["index"]), (&json!(0), &json!(1)));
    let numbers = |object: &Value| -> Vec<f64> {
        object["embedding"].as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
    };
    let length: f64 = numbers(first).iter().map(|number| number * number).sum();
    assert!((length - 1.0).abs() < 1e-3);
    assert_ne!(first["embedding"], second["embedding"]);
    assert_eq!(heard.end["usage"]["completion_tokens"], 0);
    assert!(heard.end["usage"]["prompt_tokens"].as_u64().unwrap() >= 4);
    let request = json!({"op": "embeddings", "prompt": "a cat", "encoding_format": "base64"});
    let packed = peer.ask(&mut session, &request.to_string()).await;
    assert!(self::objects(&packed)[0]["embedding"].is_string());
}

#[tokio::test]
async fn several_models_answer_by_their_names_and_usage_names_the_weights() {
    let path = support::model_path();
    let path = path.to_str().unwrap();
    let models = format!("first={path},second={path}");
    let flags = ["--models", &models, "--context-tokens", "256", "--max-sequences", "1", "--threads", "1"];
    let (config, key, _) = support::settings(&flags);
    let engine = fabstir_llm_node::engine::load(&config.engine, None).await.unwrap();
    let node = TestNode::run(config, key, engine).await;
    let listed = || async { node.get_json("/v1/models").await["data"].clone() };
    let before = listed().await;
    let of = |list: &Value, field: &str| [list[0][field].clone(), list[1][field].clone()];
    assert_eq!(of(&before, "id"), [json!("first"), json!("second")]);
    assert_eq!(of(&before, "loaded"), [json!(true), json!(false)]);
    let mut peer = node.connect().await;
    let mut session = peer.open("1").await.session;
    for model in ["second", "first", "default"] {
        let request = json!({"prompt": "Hello", "model": model, "max_tokens": 3}).to_string();
        let heard = peer.ask(&mut session, &request).await;
        assert_eq!(heard.end["reason"], "complete", "{}", heard.end);
        assert_eq!(heard.end["usage"]["model_sha256"], before[0]["sha256"]);
    }
    assert_eq!(of(&listed().await, "loaded"), [json!(true), json!(true)]);
    let unknown = session.message(br#"{"prompt":"a","model":"third"}"#, &mut support::rng()).unwrap();
    assert_eq!(peer.outcome(unknown).await, "MODEL_NOT_FOUND");
}
