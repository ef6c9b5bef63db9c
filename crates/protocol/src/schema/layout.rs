//! The binary frames of version 2, part by part. docs/protocol.md, 2.1 to 2.6.

use serde_json::{Value, json};

use super::reference;
use crate::{
    identity::PublicKey,
    v2::{
        CIPHERTEXT_LEN, Direction, ENCAPSULATION_KEY_LEN, Hint, Kind, MAX_BODY, RecordType, SignedDelegation,
    },
};

/// Poly1305's tag.
const TAG_LEN: usize = 16;
/// A ticket's name.
const TICKET_LEN: usize = 32;

fn part(name: &str, bytes: impl Into<Value>, what: &str) -> Value {
    json!({ "name": name, "bytes": bytes.into(), "description": what })
}

fn sealed(name: &str, bytes: impl Into<Value>, what: &str, holds: &[Value]) -> Value {
    let mut part = part(name, bytes, what);
    if let Some(fields) = part.as_object_mut() {
        fields.insert("sealed".to_owned(), true.into());
        if !holds.is_empty() {
            fields.insert("holds".to_owned(), holds.into());
        }
    }
    part
}

fn json_part(name: &str, schema: &str) -> Value {
    json!({ "name": name, "bytes": "as long as it is", "description": "JSON.", "schema": reference(schema) })
}

fn message(kind: Kind, title: &str, summary: &str, parts: &[Value]) -> Value {
    let mut layout = vec![
        json!({ "name": "version", "bytes": 1, "value": "02" }),
        json!({ "name": "kind", "bytes": 1, "value": format!("{:02x}", kind.byte()) }),
    ];
    layout.extend_from_slice(parts);
    json!({
        "title": title,
        "summary": summary,
        "contentType": "application/octet-stream",
        "payload": { "type": "string", "format": "binary", "description": "A binary message: `x-layout` has its parts in order." },
        "x-layout": layout,
    })
}

fn point(what: &str) -> Value {
    part("e", PublicKey::LEN, what)
}

fn tag() -> Value {
    part("tag", TAG_LEN, "Poly1305's.")
}

const PADDED: &str = "512, 1024, 2048 or 4096: the smallest that holds it";

fn padding() -> Value {
    part("zeros", "the rest", "Up to the size.")
}

fn length(of: &str) -> Value {
    part("length", 2, of)
}

/// All of them, each under its name.
pub(super) fn binaries() -> [(&'static str, Value); 6] {
    [("m1", m1()), ("m2", m2()), ("m3", m3()), ("r1", r1()), ("r2", r2()), ("record", record())]
}

fn m1() -> Value {
    let kem = sealed("encapsulation key", ENCAPSULATION_KEY_LEN, "ML-KEM-768's, FIPS 203.", &[]);
    let parts = [
        part("hint", Hint::LEN, "The first bytes of SHA-256 of the channel key that it is for."),
        point("The client's ephemeral key."),
        kem,
        tag(),
    ];
    message(Kind::M1, "Message 1 of the handshake", "Section 2.3.", &parts)
}

fn m2() -> Value {
    let kem = sealed("ciphertext", CIPHERTEXT_LEN, "ML-KEM-768's, FIPS 203.", &[]);
    message(
        Kind::M2,
        "Message 2 of the handshake",
        "Section 2.3.",
        &[point("The node's ephemeral key."), kem, tag()],
    )
}

fn m3() -> Value {
    let delegation = format!("{} or none", SignedDelegation::LEN);
    let holds = [
        length("Of the delegation."),
        part("delegation", delegation, "Section 2.2.3."),
        length("Of the hello."),
        json_part("hello", "Hello"),
        padding(),
    ];
    let parts = [
        sealed("s", PublicKey::LEN, "The client's static key.", &[]),
        tag(),
        sealed("payload", PADDED, "Who the client is, and what it wants.", &holds),
        tag(),
    ];
    message(Kind::M3, "Message 3 of the handshake", "Section 2.3.", &parts)
}

fn r1() -> Value {
    let holds = [length("Of the JSON."), json_part("resume", "Resume"), padding()];
    let parts = [
        part("ticket", TICKET_LEN, "The name of the ticket that it burns."),
        point("The client's ephemeral key."),
        sealed("payload", PADDED, "What came of the answers.", &holds),
        tag(),
    ];
    message(Kind::R1, "First message of a resumption", "Section 2.6.", &parts)
}

fn r2() -> Value {
    let holds = [length("Of the JSON."), json_part("welcome", "Welcome"), padding()];
    let parts = [
        point("The node's ephemeral key."),
        sealed("payload", PADDED, "The welcome, with `known`.", &holds),
        tag(),
    ];
    message(Kind::R2, "Second message of a resumption", "Section 2.6.", &parts)
}

fn record() -> Value {
    let holds = [
        part("type", 1, "`x-records` has them."),
        part("flags", 1, "1 LAST, 2 MORE."),
        part("request", 4, "Which it belongs to; 0 is the connection."),
        part("index", 4, "Its place among those of its request and direction, from 0."),
        part("length", 2, "Of the body."),
        part("body", format!("at most {MAX_BODY}"), "What `x-records` says of its type."),
        part("zeros", "the rest", "Padding, as the session's shape has it."),
    ];
    let plaintext =
        sealed("plaintext", "at most 49152", "ChaCha20-Poly1305 under the key of its direction.", &holds);
    let mut record = message(Kind::Record, "A record", "Section 2.4.", &[plaintext, tag()]);
    let types: Vec<_> = RecordType::ALL
        .into_iter()
        .map(|(byte, kind, only)| {
            let from = match only {
                Some(Direction::ToNode) => "client",
                Some(Direction::ToClient) => "node",
                None => "both",
            };
            json!({ "type": byte, "name": format!("{kind:?}").to_lowercase(), "from": from, "body": record_body(kind) })
        })
        .collect();
    if let Some(fields) = record.as_object_mut() {
        fields.insert("x-records".to_owned(), types.into());
    }
    record
}

/// What the body of a record is. Several records of one request or event are put together first.
fn record_body(kind: RecordType) -> Value {
    match kind {
        RecordType::Request => reference("Request"),
        RecordType::Text => json!({ "type": "string", "description": "The next words, UTF-8." }),
        RecordType::Event => json!({
            "description": "With LAST the end; else `choices[0]` of a chunk, a vector, or the list of models.",
            "anyOf": [reference("End"), reference("Choice"), reference("Embedding"), reference("Models")],
        }),
        RecordType::Error => reference("Fault"),
        RecordType::Welcome => reference("Welcome"),
        RecordType::Cancel => reference("Cancel"),
        RecordType::Ack => reference("Ack"),
        RecordType::Goodbye => reference("Goodbye"),
    }
}
