//! The log as events: a node's whole life, each line held against docs/events.schema.json.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test is meant to panic"
)]

#[path = "support/process.rs"]
mod spawned;
mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use fabstir_client::{Config, Request, Session, anonymous};
use fabstir_protocol::{aad::Aad, id::Index, v1::Dialect};
use serde_json::{Value, json};
use spawned::NodeProcess;
use support::{PATIENCE, edit, message_frame, wallet};
use tokio::time::timeout;

fn schema() -> Value {
    serde_json::from_str(include_str!("../../../docs/events.schema.json")).unwrap()
}

fn events(log: &str) -> Vec<Value> {
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).expect(line));
    lines.filter(|line| !line["event"].is_null()).collect()
}

/// Fails unless every event is as the schema has it.
fn hold(events: &[Value]) {
    let validator = jsonschema::draft202012::new(&schema()).unwrap();
    for event in events {
        let faults: Vec<_> = validator.iter_errors(event).map(|fault| fault.to_string()).collect();
        assert!(faults.is_empty(), "{event}: {faults:?}");
    }
}

async fn connect(node: &NodeProcess) -> Session {
    let url = format!("ws://{}/v1/ws", node.address);
    Session::connect(Config::new(url, node.key.address(), anonymous())).await.unwrap()
}

async fn say(session: &Session, words: &str) {
    let answer = session.ask(&Request::prompt(words)).await.unwrap();
    timeout(PATIENCE, answer.text()).await.unwrap().unwrap();
}

/// Waits for the end of a session, and says why it ended.
fn end_of(node: &NodeProcess, name: &str) -> Value {
    node.said.wait_for(&format!(r#""event":"session_end","session_id":"{name}""#));
    let ends = events(&node.said.text());
    let mut of_it = ends.into_iter().filter(|end| end["event"] == "session_end" && end["session_id"] == name);
    of_it.next().unwrap()
}

/// Version 1: what ends a session, one after the other.
async fn live_in_version_1(node: &NodeProcess) {
    let wallet = wallet();
    let mut peer = node.connect().await;
    let mut session = peer.open_as(&wallet, "left", Dialect::Deployed).await.session;
    peer.ask(&mut session, "one two three").await;
    let short =
        edit(&message_frame(&session, "left", Aad::Message(Index::new(5)), "message_5", "x"), |frame| {
            frame["payload"]["nonceHex"] = json!("00".repeat(12))
        });
    assert_eq!(peer.outcome(short).await, "INVALID_NONCE_SIZE");
    peer.socket.close(None).await.unwrap();
    let end = end_of(node, "left");
    assert_eq!(
        (&end["reason"], &end["client"]),
        (&json!("disconnect"), &json!(wallet.address().to_string()))
    );
    assert_eq!((&end["requests"], &end["completion_tokens"]), (&json!(1), &json!(3)));

    let mut here = node.connect().await;
    here.open_as(&wallet, "again", Dialect::Deployed).await;
    let mut there = node.connect().await;
    there.open_as(&wallet, "again", Dialect::Deployed).await;
    assert_eq!(end_of(node, "again")["reason"], "replaced");

    let mut failing = node.connect().await;
    let session = failing.open("broken").await.session;
    for _ in 0..16 {
        let wrong = message_frame(&session, "broken", Aad::Message(Index::new(1)), "message_0", "x");
        assert_eq!(failing.outcome(wrong).await, "DECRYPTION_FAILED");
    }
    assert_eq!(end_of(node, "broken")["reason"], "error");

    let mut patient = node.connect().await;
    patient.open("idle").await;
    assert_eq!(end_of(node, "idle")["reason"], "expired");
}

/// Version 2: goodbye, and a connection that is lost and replaced.
async fn live_in_version_2(node: &NodeProcess) -> Session {
    let session = connect(node).await;
    say(&session, "four five").await;
    session.close().await;
    let session = connect(node).await;
    say(&session, "six").await;
    session.lose_connection();
    say(&session, "seven").await;
    session
}

#[tokio::test]
async fn every_event_of_a_nodes_life_is_as_documented_and_every_session_ends_once() {
    let flags = ["--log-format", "json", "--session-key-ttl-seconds", "2"];
    let node = NodeProcess::start(&flags, &[("RUST_LOG", "fabstir_llm_node=debug")]);
    live_in_version_1(&node).await;
    let last = live_in_version_2(&node).await;
    let mut peer = node.connect().await;
    peer.open("open-at-the-end").await;
    let challenge = json!({"challenge": "ab".repeat(32), "context": "fabstir-node/1"}).to_string();
    let url = format!("http://{}/v1/auth/challenge", node.address);
    let signed = std::process::Command::new("curl").args(["-s", "-d", &challenge, &url]).output().unwrap();
    assert!(String::from_utf8(signed.stdout).unwrap().contains("signature"));
    node.signal("HUP");
    node.said.wait_for("There is nothing to read again");
    let (status, log) = node.stop();
    assert_eq!(status.code(), Some(0));
    drop((last, peer));

    let events = events(&log);
    hold(&events);
    let names: BTreeSet<&str> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    let mut all = schema()["$defs"].as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    // The next channel key is a day away, and this node speaks no TLS and has no proxy.
    for elsewhere in
        ["key_rotation", "tls_certificate", "tls_reload", "acme", "proxy_header", "refused", "admin"]
    {
        all.remove(elsewhere);
    }
    assert_eq!(names, all.iter().map(String::as_str).collect());
    one_end_each(&events);
    assert_eq!(events.first().unwrap()["event"], "key_load");
    assert_eq!(events.last().unwrap()["event"], "stop", "every session has ended before");
}

#[tokio::test]
async fn a_connection_that_no_proxy_announces_is_an_event_aloud_once() {
    let flags = ["--log-format", "json", "--trusted-proxies", "192.0.2.1", "--proxy-protocol", "require"];
    let node = NodeProcess::start(&flags, &[("RUST_LOG", "fabstir_llm_node=debug")]);
    for said in ["of the next ones only the metrics", r#""message":"a connection is closed before it began""#]
    {
        tokio::net::TcpStream::connect(node.address).await.unwrap();
        node.said.wait_for(said);
    }
    let (_, log) = node.stop();
    let all: Vec<_> = events(&log).into_iter().filter(|event| event["event"] == "proxy_header").collect();
    hold(&all);
    assert!(all.iter().all(|event| event["error"].as_str().unwrap().contains("TRUSTED_PROXIES")), "{all:?}");
}

/// As many ends as sessions that were opened, by name.
fn one_end_each(events: &[Value]) {
    let mut open: BTreeMap<String, i32> = BTreeMap::new();
    let mut reasons = BTreeSet::new();
    for event in events {
        let message = event["message"].as_str().unwrap();
        let stored = message.strip_prefix("Session key stored for session: ").map(str::to_owned);
        let opened =
            (message == "Encrypted channel opened").then(|| event["session_id"].as_str().unwrap().to_owned());
        if let Some(name) = stored.or(opened) {
            *open.entry(name).or_default() += 1;
        }
        if event["event"] == "session_end" {
            *open.entry(event["session_id"].as_str().unwrap().to_owned()).or_default() -= 1;
            reasons.insert(event["reason"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(open.len(), 7, "{open:?}");
    assert!(open.values().all(|left| *left == 0), "opened and not ended, or the other way round: {open:?}");
    let expected = ["disconnect", "drain", "error", "expired", "goodbye", "replaced"];
    assert_eq!(reasons, expected.map(str::to_owned).into());
}

/// The page lists the events of the schema with their fields, and the program writes no others.
#[test]
fn the_page_the_schema_and_the_program_name_the_same_events() {
    let page = include_str!("../../../docs/logging.md");
    let schema = schema();
    let events = schema["$defs"].as_object().unwrap();
    let common = ["timestamp", "level", "target", "message", "event"];
    for (name, event) in events {
        let required: Vec<&str> =
            event["required"].as_array().unwrap().iter().map(|field| field.as_str().unwrap()).collect();
        let mut fields = BTreeSet::new();
        for field in
            event["properties"].as_object().unwrap().keys().filter(|field| !common.contains(&field.as_str()))
        {
            let mark = if required.contains(&field.as_str()) { "" } else { "?" };
            fields.insert(format!("`{field}{mark}`"));
        }
        let row = page.lines().find(|line| line.starts_with(&format!("| `{name}` |"))).expect(name);
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let written: BTreeSet<String> =
            cells[2].split(", ").filter(|cell| *cell != "none").map(str::to_owned).collect();
        assert_eq!(written, fields, "{name}");
        let levels: Vec<&str> = event["properties"]["level"]["enum"]
            .as_array()
            .unwrap()
            .iter()
            .map(|level| level.as_str().unwrap())
            .collect();
        assert_eq!(cells[1], levels.join(", "), "{name}");
    }
    let mut written = BTreeSet::new();
    collect(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut written);
    assert_eq!(written, events.keys().cloned().collect());
}

/// The filter for shippers is the schema's list, and lets through what it should of a life in which somebody is refused.
#[tokio::test]
async fn security_events_are_a_part_of_the_log_that_can_be_shipped() {
    let page = include_str!("../../../docs/logging.md");
    let filter =
        page.lines().find(|line| line.starts_with("jq -cR 'fromjson? | select(.event | IN(")).unwrap();
    let listed: BTreeSet<&str> = filter.split('"').skip(1).step_by(2).collect();
    let schema = schema();
    let security: BTreeSet<&str> =
        schema["x-security-events"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert_eq!(listed, security);
    assert!(security.iter().all(|name| schema["$defs"].get(name).is_some()), "each is an event");

    let dir = tempfile::tempdir().unwrap();
    let (socket, allowed) = (dir.path().join("admin.sock"), wallet());
    let address = allowed.address().to_string();
    let flags = ["--log-format", "json", "--allowed-clients", &address];
    let node = NodeProcess::start(&flags, &[("ADMIN_SOCKET", socket.to_str().unwrap())]);
    let mut peer = node.connect().await;
    peer.open_as(&allowed, "may", Dialect::Deployed).await;
    let (refused, _) = support::init(&node.key, &wallet(), "may-not", Dialect::Deployed, true);
    assert_eq!(peer.outcome(refused).await, "CLIENT_NOT_ALLOWED");
    let url = format!("ws://{}/v1/ws", node.address);
    assert!(Session::connect(Config::new(url, node.key.address(), anonymous())).await.is_err());
    for command in ["reload", "drain"] {
        let mut asked = std::process::Command::new(spawned::BINARY);
        assert!(asked.arg(command).env_clear().env("ADMIN_SOCKET", &socket).status().unwrap().success());
    }
    drop(peer);
    let (_, log) = node.finish();
    let shipped: Vec<Value> = events(&log)
        .into_iter()
        .filter(|event| security.contains(event["event"].as_str().unwrap()))
        .collect();
    hold(&shipped);
    let of = |name: &str, field: &str| -> Vec<String> {
        let of_name = shipped.iter().filter(|event| event["event"] == name);
        of_name.map(|event| event[field].to_string()).collect()
    };
    assert_eq!(of("refused", "code"), [r#""CLIENT_NOT_ALLOWED""#; 2]);
    assert_eq!(of("refused", "version"), ["1", "2"]);
    assert_eq!(of("admin", "what"), [r#""reload""#, r#""drain""#]);
    for once in ["start", "stop"] {
        assert_eq!(of(once, "event").len(), 1, "{once}");
    }
    assert!(["key_load", "encrypted_session_init"].iter().all(|name| !of(name, "event").is_empty()));
}

/// Every name that stands behind `event = ` in the sources below `folder`, or is handed on as one.
fn collect(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, names);
            continue;
        }
        let source = std::fs::read_to_string(&path).unwrap();
        for after in source.split("event = \"").skip(1) {
            names.insert(after.split('"').next().unwrap().to_owned());
        }
    }
}

#[test]
fn a_line_that_has_a_field_too_many_is_not_in_order() {
    let validator = jsonschema::draft202012::new(&schema()).unwrap();
    let mut line = json!({
        "timestamp": "2026-11-25T00:00:00.000000Z", "level": "INFO", "target": "t", "message": "m",
        "event": "drain", "seconds": 30, "connections": 1,
    });
    assert!(validator.is_valid(&line));
    line["prompt"] = json!("what was said");
    assert!(!validator.is_valid(&line));
}
