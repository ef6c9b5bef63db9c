//! docs/asyncapi.json is what the types give, and its schemas judge the vectors as the readers do, as far as a schema can.
//! UPDATE_DOCS=1 writes it anew.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test is meant to panic")]

use jsonschema::{Draft, Validator};
use serde_json::{Value, json};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/asyncapi.json");

#[test]
fn the_document_is_what_the_types_give() {
    let expected = format!("{:#}\n", fabstir_protocol::schema::asyncapi());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(PATH, &expected).unwrap();
    }
    let written = std::fs::read_to_string(PATH).unwrap_or_default();
    assert!(
        written == expected,
        "docs/asyncapi.json is not what the types give: UPDATE_DOCS=1 writes it anew"
    );
}

fn vectors(name: &str) -> Value {
    let path = format!("{}/../../vectors/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// A schema of the document, by either draft that it is written for.
struct Schema([Validator; 2]);

impl Schema {
    fn of(name: &str) -> Self {
        let document = fabstir_protocol::schema::asyncapi();
        let schema = json!({
            "$ref": format!("#/components/schemas/{name}"),
            "components": { "schemas": document["components"]["schemas"] },
        });
        let by = |draft| jsonschema::options().with_draft(draft).build(&schema).unwrap();
        Self([Draft::Draft202012, Draft::Draft7].map(by))
    }

    fn takes(&self, value: &Value) -> bool {
        let [newer, older] = &self.0;
        let taken = newer.is_valid(value);
        assert_eq!(taken, older.is_valid(value), "the drafts differ: {value}");
        taken
    }

    #[track_caller]
    fn must_take(&self, name: &str, text: &str) {
        let value = serde_json::from_str(text).unwrap();
        let faults: Vec<_> = self.0[0].iter_errors(&value).map(|fault| fault.to_string()).collect();
        assert!(self.takes(&value), "{name}: {faults:?} in {text}");
    }
}

fn text<'a>(of: &'a Value, field: &str) -> &'a str {
    of[field].as_str().unwrap_or_else(|| panic!("no {field} in {of}"))
}

fn list<'a>(of: &'a Value, field: &str) -> &'a [Value] {
    of[field].as_array().unwrap()
}

/// What a schema cannot say: a key that is there twice, two spellings that differ, the bytes of any JSON, which numbers
/// are a point or a signature.
fn beyond_a_schema(case: &str) -> bool {
    let cannot = [
        "twice",
        "sessionId that differ",
        "an id of 25",
        "off the curve",
        "a high s",
        "a signature of zeros",
    ];
    cannot.iter().any(|what| case.contains(what))
}

/// The schema of a client's frame.
fn frame_kind(frame: &Value) -> Option<&'static str> {
    Some(match frame["type"].as_str()? {
        "encrypted_session_init" => "encrypted_session_init",
        "encrypted_message" => "encrypted_message",
        "stream_cancel" => "stream_cancel",
        "ping" => "ping",
        "session_init" => "session_init",
        "prompt" | "inference" => "prompt",
        _ => return None,
    })
}

#[test]
fn every_accepted_frame_of_version_1_meets_its_schema() {
    let accepted = vectors("v1-accepted.json");
    let (mut frames, mut requests) = (0, 0);
    let mut meet = |name: &str, text: &str, kind: Option<&str>| {
        let value: Value = serde_json::from_str(text).unwrap();
        let kind = kind.or_else(|| frame_kind(&value)).unwrap();
        Schema::of(kind).must_take(name, text);
        frames += 1;
    };
    for case in list(&accepted, "frames") {
        meet(text(case, "name"), text(case, "frame"), None);
    }
    for case in list(&accepted, "sessions") {
        let name = text(case, "name");
        meet(name, text(case, "frame"), None);
        for message in list(case, "messages") {
            meet(name, text(message, "frame"), None);
        }
        if case["answer"].is_object() {
            for chunk in list(&case["answer"], "chunks") {
                meet(name, text(chunk, "frame"), Some("encrypted_chunk"));
            }
            meet(name, text(&case["answer"]["response"], "frame"), Some("encrypted_response"));
        }
    }
    let body = Schema::of("RequestBody");
    for case in list(&accepted, "requests") {
        let plaintext = text(case, "plaintext");
        let object = serde_json::from_str::<Value>(plaintext).is_ok_and(|value| value.is_object());
        if object && (case["expect"]["prompt"] != plaintext) {
            body.must_take(text(case, "name"), plaintext);
            requests += 1;
        }
    }
    assert!(frames > 400 && requests >= 5, "{frames} frames, {requests} requests");
}

#[test]
fn what_the_readers_refuse_by_form_the_schemas_refuse() {
    let rejected = vectors("v1-rejected.json");
    let (mut refused, mut passed) = (0, Vec::new());
    for case in list(&rejected, "node") {
        let code = text(case, "code");
        let by_form = ["MALFORMED_FRAME", "UNKNOWN_MESSAGE_TYPE", "MISSING_SESSION_ID", "MISSING_PAYLOAD"];
        let by_form = by_form.contains(&code)
            || ["MISSING_PAYLOAD_FIELDS", "INVALID_HEX_ENCODING", "INVALID_NONCE_SIZE"].contains(&code);
        let Some(frame) = case["frame"].as_str().filter(|_| by_form) else { continue };
        let Ok(value) = serde_json::from_str::<Value>(frame) else {
            refused += 1;
            continue;
        };
        let taken = frame_kind(&value).is_some_and(|kind| Schema::of(kind).takes(&value));
        if taken {
            passed.push(text(case, "name").to_owned());
        } else {
            refused += 1;
        }
    }
    passed.retain(|name| !beyond_a_schema(name));
    assert!(refused > 100 && passed.is_empty(), "{refused} refused, and not {passed:#?}");
}

#[test]
fn what_a_node_says_of_itself_meets_its_schema_and_what_is_malformed_does_not() {
    let cases = vectors("v2/advertisement.json");
    let connected = Schema::of("connected");
    for case in list(&cases, "accepted") {
        connected.must_take(text(case, "name"), text(case, "frame"));
    }
    let (mut refused, mut passed) = (0, Vec::new());
    for case in list(&cases, "rejected").iter().filter(|case| case["error"] == "malformed") {
        let value = serde_json::from_str::<Value>(text(case, "frame"));
        if value.is_ok_and(|value| connected.takes(&value)) {
            passed.push(text(case, "name").to_owned());
        } else {
            refused += 1;
        }
    }
    let rotation = Schema::of("SignedRotation");
    for case in list(&cases, "rotations") {
        let written = case["rotation"].to_string();
        let value =
            case["rotation"].as_str().map_or_else(|| serde_json::from_str(&written), serde_json::from_str);
        let taken = value.is_ok_and(|value| rotation.takes(&value));
        assert_eq!(taken, case["error"] != "malformed", "{}", text(case, "name"));
    }
    passed.retain(|name| !beyond_a_schema(name));
    assert!(refused > 40 && passed.is_empty(), "{refused} refused, and not {passed:#?}");
}

#[test]
fn every_sealed_body_of_version_2_meets_its_schema() {
    let mut counted = 0;
    let mut meet = |schema: &str, name: &str, json: &str| {
        Schema::of(schema).must_take(name, json);
        counted += 1;
    };
    let handshakes = vectors("v2/handshake.json");
    for case in list(&handshakes, "cases") {
        meet("connected", text(case, "name"), text(case, "connected"));
        meet("Hello", text(case, "name"), text(case, "hello"));
    }
    let resumptions = vectors("v2/resume.json");
    for case in list(&resumptions, "cases") {
        meet("Resume", text(case, "name"), text(case, "resume"));
        meet("Welcome", text(case, "name"), text(case, "welcome"));
    }
    let records = vectors("v2/records.json");
    for case in list(&records, "frames") {
        let body = case["body"].as_str().filter(|body| body.starts_with('{') && case["body_times"] == 1);
        let Some(body) = body.filter(|body| serde_json::from_str::<Value>(body).is_ok()) else { continue };
        let schema = match text(case, "type") {
            "request" => "Request",
            "event" if case["last"] == true => "End",
            "error" => "Fault",
            "welcome" => "Welcome",
            "cancel" => "Cancel",
            "ack" => "Ack",
            "goodbye" => "Goodbye",
            _ => continue,
        };
        meet(schema, text(case, "name"), body);
    }
    assert!(counted > 60, "{counted}");
}

/// Requests, each with what makes it sound or not.
fn requests() -> Vec<Value> {
    let offered = json!([{ "type": "function", "function": { "name": "f" } }]);
    let said = json!([{ "role": "user", "content": "Hi" }]);
    vec![
        json!({ "op": "chat", "body": { "messages": said } }),
        json!({ "op": "chat", "body": { "prompt": "Hi" } }),
        json!({ "op": "chat", "body": { "prompt": "Hi", "messages": said } }),
        json!({ "op": "chat", "body": { "prompt": "Hi", "messages": null } }),
        json!({ "op": "chat", "body": { "messages": [] } }),
        json!({ "op": "chat", "body": {} }),
        json!({ "op": "chat" }),
        json!({ "op": "chat", "body": ["Hi"] }),
        json!({ "op": "completions", "body": { "prompt": "Once" } }),
        json!({ "op": "completions", "body": { "messages": said } }),
        json!({ "op": "embeddings", "body": { "input": "one" } }),
        json!({ "op": "embeddings", "body": { "input": ["one", "two"], "encoding_format": "base64" } }),
        json!({ "op": "embeddings", "body": { "input": [] } }),
        json!({ "op": "embeddings", "body": { "input": "" } }),
        json!({ "op": "models" }),
        json!({ "op": "models", "body": {} }),
        json!({ "op": "images", "body": {} }),
        json!({ "body": { "messages": said } }),
        json!("chat"),
        json!({ "op": "chat", "body": { "messages": said, "tools": offered, "tool_choice": { "function": { "name": "f" } } } }),
        json!({ "op": "chat", "body": { "messages": said, "tools": offered, "tool_choice": { "function": ["f"] } } }),
        json!({ "op": "chat", "body": { "messages": said, "tools": offered, "tool_choice": [{ "name": "f" }] } }),
        json!(["models", null]),
        json!(["chat", { "prompt": "Hi" }]),
    ]
}

/// Fields of a conversation, each with a value that is sound and one that is not.
fn fields() -> impl IntoIterator<Item = (&'static str, Value, Value)> {
    let tool = |kind: &str, name: &str| json!([{ "type": kind, "function": { "name": name } }]);
    let called = |function: Value| json!([{ "role": "assistant", "tool_calls": [{ "id": "c", "function": function }] }]);
    [
        ("temperature", json!(2), json!(2.1)),
        ("top_p", json!(0.5), json!(-0.1)),
        ("seed", json!(-1), json!(-2)),
        ("top_k", json!(40), json!(-1)),
        ("n", json!(1), json!(2)),
        ("max_tokens", json!(1), json!(0)),
        ("stop", json!("."), json!(1)),
        ("logit_bias", json!({ "5": 100 }), json!({ "5": "much" })),
        ("echo", json!(false), json!(true)),
        ("audio", Value::Null, json!({})),
        ("modalities", json!(["text"]), json!(["audio"])),
        ("response_format", json!({ "type": "json_object" }), json!({ "type": "json_object", "schema": {} })),
        (
            "response_format",
            json!({ "type": "json_schema", "json_schema": { "schema": {} } }),
            json!({ "type": "xml" }),
        ),
        ("tools", tool("function", "f"), tool("retrieval", "f")),
        ("tools", json!([]), tool("function", "a space")),
        ("tool_choice", json!("none"), json!("perhaps")),
        (
            "messages",
            json!([{ "role": "developer", "content": null }]),
            json!([{ "role": "owner", "content": "Hi" }]),
        ),
        (
            "messages",
            json!([{ "role": "user" }]),
            json!([{ "role": "user", "content": [{ "type": "image_url" }] }]),
        ),
        ("model", json!("a-model"), json!(1)),
        // Objects are objects, and no lists of their fields.
        ("messages", json!([{ "role": "user" }]), json!([["user", "Hi", null, null]])),
        (
            "messages",
            json!([{ "role": "user", "content": [] }]),
            json!([{ "role": "user", "content": [["text", "Hi"]] }]),
        ),
        ("messages", called(json!({ "name": "f", "arguments": "{}" })), called(json!(["f", "{}"]))),
        ("tools", tool("function", "f"), json!([["function", { "name": "f" }]])),
        ("tools", tool("function", "g"), json!([{ "type": "function", "function": ["g", null] }])),
        ("response_format", json!({ "type": "text" }), json!(["json_object", null])),
        ("response_format", json!({ "type": "text" }), json!({ "type": "json_schema", "json_schema": [{}] })),
        ("stream_options", json!({ "include_usage": true }), json!([true])),
        ("tool_choice", json!("auto"), json!([{ "name": "f" }])),
        ("what_nobody_knows", json!([1]), Value::Null),
    ]
}

#[test]
fn the_schema_of_a_request_and_its_reader_agree() {
    use fabstir_protocol::request::Operation;
    let request = Schema::of("Request");
    let with = |field: &str, value: Value| {
        let mut body = json!({ "messages": [{ "role": "user", "content": "Hi" }] });
        body[field] = value;
        json!({ "op": "chat", "body": body })
    };
    let single = fields().into_iter().flat_map(|(field, sound, not)| [with(field, sound), with(field, not)]);
    for case in requests().into_iter().chain(single) {
        let read = Operation::read(case.to_string().as_bytes());
        assert_eq!(request.takes(&case), read.is_ok(), "{case}: {read:?}");
    }
}

#[test]
fn null_is_as_good_as_nothing_to_the_schemas_and_to_the_readers() {
    use fabstir_protocol::v2::{End, Goodbye, Hello, ModelEntry, Resume, decode};
    let usage = json!({
        "prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2, "context_window_size": 3,
        "prompt_tokens_details": null, "model_sha256": null, "estimated": null,
    });
    let hello = json!({ "client": "c", "shape": null, "ticket": null, "claim": null });
    let end = json!({ "finish_reason": "stop", "usage": usage, "dropped_messages": null });
    let model = json!({ "id": "m", "sha256": null, "context_window": 1 });
    let (resume, goodbye) = (json!({ "received": [[1, 2]], "shape": null }), json!({ "reason": null }));
    assert!(decode::<Hello>(hello.to_string().as_bytes()).is_ok() && Schema::of("Hello").takes(&hello));
    assert!(decode::<End>(end.to_string().as_bytes()).is_ok() && Schema::of("End").takes(&end));
    assert!(
        decode::<ModelEntry>(model.to_string().as_bytes()).is_ok() && Schema::of("ModelEntry").takes(&model)
    );
    assert!(decode::<Resume>(resume.to_string().as_bytes()).is_ok() && Schema::of("Resume").takes(&resume));
    assert!(
        decode::<Goodbye>(goodbye.to_string().as_bytes()).is_ok() && Schema::of("Goodbye").takes(&goodbye)
    );
}

#[test]
fn pieces_of_an_answer_meet_their_schemas() {
    use fabstir_protocol::{
        choice::{Call, Choice, Delta, TokenProbability, embedding},
        request::EmbeddingEncoding,
    };
    let likely = TokenProbability::new(b"Hi", -0.5).with_top(vec![TokenProbability::new(b"\xc3", -1.0)]);
    let words = Choice::new(Delta { content: Some("Hi"), ..Delta::default() }).with_logprobs(vec![likely]);
    let calls = vec![Call::new(0, "call_1", "get_weather", "{}")];
    let call = Choice::new(Delta { tool_calls: calls, ..Delta::default() });
    let choice = Schema::of("Choice");
    choice.must_take("words", &words.encode());
    choice.must_take("a call", &call.encode());
    let vector = Schema::of("Embedding");
    for encoding in [EmbeddingEncoding::Float, EmbeddingEncoding::Base64] {
        vector.must_take("a vector", &embedding(1, &[0.6, -0.8], encoding));
    }
}

#[test]
fn the_binary_frames_are_as_long_as_their_layout_says() {
    let document = fabstir_protocol::schema::asyncapi();
    let handshake = &vectors("v2/handshake.json")["cases"][0];
    let resume = &vectors("v2/resume.json")["cases"][0];
    for (name, frame) in
        [("m1", handshake), ("m2", handshake), ("m3", handshake), ("r1", resume), ("r2", resume)]
    {
        let layout = list(&document["components"]["messages"][name], "x-layout");
        let fixed: u64 = layout.iter().filter_map(|part| part["bytes"].as_u64()).sum();
        let padded = layout.len() - layout.iter().filter(|part| part["bytes"].is_u64()).count();
        let length = text(frame, name).len() as u64 / 2;
        let payload = length - fixed;
        assert!(
            if padded == 0 { payload == 0 } else { [512, 1024, 2048, 4096].contains(&payload) },
            "{name}: {length}"
        );
    }
}

#[test]
fn every_example_meets_its_schema_and_every_reference_leads_somewhere() {
    let document = fabstir_protocol::schema::asyncapi();
    for (name, message) in document["components"]["messages"].as_object().unwrap() {
        for example in message["examples"].as_array().into_iter().flatten() {
            Schema::of(name).must_take(name, &example["payload"].to_string());
            let other = if name == "ping" { "pong" } else { "ping" };
            assert!(!Schema::of(other).takes(&example["payload"]), "{name} is no {other}");
        }
    }
    let mut open = vec![&document];
    let mut references = 0;
    while let Some(value) = open.pop() {
        if let Some(target) = value["$ref"].as_str() {
            references += 1;
            assert!(document.pointer(target.strip_prefix('#').unwrap()).is_some(), "{target}");
        }
        open.extend(value.as_array().into_iter().flatten());
        open.extend(value.as_object().into_iter().flat_map(|fields| fields.values()));
    }
    assert!(references > 100, "{references}");
}
