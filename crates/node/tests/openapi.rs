//! docs/openapi.json is what the node serves (UPDATE_DOCS=1 writes it anew), and what the node answers is what it says.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test is meant to panic")]

mod support;

use fabstir_protocol::v1::Dialect;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use support::{TestNode, echo, init, rng, wallet};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");

/// An answer in parts.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let value =
            |line: &'_ str| line.split_once(": ").is_some_and(|(key, _)| key.eq_ignore_ascii_case(name));
        self.head
            .lines()
            .find(|line| value(line))
            .and_then(|line| line.split_once(": "))
            .map(|(_, value)| value)
    }
}

async fn raw(node: &TestNode, request: &str) -> Answer {
    let mut socket = TcpStream::connect(node.address).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    tokio::time::timeout(support::PATIENCE, socket.read_to_end(&mut bytes)).await.unwrap().unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

async fn ask(node: &TestNode, method: &str, path: &str, body: &str) -> Answer {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\ncontent-length: {}",
        body.len()
    );
    raw(node, &format!("{head}\r\n\r\n{body}")).await
}

async fn document(node: &TestNode) -> Value {
    serde_json::from_str(&ask(node, "GET", "/openapi.json", "").await.body).unwrap()
}

fn operation<'a>(document: &'a Value, method: &str, path: &str) -> &'a Value {
    &document["paths"][path][method.to_lowercase()]
}

/// What is wrong with `value` by a schema of the document.
fn faults(document: &Value, schema: &Value, value: &Value) -> Vec<String> {
    let whole = json!({ "allOf": [schema], "components": document["components"] });
    let validator = jsonschema::draft202012::new(&whole).unwrap();
    validator.iter_errors(value).map(|fault| fault.to_string()).collect()
}

/// An answer is one that the document has, headers included.
#[track_caller]
fn must_be_documented(document: &Value, method: &str, path: &str, answer: &Answer) {
    let Answer { status, head, body } = answer;
    let response = &operation(document, method, path)["responses"][status.to_string()];
    assert!(response.is_object(), "{method} {path}: {status} is not documented: {body}");
    let media = answer.header("content-type").unwrap().split(';').next().unwrap();
    let schema = &response["content"][media]["schema"];
    assert!(schema.is_object(), "{method} {path}: {media} is not documented for {status}");
    let value = if media == "application/json" { serde_json::from_str(body).unwrap() } else { json!(body) };
    assert_eq!(faults(document, schema, &value), Vec::<String>::new(), "{method} {path}: {body}");
    for (name, expected) in response["headers"].as_object().into_iter().flatten() {
        let told = answer.header(name);
        assert!(told.is_some() || name == "Retry-After", "{method} {path}: {name} is missing in {head}");
        let fixed = expected["schema"]["const"].as_str();
        assert!(fixed.is_none() || told == fixed, "{method} {path}: {name} is {told:?}");
    }
}

#[tokio::test]
async fn the_document_is_what_the_types_give() {
    let node = TestNode::start(echo()).await;
    let answer = ask(&node, "GET", "/openapi.json", "").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(PATH, &answer.body).unwrap();
    }
    let written = std::fs::read_to_string(PATH).unwrap_or_default();
    assert!(
        written == answer.body,
        "docs/openapi.json is not what the types give: UPDATE_DOCS=1 writes it anew"
    );
}

#[tokio::test]
async fn every_route_is_in_the_document_and_other_methods_are_refused_with_allow() {
    let node = TestNode::start(echo()).await;
    let document = document(&node).await;
    let sources = concat!(include_str!("../src/http/mod.rs"), include_str!("../../page/src/lib.rs"));
    let mut routes: Vec<_> =
        sources.split(".route(\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    let mut documented: Vec<_> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    routes.sort_unstable();
    documented.sort_unstable();
    assert_eq!(routes, documented);
    for path in routes {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"] {
            if operation(&document, method, path).is_object() {
                continue;
            }
            let answer = ask(&node, method, path, "").await;
            assert_eq!(answer.status, 405, "{method} {path}: {}", answer.body);
            let allowed = answer.header("allow").unwrap_or_default();
            for other in document["paths"][path].as_object().unwrap().keys() {
                assert!(allowed.contains(&other.to_uppercase()), "{method} {path}: allow is {allowed:?}");
            }
            let frame = serde_json::from_str(&answer.body).unwrap();
            let error = json!({ "$ref": "#/components/schemas/error" });
            assert_eq!(faults(&document, &error, &frame), Vec::<String>::new(), "{}", answer.body);
        }
    }
}

#[tokio::test]
async fn every_answer_of_a_get_is_one_that_the_document_has() {
    let with_key = TestNode::start(echo()).await;
    let document = document(&with_key).await;
    let (config, _, _) = support::settings(&[]);
    let without = TestNode::run(config, None, echo()).await;
    for node in [&with_key, &without] {
        for (path, methods) in document["paths"].as_object().unwrap() {
            if methods["get"].is_object() {
                must_be_documented(&document, "GET", path, &ask(node, "GET", path, "").await);
            }
        }
    }
}

#[tokio::test]
async fn every_answer_of_a_post_is_one_that_the_document_has() {
    let node = TestNode::with(echo(), &["--challenges-per-minute", "3"], |_| {}).await;
    let document = document(&node).await;
    let (sound, _) = init(&node.key, &wallet(), "42", Dialect::Deployed, true);
    let challenge = json!({ "challenge": "ab".repeat(32), "context": "fabstir-node/1" }).to_string();
    let list = json!(["ab".repeat(32), "fabstir-node/1"]).to_string();
    let mut statuses = Vec::new();
    for (path, body) in [
        ("/v1/ws", sound.as_str()),
        ("/v1/ws", sound.as_str()),
        ("/v1/ws", ""),
        ("/v1/ws", r#"{"type":"session_init","session_id":"1","id":[1]}"#),
        ("/v1/ws", r#"{"type":"encrypted_session_init","session_id":"1","payload":{"ephPubHex":"zz"}}"#),
        ("/v1/ws", r#"{"type":"ping"}"#),
        ("/v1/auth/challenge", challenge.as_str()),
        ("/v1/auth/challenge", list.as_str()),
        ("/v1/auth/challenge", "{}"),
        ("/v1/auth/challenge", challenge.as_str()),
    ] {
        let answer = ask(&node, "POST", path, body).await;
        must_be_documented(&document, "POST", path, &answer);
        assert_eq!(answer.header("retry-after").is_some(), answer.status == 429);
        statuses.push(answer.status);
    }
    assert_eq!(statuses, [200, 409, 400, 403, 400, 400, 200, 400, 400, 429]);
}

#[tokio::test]
async fn a_body_that_is_broken_is_not_one_that_is_too_large() {
    let node = TestNode::start(echo()).await;
    let document = document(&node).await;
    for path in ["/v1/ws", "/v1/auth/challenge"] {
        let head = format!("POST {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n");
        let answer = raw(&node, &format!("{head}transfer-encoding: chunked\r\n\r\nno size\r\n")).await;
        must_be_documented(&document, "POST", path, &answer);
        assert!(
            answer.status == 400 && answer.body.contains("MALFORMED_FRAME"),
            "{} {}",
            answer.status,
            answer.body
        );
        let answer = ask(&node, "POST", path, &"x".repeat(2_000_000)).await;
        must_be_documented(&document, "POST", path, &answer);
        assert_eq!(answer.status, 413);
    }
}

#[tokio::test]
async fn every_example_meets_its_schema_and_every_reference_leads_somewhere() {
    let node = TestNode::start(echo()).await;
    let document = document(&node).await;
    let (mut open, mut examples, mut references) = (vec![&document], 0, 0);
    while let Some(value) = open.pop() {
        if value["schema"].is_object() {
            let several = value["examples"].as_object().into_iter().flat_map(|examples| examples.values());
            for example in value.get("example").into_iter().chain(several.map(|example| &example["value"])) {
                assert_eq!(faults(&document, &value["schema"], example), Vec::<String>::new(), "{example}");
                examples += 1;
            }
        }
        if let Some(target) = value["$ref"].as_str() {
            assert!(document.pointer(target.strip_prefix('#').unwrap()).is_some(), "{target}");
            references += 1;
        }
        open.extend(value.as_array().into_iter().flatten());
        open.extend(value.as_object().into_iter().flat_map(|fields| fields.values()));
    }
    assert!(examples > 50 && references > 50, "{examples} examples, {references} references");
}

/// The same for the other document: what a session's socket says, frame by frame.
#[tokio::test]
async fn every_frame_of_a_session_is_one_that_the_document_of_the_socket_has() {
    let node = TestNode::start(echo()).await;
    let document = fabstir_protocol::schema::asyncapi();
    let meet = |frame: &Value| {
        let kind = frame["type"].as_str().unwrap();
        let schema = json!({ "$ref": format!("#/components/schemas/{kind}") });
        assert_eq!(faults(&document, &schema, frame), Vec::<String>::new(), "{frame}");
        kind.to_owned()
    };
    let (mut socket, _) =
        tokio_tungstenite::connect_async(format!("ws://{}/v1/ws", node.address)).await.unwrap();
    let greeting = socket.next().await.unwrap().unwrap().into_text().unwrap();
    assert_eq!(meet(&serde_json::from_str(&greeting).unwrap()), "connected");
    let mut peer = node.connect().await;
    let mut opened = peer.open("42").await;
    assert_eq!(meet(&opened.ack), "session_init_ack");
    peer.send(opened.session.message(b"one two", &mut rng()).unwrap()).await;
    let mut kinds = std::collections::BTreeSet::new();
    while !kinds.contains("stream_end") {
        kinds.insert(meet(&peer.receive().await));
    }
    for frame in [r#"{"type":"ping"}"#, r#"{"type":"encrypted_message","session_id":"43","id":[1]}"#] {
        peer.send(frame.to_owned()).await;
        kinds.insert(meet(&peer.receive().await));
    }
    assert!(
        kinds.iter().eq(["encrypted_chunk", "encrypted_response", "error", "pong", "stream_end"]),
        "{kinds:?}"
    );
}
