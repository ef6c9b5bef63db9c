//! What no client sends: lengths that lie, texts that are deep, long or doubled, hex that is none.

use std::{net::Ipv4Addr, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use crate::{
    node::Node,
    peer::{Peer, Version, greeted, init},
};

/// How long an answer may take before there is none.
const PATIENCE: Duration = Duration::from_secs(5);
/// Levels of nesting: more than any stack takes.
const DEEP: usize = 100_000;
/// Bytes of what is long: nearly the largest frame.
const LONG: usize = 900_000;

/// One of them.
#[derive(Clone, Debug)]
pub(crate) struct Bomb {
    what: String,
    load: Load,
}

#[derive(Clone, Debug)]
enum Load {
    /// Bytes as they go by TCP, after the upgrade.
    Raw(Vec<u8>),
    /// A text frame.
    Text(Vec<u8>),
    /// What is sealed as a request of either version.
    Sealed(Version, String),
}

impl Bomb {
    fn new(what: impl Into<String>, load: Load) -> Self {
        Self { what: what.into(), load }
    }

    /// A frame that a node is right not to answer.
    pub(crate) fn ignored() -> Self {
        let text = r#"{"type":"stream_cancel","session_id":"none"}"#;
        Self::new("a cancel of nothing", Load::Text(text.into()))
    }

    pub(crate) fn what(&self) -> &str {
        &self.what
    }

    /// Whether the node says something to it, or closes.
    pub(crate) async fn throw(&self, node: &Node) -> anyhow::Result<bool> {
        let bytes = match &self.load {
            Load::Sealed(version, request) => {
                let mut peer = Peer::open(node, *version, Ipv4Addr::LOCALHOST).await?;
                peer.say_bytes(request.as_bytes()).await?;
                return Ok(timeout(PATIENCE, peer.rest()).await.is_ok());
            }
            Load::Raw(bytes) => bytes.clone(),
            Load::Text(text) => frame(0x81, text),
        };
        let (mut socket, _) = greeted(node.address, Ipv4Addr::LOCALHOST).await?;
        let stream = socket.get_mut();
        // Who is closed in the middle of it has been answered.
        let _ = timeout(PATIENCE, stream.write_all(&bytes)).await;
        let mut answer = [0; 1];
        Ok(timeout(PATIENCE, stream.read(&mut answer)).await.is_ok())
    }
}

/// A masked frame, its mask being zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(length @ ..126), _) => bytes.push(0x80 | length),
        (_, Ok(length)) => {
            bytes.push(0xFE);
            bytes.extend(length.to_be_bytes());
        }
        (_, Err(_)) => {
            bytes.push(0xFF);
            bytes.extend(u64::try_from(payload.len()).unwrap_or(u64::MAX).to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

/// All of them.
pub(crate) fn bombs(node: &Node) -> anyhow::Result<Vec<Bomb>> {
    let mut all = frames();
    all.extend(texts());
    all.extend(sealed());
    all.extend(hex(node)?);
    Ok(all)
}

fn frames() -> Vec<Bomb> {
    let fragments = |count: usize, size: usize| {
        let mut bytes = frame(0x01, &vec![b'x'; size]);
        for _ in 0..count {
            bytes.extend(frame(0x00, &vec![b'x'; size]));
        }
        bytes.extend(frame(0x80, b"x"));
        bytes
    };
    let huge = |length: u64| {
        let mut bytes = vec![0x81, 0xFF];
        bytes.extend(length.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend([b'x'; 64]);
        bytes
    };
    let raw = |what: &str, bytes| Bomb::new(what, Load::Raw(bytes));
    vec![
        raw("a frame that says to be of 2^63 bytes and more", huge(u64::MAX)),
        raw("a frame that says to be of 2^40 bytes", huge(1 << 40)),
        raw("a frame of one byte more than MAX_FRAME_BYTES", huge((1 << 20) + 1)),
        raw("a message of too many fragments", fragments(1200, 1000)),
        raw("ten thousand empty fragments and no text", fragments(10_000, 0)),
        raw("a frame that is not masked", vec![0x81, 0x02, b'{', b'}']),
        raw("a reserved bit", frame(0xC1, b"{}")),
        raw("a reserved opcode", frame(0x83, b"{}")),
        raw("a fragment of nothing", frame(0x80, b"{}")),
        raw("a ping of 126 bytes", frame(0x89, &[0; 126])),
        raw("a ping in fragments", frame(0x09, b"x")),
        raw("a Close frame of one byte", frame(0x88, &[3])),
        raw("a Close frame with a code that is none", frame(0x88, &[0, 1])),
        raw("text that is no UTF-8", frame(0x81, &[0xFF, 0xFE, 0xFD])),
        raw("a lone surrogate in UTF-8", frame(0x81, &[0xED, 0xA0, 0x80])),
        raw("a thousand pings", frame(0x89, b"p").repeat(1000)),
        raw("HTTP in the place of frames", b"GET / HTTP/1.1\r\nhost: node\r\n\r\n".repeat(20)),
    ]
}

fn texts() -> Vec<Bomb> {
    let nested = |open: &str, close: &str| open.repeat(DEEP) + &close.repeat(DEEP);
    let with = |field: &str, value: &str| format!("{{\"type\":\"ping\",\"{field}\":{value}}}");
    let text = |what: &str, text: String| Bomb::new(what, Load::Text(text.into_bytes()));
    let keys: Vec<String> = (0..50_000).map(|number| format!("\"k{number}\":0")).collect();
    vec![
        text("arrays a hundred thousand deep", nested("[", "]")),
        text("objects a hundred thousand deep", nested("{\"a\":", "}").replacen(":}", ":1}", 1)),
        text("a deep id", with("id", &nested("[", "]"))),
        text("a deep payload", with("payload", &nested("[", "]"))),
        text("a deep field that nobody knows", with("other", &nested("[", "]"))),
        text("a number of a hundred thousand digits", with("chain_id", &"9".repeat(DEEP))),
        text("a number beyond all numbers", with("chain_id", "1e999999999")),
        text("a number below all numbers", with("chain_id", "-1e-999999999")),
        text("a chain of -1", with("chain_id", "-1")),
        text("a long key", format!("{{\"{}\":1,\"type\":\"ping\"}}", "k".repeat(LONG))),
        text("a long string", with("other", &format!("\"{}\"", "x".repeat(LONG)))),
        text("a string of escapes", with("other", &format!("\"{}\"", "\\u0041".repeat(DEEP)))),
        text("half a surrogate", with("session_id", "\"\\ud800\"")),
        text("fifty thousand keys", format!("{{{},\"type\":\"ping\"}}", keys.join(","))),
        text("the type twice", r#"{"type":"ping","type":"encrypted_message"}"#.into()),
        text(
            "the session id twice",
            r#"{"type":"encrypted_message","session_id":"1","session_id":"2"}"#.into(),
        ),
        text(
            "the session id in both spellings",
            r#"{"type":"encrypted_message","session_id":"1","sessionId":"2"}"#.into(),
        ),
        text(
            "the payload twice",
            r#"{"type":"encrypted_message","session_id":"1","payload":{},"payload":[]}"#.into(),
        ),
        text("a type that is a number", r#"{"type":1}"#.into()),
        text("a type that is null", r#"{"type":null}"#.into()),
        text("a type that is an array", r#"{"type":["ping"]}"#.into()),
        text("no object", "\"ping\"".into()),
        text("nothing", String::new()),
        text("spaces alone", " ".repeat(LONG)),
        text("a byte order mark", "\u{feff}{\"type\":\"ping\"}".into()),
        text("words after the end", r#"{"type":"ping"} {"type":"ping"}"#.into()),
        text("a zero byte", "{\"type\":\"ping\0\"}".into()),
        text("a comment", "{\"type\":/**/\"ping\"}".into()),
        text("an id of more than 256 bytes", with("id", &format!("\"{}\"", "x".repeat(300)))),
        text(
            "a session id of 65 characters",
            format!("{{\"type\":\"encrypted_message\",\"session_id\":\"{}\"}}", "1".repeat(65)),
        ),
        text("a session id with a line in it", r#"{"type":"encrypted_message","session_id":"1\n2"}"#.into()),
    ]
}

fn sealed() -> Vec<Bomb> {
    let nested = "[".repeat(20_000) + &"]".repeat(20_000);
    let requests = [
        ("messages that are deep", format!("{{\"messages\":{nested}}}")),
        ("content that is deep", format!("{{\"messages\":[{{\"role\":\"user\",\"content\":{nested}}}]}}")),
        ("a field that is deep", format!("{{\"prompt\":\"x\",\"other\":{nested}}}")),
        ("a deep format", format!("{{\"prompt\":\"x\",\"response_format\":{nested}}}")),
        ("a temperature beyond all numbers", r#"{"prompt":"x","temperature":1e999}"#.into()),
        ("a temperature that is a word", r#"{"prompt":"x","temperature":"hot"}"#.into()),
        ("tokens below nothing", r#"{"prompt":"x","max_tokens":-1}"#.into()),
        ("more tokens than there are", r#"{"prompt":"x","max_tokens":99999999999999999999}"#.into()),
        ("a prompt twice", r#"{"prompt":"x","prompt":"y"}"#.into()),
        ("a prompt and messages", r#"{"prompt":"x","messages":[]}"#.into()),
        (
            "a hundred thousand messages",
            format!("{{\"messages\":[{}]}}", vec!["{\"role\":\"user\",\"content\":\"\"}"; 10_000].join(",")),
        ),
        ("a role that is none", r#"{"messages":[{"role":"god","content":"x"}]}"#.into()),
        ("a thousand stops", format!("{{\"prompt\":\"x\",\"stop\":[{}]}}", vec!["\"s\""; 1000].join(","))),
        ("no JSON", "{{{".into()),
        ("nothing", String::new()),
    ];
    let both = [Version::One, Version::Two];
    let of = |version: Version| {
        requests.iter().map(move |(what, request)| {
            // Version 2 has the operation around it.
            let request = match version {
                Version::One => request.clone(),
                Version::Two => format!("{{\"op\":\"chat\",\"body\":{request}}}"),
            };
            Bomb::new(format!("sealed in {}: {what}", version.as_str()), Load::Sealed(version, request))
        })
    };
    both.into_iter().flat_map(of).collect()
}

/// A session init with one of its fields in another form each.
fn hex(node: &Node) -> anyhow::Result<Vec<Bomb>> {
    let whole: Value = serde_json::from_str(&init(&node.key)?.0)?;
    let forms: [(&str, Value); 14] = [
        ("empty", json!("")),
        ("a prefix alone", json!("0x")),
        ("two prefixes", json!(format!("0x0x{}", "00".repeat(32)))),
        ("an odd number of digits", json!("abc")),
        ("letters that are no digits", json!("gg".repeat(33))),
        ("digits of another script", json!("\u{ff11}\u{ff12}".repeat(33))),
        ("spaces inside", json!(" 00".repeat(33))),
        ("a line at the end", json!(format!("{}\n", "00".repeat(33)))),
        ("a zero byte inside", json!(format!("00\u{0}0{}", "00".repeat(32)))),
        ("a number", json!(12)),
        ("an array of bytes", json!([1, 2, 3])),
        ("an object", json!({"type": "Buffer", "data": [1]})),
        ("null", Value::Null),
        ("nearly a million digits", json!("0".repeat(LONG / 2 * 2))),
    ];
    let mut bombs = Vec::new();
    for field in ["ephPubHex", "ciphertextHex", "nonceHex", "signatureHex", "aadHex", "saltHex"] {
        for (what, form) in &forms {
            let mut frame = whole.clone();
            if let Some(payload) = frame.pointer_mut("/payload").and_then(Value::as_object_mut) {
                payload.insert(field.to_owned(), form.clone());
            }
            let text = frame.to_string().into_bytes();
            bombs.push(Bomb::new(format!("{field}: {what}"), Load::Text(text)));
        }
    }
    Ok(bombs)
}
