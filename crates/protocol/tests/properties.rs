//! No bytes of a peer panic, and what is read is kept.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test is meant to panic, and to do so on what it does not expect"
)]

mod support;

use std::sync::LazyLock;

use fabstir_protocol::{
    Code,
    aad::Aad,
    ethereum::Address,
    id::{Index, Nonce, SessionId},
    identity::{InvalidPrivateKey, PrivateKey, PublicKey, Signature},
    request::PromptRequest,
    seal::{SessionKey, Words},
    v1::{ClientFrame, ClientHello, ClientSession, Dialect, Inbound, InitContext, Reply, Session},
};
use proptest::prelude::*;
use support::{
    Script, fixed, hex,
    node::{Node, code},
    reference::{self as r, Make, Recipe},
};

static NODE: LazyLock<PrivateKey> = LazyLock::new(|| PrivateKey::try_from(&r::node_key()).unwrap());

/// Everything that a node does with a text.
fn node_reads(text: &str) {
    let Ok(inbound) = Inbound::decode(text) else { return };
    match inbound.frame {
        ClientFrame::SessionInit(id, raw) => {
            let Ok(init) = raw.read(id) else { return };
            let _ = init.open(&NODE).map(|opened| opened.authenticate().map(drop));
        }
        ClientFrame::Message(_, raw) => {
            let mut session = session();
            let Ok(payload) = raw.read() else { return };
            if let Ok(plaintext) = session.open(&payload) {
                let _ = PromptRequest::read(plaintext.as_bytes());
            }
        }
        ClientFrame::Cancel(_) | ClientFrame::Ping | ClientFrame::PlainInit(..) => {}
        ClientFrame::PlainPrompt(..) => {}
    }
}

fn init() -> Recipe {
    Recipe::new(Make::Deployed, "properties")
}

fn session() -> Session {
    static FRAME: LazyLock<String> = LazyLock::new(|| init().frame());
    let Ok(Inbound { frame: ClientFrame::SessionInit(id, raw), .. }) = Inbound::decode(&FRAME) else {
        panic!("an init was expected")
    };
    raw.read(id).unwrap().open(&NODE).unwrap().authenticate().unwrap().session
}

/// Frames that are valid, to be mutated.
static FRAMES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let init = init();
    let mut frames: Vec<String> =
        Make::ALL.map(|make| Recipe::new(make, "properties of a make").frame()).into();
    let key = init.session_key();
    frames.extend([
        init.message(0, &fixed("p0"), b"hello").json(),
        init.message(7, &fixed("p7"), br#"{"prompt":"hi","stop":["a"],"temperature":1}"#).json(),
        r::chunk("42", &key, 0, &fixed("pc"), "x").json(),
        r::response("42", &key, &fixed("pr"), "stop").json(),
        r#"{"type":"session_init","session_id":"1","job_id":9,"chain_id":84532,"id":{"a":[1]}}"#.to_owned(),
        r#"{"type":"prompt","session_id":"1","prompt":"hi","request":null}"#.to_owned(),
        r#"{"type":"stream_end","session_id":"1","reason":"complete","usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3,"context_window_size":4}}"#.to_owned(),
        r#"{"type":"error","code":"NODE_BUSY","message":"m","retry_after_ms":5}"#.to_owned(),
        r#"{"type":"session_init_ack","status":"success","session_id":"1","client_address":"0x00"}"#.to_owned(),
    ]);
    frames
});

/// One change of a text at bytes.
#[derive(Clone, Debug)]
enum Change {
    Set(prop::sample::Index, u8),
    Insert(prop::sample::Index, Vec<u8>),
    Remove(prop::sample::Index, usize),
    Repeat(prop::sample::Index, usize),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<prop::sample::Index>;
    let json = prop::sample::select(&b"{}[]\",:\\0x9-eu "[..]).prop_map(|byte| vec![byte]);
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (at(), json).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        (at(), prop::collection::vec(any::<u8>(), 1..8)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        (at(), 1..40usize).prop_map(|(at, len)| Change::Remove(at, len)),
        (at(), 1..200usize).prop_map(|(at, len)| Change::Repeat(at, len)),
    ]
}

fn changed(text: &str, changes: &[Change]) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for change in changes {
        let place = |at: &prop::sample::Index| at.index(bytes.len().max(1)).min(bytes.len());
        match change {
            Change::Set(at, byte) => {
                let at = place(at);
                if let Some(old) = bytes.get_mut(at) {
                    *old = *byte;
                }
            }
            Change::Insert(at, new) => {
                let at = place(at);
                bytes.splice(at..at, new.iter().copied());
            }
            Change::Remove(at, len) => {
                let at = place(at);
                bytes.drain(at..(at + len).min(bytes.len()));
            }
            Change::Repeat(at, len) => {
                let at = place(at);
                let again = bytes[at..(at + len).min(bytes.len())].to_vec();
                bytes.splice(at..at, again);
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

const NAMES: &[&str] = &[
    "type",
    "session_id",
    "sessionId",
    "id",
    "job_id",
    "chain_id",
    "payload",
    "prompt",
    "request",
    "ephPubHex",
    "ciphertextHex",
    "signatureHex",
    "nonceHex",
    "aadHex",
    "saltHex",
    "info",
    "messages",
    "role",
    "content",
    "stop",
    "seed",
    "temperature",
    "tokens",
    "final",
    "reason",
    "usage",
    "code",
];
const WORDS: &[&str] = &[
    "encrypted_session_init",
    "encrypted_message",
    "session_init",
    "prompt",
    "inference",
    "ping",
    "encrypted_chunk",
    "encrypted_response",
    "stream_end",
    "error",
    "user",
    "",
    "0x",
    "00",
    "message_0",
];

/// JSON of any shape under the names that the wire uses, so that the readers behind the first are reached.
fn shaped_json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|b| b.to_string()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_filter("JSON has no others", |n| n.is_finite()).prop_map(|n| format!("{n:e}")),
        prop::sample::select(WORDS).prop_map(|word| format!("{word:?}")),
        ".{0,12}".prop_map(|text| serde_json::to_string(&text).unwrap()),
        "([0-9a-fA-F]{2}){0,70}".prop_map(|text| format!("{text:?}")),
    ];
    leaf.prop_recursive(4, 48, 8, |inner| {
        let field = (prop::sample::select(NAMES), inner.clone());
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(|items| format!("[{}]", items.join(","))),
            prop::collection::vec(field, 0..8).prop_map(|fields| {
                let fields: Vec<_> = fields.iter().map(|(name, json)| format!("{name:?}:{json}")).collect();
                format!("{{{}}}", fields.join(","))
            }),
        ]
    })
}

fn session_id() -> impl Strategy<Value = String> {
    "[!-~]{1,64}"
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_panics_the_readers(text in any::<String>()) {
        node_reads(&text);
        let _ = Reply::decode(&text);
        let _ = PromptRequest::read(text.as_bytes());
    }

    #[test]
    fn no_shaped_text_panics_the_readers(text in shaped_json()) {
        node_reads(&text);
        let _ = Reply::decode(&text);
        let _ = PromptRequest::read(text.as_bytes());
    }

    #[test]
    fn no_payload_panics_its_reader(payload in shaped_json()) {
        for kind in ["encrypted_session_init", "encrypted_message", "encrypted_chunk", "encrypted_response"] {
            let text = format!(r#"{{"type":"{kind}","session_id":"42","payload":{payload}}}"#);
            node_reads(&text);
            let _ = Reply::decode(&text);
        }
    }

    #[test]
    fn no_changed_frame_panics_the_readers(
        frame in any::<prop::sample::Index>(),
        changes in prop::collection::vec(change(), 1..6),
    ) {
        let text = changed(&FRAMES[frame.index(FRAMES.len())], &changes);
        node_reads(&text);
        let _ = Reply::decode(&text);
    }

    #[test]
    fn no_sealed_bytes_panic_their_readers(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = PromptRequest::read(&bytes);
        node_reads(&init().with_data(bytes).frame());
    }

    #[test]
    fn no_sealed_json_panics_its_readers(json in shaped_json()) {
        node_reads(&init().with_data(json).frame());
    }

    #[test]
    fn no_bytes_panic_the_keys_and_signatures(bytes in prop::collection::vec(any::<u8>(), 0..80), tag in 0..5u8) {
        let _ = PublicKey::try_from(bytes.as_slice());
        if let Ok(signature) = Signature::try_from(bytes.as_slice()) {
            prop_assert_eq!(signature.to_bytes().to_vec(), bytes.clone());
        }
        for length in [33, 65] {
            if let Some(tagged) = bytes.get(..length) {
                let mut tagged = tagged.to_vec();
                tagged[0] = tag;
                if let Ok(key) = PublicKey::try_from(tagged.as_slice()) {
                    prop_assert_eq!(PublicKey::try_from(key.to_bytes().as_slice()), Ok(key));
                    prop_assert_eq!(&key.x(), &tagged[1..33]);
                }
            }
        }
    }

    #[test]
    fn a_signature_is_read_as_it_is_written(rs in any::<[[u8; 32]; 2]>(), v in 0..30u8, digest: [u8; 32]) {
        let bytes = [rs.concat(), vec![v]].concat();
        if let Ok(signature) = Signature::try_from(bytes.as_slice()) {
            prop_assert_eq!(signature.to_bytes().to_vec(), bytes.clone());
            prop_assert!([0, 1, 27, 28].contains(&v));
            let _ = signature.recover(&digest);
        }
    }

    #[test]
    fn no_text_panics_the_names(text in any::<String>()) {
        let _ = text.parse::<Address>();
        let _ = text.parse::<PublicKey>();
        let _ = text.parse::<PrivateKey>();
        let _ = SessionId::try_from(text.as_str());
        let _ = Aad::message_index(text.as_bytes());
    }

    #[test]
    fn an_address_is_read_as_it_is_written(bytes: [u8; 20]) {
        let address = Address::from(bytes);
        prop_assert_eq!(address.to_string().parse(), Ok(address));
        prop_assert_eq!(address.to_checksum().parse(), Ok(address));
        prop_assert_eq!(address.to_string()[2..].to_uppercase().parse(), Ok(address));
    }

    #[test]
    fn a_private_key_is_read_as_it_is_written(bytes: [u8; 32]) {
        let read: Result<PrivateKey, InvalidPrivateKey> = hex(bytes).parse();
        if let Ok(key) = read {
            prop_assert_eq!(&key.to_secret_hex()[2..], hex(bytes));
            prop_assert_eq!(key.public_key().to_bytes(), r::public(&bytes));
            prop_assert_eq!(key.address().to_string(), r::address_text(&bytes));
        }
    }

    #[test]
    fn an_index_is_read_as_it_is_written(index: u64) {
        let aad = Aad::Message(Index::new(index)).to_string();
        prop_assert_eq!(Aad::message_index(aad.as_bytes()), Some(Index::new(index)));
    }

    #[test]
    fn a_session_id_is_repeated_as_it_was_sent(id in session_id(), escaped: bool) {
        let json = if escaped {
            let units = id.bytes().map(|byte| format!("\\u{byte:04x}"));
            format!("\"{}\"", units.collect::<String>())
        } else {
            serde_json::to_string(&id).unwrap()
        };
        for field in ["session_id", "sessionId"] {
            let text = format!(r#"{{"type":"stream_cancel","{field}":{json}}}"#);
            let inbound = Inbound::decode(&text).unwrap();
            prop_assert_eq!(inbound.echo.session_id.unwrap().to_string(), id.clone());
        }
    }

    #[test]
    fn an_id_is_repeated_byte_for_byte(id in shaped_json()) {
        let text = format!(r#"{{"id": {id} ,"type":"stream_cancel","session_id":"1"}}"#);
        match Inbound::decode(&text) {
            Ok(inbound) if id == "null" => prop_assert!(inbound.echo.id.is_none()),
            Ok(inbound) => prop_assert_eq!(inbound.echo.id.unwrap().get().to_owned(), id),
            Err(refusal) => {
                prop_assert!(id.len() > 256);
                prop_assert_eq!(code(refusal.error), Code::MalformedFrame);
            }
        }
    }

    #[test]
    fn what_is_sealed_opens_and_only_as_what_it_was(
        key: [u8; 32],
        nonce: [u8; 24],
        text in prop::collection::vec(any::<u8>(), 0..600),
        index: u64,
    ) {
        prop_assume!(key != [0; 32]);
        let session_key = SessionKey::take(&mut key.clone()).unwrap();
        let aads = [
            Aad::Empty,
            Aad::SessionInit,
            Aad::Message(Index::new(index)),
            Aad::Chunk(Index::new(index)),
            Aad::Final,
        ];
        for aad in aads {
            let sealed = session_key.seal(Nonce::from(nonce), aad, &text).unwrap();
            prop_assert_eq!(&sealed.ciphertext, &r::seal(&key, &nonce, aad.to_string().as_bytes(), &text));
            for other in aads {
                let opened = session_key.open(&sealed, other);
                prop_assert_eq!(opened.is_ok(), other == aad);
                if let Ok(opened) = opened {
                    prop_assert_eq!(opened.as_bytes(), text.as_slice());
                }
            }
        }
    }

    #[test]
    fn any_words_go_there_and_any_answer_comes_back(
        words in prop::collection::vec(any::<u8>(), 0..600),
        pieces in prop::collection::vec(any::<String>(), 0..5),
        id in session_id(),
        dialect in prop::sample::select(&Dialect::ALL[..]),
        timestamp in prop::option::of(any::<u64>()),
        claim: bool,
        seed: u64,
    ) {
        let mut rng = Script::seeded(&seed.to_string());
        let client_key = PrivateKey::random(&mut rng);
        let hello = ClientHello {
            node_key: &NODE.public_key(),
            client_key: &client_key,
            id: SessionId::try_from(id.as_str()).unwrap(),
            context: InitContext::default(),
            dialect,
            timestamp,
            claim,
        };
        let (init, mut client) = hello.start(&mut rng).unwrap();
        let mut node = Node::new(PrivateKey::try_from(&r::node_key()).unwrap());
        node.receive(&init, timestamp.unwrap_or(0)).unwrap();

        let message = client.message(&words, &mut rng).unwrap();
        let outcome = node.receive(&message, 0).unwrap();
        let support::node::Outcome::Message(plaintext) = outcome else { panic!("a message was expected") };
        prop_assert_eq!(plaintext.as_bytes(), words.as_slice());
        answer_comes_back(&node.sessions[&id], &client, &pieces, &mut rng);
    }

    #[test]
    fn words_without_a_request_are_themselves(text in "[^{].{0,40}|") {
        prop_assume!(!text.trim_ascii_start().starts_with('{'));
        let request = PromptRequest::read(text.as_bytes()).unwrap();
        let fabstir_protocol::request::RequestPrompt::Turn(words) = request.prompt else { panic!("a turn was expected") };
        prop_assert!(words == Words::from(text));
    }
}

fn answer_comes_back(session: &Session, client: &ClientSession, pieces: &[String], rng: &mut Script) {
    let reply = |payload: fabstir_protocol::v1::WirePayload| {
        let payload = serde_json::to_string(&payload).unwrap();
        let text = format!(r#"{{"type":"encrypted_chunk","session_id":"1","payload":{payload}}}"#);
        match Reply::decode(&text).unwrap() {
            Reply::Chunk { payload, .. } => payload,
            other => panic!("{other:?} is no chunk"),
        }
    };
    let (mut sealer, mut opener) = (session.answer(), client.answer());
    for piece in pieces {
        let payload = reply(sealer.chunk(piece, rng).unwrap().1);
        assert_eq!(client.open_chunk(&mut opener, &payload).unwrap().as_bytes(), piece.as_bytes());
    }
    let end = reply(sealer.finish("length", rng).unwrap());
    assert_eq!(client.open_final(opener, &end).unwrap().as_bytes(), b"length");
}

/// Depth costs the sender, not us.
#[test]
fn no_depth_of_nesting_panics_the_readers() {
    for (open, close) in [("[", "]"), ("{\"payload\":", "}"), ("{\"x\":[", "]}")] {
        let deep = format!("{}1{}", open.repeat(100_000), close.repeat(100_000));
        node_reads(&deep);
        let _ = Reply::decode(&deep);
        let _ = PromptRequest::read(deep.as_bytes());
        for field in ["payload", "id", "job_id", "prompt", "request", "x", "usage", "session_id"] {
            for kind in ["encrypted_session_init", "encrypted_message", "inference", "encrypted_chunk"] {
                let text = format!(r#"{{"type":"{kind}","session_id":"1","{field}":{deep}}}"#);
                node_reads(&text);
                let _ = Reply::decode(&text);
            }
        }
        for field in ["stop", "messages", "x", "tools"] {
            let _ = PromptRequest::read(format!(r#"{{"prompt":"a","{field}":{deep}}}"#).as_bytes());
        }
    }
}
