//! What must fail, and with which code.

use fabstir_protocol::{
    Code,
    id::SessionId,
    seal::SessionKey,
    v1::{AnswerOpener, ClientSession, Reply},
};

use crate::{
    accepted::NOW,
    cases::{ClientCase, NodeCase, Rejected},
    support::{
        fixed, hex,
        node::{Node, code},
        reference::{self as r, Make, Object, Recipe},
        unhex_array,
    },
};

pub(crate) fn make() -> Rejected {
    let about = [
        "What version 1 of the protocol refuses (docs/protocol.md, part 1), and with which code (part 3). A frame \
is the exact text on the wire; null means absent.",
        "node: a node with the private key reads, on one connection and at `now`, the frames of `before`, which it \
accepts; `frame`, which it refuses with `code`; and those of `after`, which it accepts: a refused frame changes \
nothing. A message is accepted when it opens and its plaintext is a request or a bare prompt. Where \
require_timestamp_since is a number, timestamps are required and the node started then.",
        "client: a client reads the pieces of one answer, likewise. What does not open is DECRYPTION_FAILED.",
    ];
    let node = [
        transport(),
        init_form(),
        init_points(),
        init_signatures(),
        init_claims(),
        init_digest_3(),
        init_data(),
        init_opening(),
        message_form(),
        message_order(),
        message_aad(),
        message_opening(),
        requests(),
        replays(),
        times(),
    ];
    Rejected {
        about: about.map(str::to_owned).into(),
        node: node.into_iter().flatten().collect(),
        client: client(),
    }
}

/// Cases of one section.
struct Cases {
    spec: &'static str,
    of: Vec<NodeCase>,
}

impl Cases {
    fn new(spec: &'static str) -> Self {
        Self { spec, of: Vec::new() }
    }

    fn add(&mut self, name: &str, code: Code, frame: impl Into<String>) -> &mut NodeCase {
        self.of.push(NodeCase {
            name: name.to_owned(),
            spec: self.spec.to_owned(),
            node_private_key: hex(r::node_key()),
            now: NOW,
            require_timestamp_since: None,
            before: Vec::new(),
            frame: frame.into(),
            code,
            after: Vec::new(),
        });
        self.of.last_mut().unwrap()
    }
}

fn transport() -> Vec<NodeCase> {
    let mut cases = Cases::new("1.1");
    let deep = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    let texts = [
        ("nothing", String::new()),
        ("no JSON", "hello".to_owned()),
        ("a number", "7".to_owned()),
        ("null", "null".to_owned()),
        ("a string", "\"ping\"".to_owned()),
        ("an array", "[]".to_owned()),
        (
            "an array that holds the fields in order",
            r#"["ping","1",null,null,null,null,null,null,null]"#.to_owned(),
        ),
        ("an array around a frame", r#"[{"type":"ping"}]"#.to_owned()),
        ("half a frame", r#"{"type":"ping""#.to_owned()),
        ("more after the frame", r#"{"type":"ping"} {}"#.to_owned()),
        ("a byte order mark", "\u{feff}{\"type\":\"ping\"}".to_owned()),
        ("a comma too many", r#"{"type":"ping",}"#.to_owned()),
        ("single quotes", "{'type':'ping'}".to_owned()),
        ("no type", "{}".to_owned()),
        ("a type that is null", r#"{"type":null}"#.to_owned()),
        ("a type that is a number", r#"{"type":1}"#.to_owned()),
        ("the type twice", r#"{"type":"ping","type":"ping"}"#.to_owned()),
        ("the session id twice", r#"{"type":"stream_cancel","session_id":"1","session_id":"1"}"#.to_owned()),
        (
            "the payload twice",
            r#"{"type":"encrypted_message","session_id":"1","payload":{},"payload":{}}"#.to_owned(),
        ),
        ("half a surrogate pair", r#"{"type":"stream_cancel","session_id":"\ud800"}"#.to_owned()),
        ("a chain_id that is text", r#"{"type":"session_init","session_id":"1","chain_id":"1"}"#.to_owned()),
        ("a job_id that is an object", r#"{"type":"session_init","session_id":"1","job_id":{}}"#.to_owned()),
        (
            "a job_id of 300 arrays",
            format!(r#"{{"type":"session_init","session_id":"1","job_id":{}}}"#, deep(300)),
        ),
        (
            "a payload of 300 arrays",
            format!(r#"{{"type":"encrypted_message","session_id":"1","payload":{}}}"#, deep(300)),
        ),
        ("300 arrays", deep(300)),
        ("a prompt that is a number", r#"{"type":"prompt","session_id":"1","prompt":7}"#.to_owned()),
        ("a request that is text", r#"{"type":"inference","session_id":"1","request":"hi"}"#.to_owned()),
    ];
    for (name, text) in texts {
        // A message needs its session before its payload is looked at.
        let case = cases.add(&format!("frame: {name}"), Code::MalformedFrame, text);
        if case.frame.contains("encrypted_message") && !case.name.contains("twice") {
            case.frame = case.frame.replace("encrypted_message", "encrypted_session_init");
        }
    }
    let unknown = Code::UnknownMessageType;
    cases.add("a type that nobody knows", unknown, r#"{"type":"hello","session_id":"1"}"#);
    cases.add("an empty type", unknown, r#"{"type":""}"#);
    cases.add("a type in upper case", unknown, r#"{"type":"PING"}"#);
    cases.add("a type of the node's own", unknown, r#"{"type":"pong"}"#);
    let missing = Code::MissingPayload;
    cases.add("a prompt frame without a prompt", missing, r#"{"type":"prompt","session_id":"1"}"#);
    session_ids(&mut cases);
    cases.of
}

fn session_ids(cases: &mut Cases) {
    let cancel = |field: &str| format!(r#"{{"type":"stream_cancel",{field}}}"#);
    let ids = [
        ("empty", "\"\"".to_owned()),
        ("of 65 characters", format!("\"{}\"", "x".repeat(65))),
        ("with a space", "\"a b\"".to_owned()),
        ("with a line break", "\"a\\n\"".to_owned()),
        ("with a NUL", "\"\\u0000\"".to_owned()),
        ("with a DEL", "\"\\u007f\"".to_owned()),
        ("that is not ASCII", "\"é\"".to_owned()),
        ("that is a number", "42".to_owned()),
        ("that is an object", "{}".to_owned()),
    ];
    for (name, json) in ids {
        let field = format!("\"session_id\":{json}");
        cases.add(&format!("a session id {name}"), Code::MalformedFrame, cancel(&field));
    }
    let two = cancel(r#""session_id":"1","sessionId":"2""#);
    cases.add("session_id and sessionId that differ", Code::MalformedFrame, two);
    for kind in [
        "encrypted_session_init",
        "encrypted_message",
        "stream_cancel",
        "session_init",
        "prompt",
        "inference",
    ] {
        let frame = format!(r#"{{"type":"{kind}","payload":{{}}}}"#);
        cases.add(&format!("{kind} without a session id"), Code::MissingSessionId, frame);
    }
    cases.add("a session id that is null", Code::MissingSessionId, cancel("\"session_id\":null"));
    let long = cancel(&format!(r#""session_id":"1","id":"{}""#, "x".repeat(255)));
    cases.add("an id of 257 bytes", Code::MalformedFrame, long);
    let numbers = cancel(&format!(r#""session_id":"1","id":[{}1]"#, "1,".repeat(128)));
    cases.add("an id of 259 bytes that is an array", Code::MalformedFrame, numbers);
}

const INIT_FIELDS: [&str; 5] = ["ephPubHex", "ciphertextHex", "signatureHex", "nonceHex", "aadHex"];
const MESSAGE_FIELDS: [&str; 3] = ["ciphertextHex", "nonceHex", "aadHex"];

fn init_form() -> Vec<NodeCase> {
    let mut cases = Cases::new("1.2");
    let recipe = Recipe::new(Make::Deployed, "an init that is malformed");
    let outer = |payload: &str| {
        format!(r#"{{"type":"encrypted_session_init","session_id":"42","payload":{payload}}}"#)
    };
    let bare = recipe.frame_with(&Object::default()).without("payload").json();
    cases.add("init: no payload", Code::MissingPayload, bare);
    cases.add("init: a payload that is null", Code::MissingPayload, outer("null"));
    cases.add("init: a payload that is an array", Code::MalformedFrame, outer("[\"\",\"\",\"\",\"\",\"\"]"));
    cases.add("init: a payload that is text", Code::MalformedFrame, outer("\"00\""));
    cases.add("init: an empty payload", Code::MissingPayloadFields, outer("{}"));
    for field in INIT_FIELDS {
        let twice = |p: Object| {
            let text = p.text(field);
            p.with_text(field, &text)
        };
        let frames = [
            ("missing", Code::MissingPayloadFields, recipe.changed(|p| p.without(field))),
            ("null", Code::MissingPayloadFields, recipe.changed(|p| p.set(field, "null"))),
            ("a number", Code::MalformedFrame, recipe.changed(|p| p.set(field, "7"))),
            ("there twice", Code::MalformedFrame, recipe.changed(twice)),
            ("no hex", Code::InvalidHexEncoding, recipe.changed(|p| p.map_text(field, |t| format!("zz{t}")))),
            ("of odd length", Code::InvalidHexEncoding, recipe.changed(|p| p.map_text(field, |t| t + "0"))),
            (
                "hex with a space",
                Code::InvalidHexEncoding,
                recipe.changed(|p| p.map_text(field, |t| t + " 0")),
            ),
            (
                "0x twice",
                Code::InvalidHexEncoding,
                recipe.changed(|p| p.map_text(field, |t| format!("0x0x{t}"))),
            ),
        ];
        for (what, code, frame) in frames {
            cases.add(&format!("init: {field} is {what}"), code, frame);
        }
    }
    for length in [0, 12, 23, 25, 32] {
        let nonce = hex(vec![7; length]);
        let frame = recipe.changed(|p| p.set_text("nonceHex", &nonce));
        cases.add(&format!("init: a nonce of {length} bytes"), Code::InvalidNonceSize, frame);
    }
    cases.of
}

fn init_points() -> Vec<NodeCase> {
    let mut cases = Cases::new("1.2");
    let recipe = Recipe::new(Make::Deployed, "an init with a bad point");
    let good = r::public(&recipe.ephemeral);
    let whole = r::uncompressed(&r::point_of(&recipe.ephemeral));
    let changed = |mut bytes: Vec<u8>, at: usize, to: u8| {
        bytes[at] = to;
        bytes
    };
    let field: Vec<u8> = [vec![2], unhex_array::<32>(r::FIELD).into()].concat();
    let points: [(&str, Vec<u8>); 16] = [
        ("empty", vec![]),
        ("the x alone", good[1..].into()),
        ("34 bytes", [good.as_slice(), &[0]].concat()),
        ("64 bytes, no tag", whole[1..].into()),
        ("66 bytes", [whole.as_slice(), &[0]].concat()),
        ("33 bytes with the tag of 65", changed(good.into(), 0, 4)),
        ("33 bytes with the tag 01", changed(good.into(), 0, 1)),
        ("33 bytes with the tag 05", changed(good.into(), 0, 5)),
        ("65 bytes with the tag of 33", changed(whole.into(), 0, 2)),
        ("65 bytes in the hybrid form", changed(whole.into(), 0, 6 | (whole[64] & 1))),
        ("65 bytes off the curve", changed(whole.into(), 64, whole[64] ^ 1)),
        ("33 bytes whose x is on no point", [vec![2], vec![0; 31], vec![5]].concat()),
        ("33 bytes whose x is the prime of the field", field),
        ("the point at infinity, one byte", vec![0]),
        ("33 bytes of zero", vec![0; 33]),
        ("65 bytes of zero after the tag", changed(vec![0; 65], 0, 4)),
    ];
    for (name, bytes) in points {
        let frame = recipe.changed(|p| p.set_text("ephPubHex", &hex(bytes)));
        cases.add(&format!("init: ephPubHex is {name}"), Code::InvalidPayload, frame);
    }
    cases.of
}

fn init_signatures() -> Vec<NodeCase> {
    let mut cases = Cases::new("1.2");
    let claimed = Recipe::new(Make::GuideRust, "an init with a malformed signature");
    let unclaimed = claimed.clone().claiming(false);
    for (whose, recipe) in [("claimed", claimed), ("unclaimed", unclaimed)] {
        let good = recipe.signature();
        let part = |r: &[u8], s: &[u8]| [r, s, &[good[64]]].concat();
        let v = |v: u8| [&good[..64], &[v]].concat();
        let order: [u8; 32] = unhex_array(r::ORDER);
        let (zero, max) = ([0; 32], [0xff; 32]);
        let signatures = [
            ("empty", vec![]),
            ("64 bytes", good[..64].to_vec()),
            ("66 bytes", [good.as_slice(), &[0]].concat()),
            ("v 2", v(2)),
            ("v 3", v(3)),
            ("v 26", v(26)),
            ("v 29", v(29)),
            ("v 35", v(35)),
            ("v 255", v(255)),
            ("r zero", part(&zero, &good[32..64])),
            ("s zero", part(&good[..32], &zero)),
            ("r the order", part(&order, &good[32..64])),
            ("s the order", part(&good[..32], &order)),
            ("r over the order", part(&max, &good[32..64])),
            ("s over the order", part(&good[..32], &max)),
            ("a high s", r::with_high_s(&good).into()),
            // 5 is the x of no point.
            ("an r from which nothing recovers", part(&[vec![0; 31], vec![5]].concat(), &good[32..64])),
        ];
        for (name, bytes) in signatures {
            let frame = recipe.changed(|p| p.set_text("signatureHex", &hex(bytes)));
            cases.add(&format!("init, {whose}: the signature has {name}"), Code::InvalidSignature, frame);
        }
    }
    cases.of
}

fn init_claims() -> Vec<NodeCase> {
    let mut cases = Cases::new("1.2");
    let other: [u8; 32] = fixed("another client");
    for make in Make::ALL {
        let named = |what: &str| format!("init, {}: {what}", make.name());
        let recipe = |what: &str| Recipe::new(make, &named(what));
        let name = "signed by another key than the claimed one";
        let mut forged = recipe(name);
        forged.client = other;
        cases.add(&named(name), Code::InvalidSignature, forged.frame());

        let name = "claims that differ";
        let mut differ = recipe(name);
        let claims = Object::default()
            .with_text("clientAddress", &r::address_text(&other))
            .with_text("recoveryPublicKey", &hex(r::public(&differ.client)));
        differ = differ.with_data(claims.json());
        cases.add(&named(name), Code::InvalidSignature, differ.frame());

        let name = "claims that differ, the signer's as clientAddress";
        let mut differ = recipe(name);
        let claims = Object::default()
            .with_text("clientAddress", &r::address_text(&differ.client))
            .with_text("recoveryPublicKey", &hex(r::public(&other)));
        differ = differ.with_data(claims.json());
        cases.add(&named(name), Code::InvalidSignature, differ.frame());

        let name = "the other v of the right form";
        let flipped = recipe(name).changed(|p| {
            p.map_text("signatureHex", |text| {
                let (rs, v) = text.split_at(text.len() - 2);
                let v = u8::from_str_radix(v, 16).unwrap();
                format!("{rs}{}", hex([if v > 1 { 55 - v } else { 1 - v }]))
            })
        });
        cases.add(&named(name), Code::InvalidSignature, flipped);

        let name = "the signature of another init of the same client";
        let (one, two) = (recipe(name), recipe("yet another init"));
        let moved = one.changed(|p| p.set_text("signatureHex", &hex(two.signature())));
        cases.add(&named(name), Code::InvalidSignature, moved);
    }
    let name = "init, deployed: the negative of the ephemeral key, which its digest names";
    cases.add(name, Code::InvalidSignature, twin(&Recipe::new(Make::Deployed, name)));
    cases.of
}

/// The same frame with -P for P.
fn twin(recipe: &Recipe) -> String {
    let mut twin = r::public(&recipe.ephemeral);
    twin[0] ^= 1;
    recipe.changed(|p| p.set_text("ephPubHex", &hex(twin)))
}

fn init_digest_3() -> Vec<NodeCase> {
    let mut cases = Cases::new("1.2");
    let name = "an init with a salt";
    let recipe = Recipe::new(Make::Deployed, name);
    let one = [[0; 31].as_slice(), &[1]].concat();
    let salts = [("not zero", one), ("31 zeros", vec![0; 31]), ("33 zeros", vec![0; 33]), ("empty", vec![])];
    for (what, salt) in salts {
        let frame = recipe.changed(|p| p.set_text("saltHex", &hex(salt)));
        cases.add(&format!("init: a salt that is {what}"), Code::InvalidPayload, frame);
    }
    let frames = [
        ("a salt that is no hex", Code::InvalidHexEncoding, recipe.changed(|p| p.set_text("saltHex", "zz"))),
        ("a salt that is a number", Code::MalformedFrame, recipe.changed(|p| p.set("saltHex", "0"))),
        ("info that is not empty", Code::InvalidPayload, recipe.changed(|p| p.set_text("info", "x"))),
        ("info that is a number", Code::MalformedFrame, recipe.changed(|p| p.set("info", "0"))),
    ];
    for (what, code, frame) in frames {
        cases.add(&format!("init: {what}"), code, frame);
    }
    let name = "init: a digest that leaves the salt out";
    let recipe = Recipe::new(Make::Deployed, name);
    let (eph, node) = (r::public(&recipe.ephemeral), r::public(&recipe.node));
    let parts: [&[u8]; 6] = [b"E2EEv1", &eph, &node, b"", &recipe.nonce, b""];
    let signature = r::sign(&recipe.client, &r::digest_plain(&parts.join(&b'|')));
    let frame = recipe.changed(|p| p.set_text("signatureHex", &hex(signature)));
    cases.add(name, Code::InvalidSignature, frame);
    cases.of
}

fn init_data() -> Vec<NodeCase> {
    let mut cases = Cases::new("1.2");
    let mut add = |name: &str, data: Vec<u8>| {
        let name = format!("session data: {name}");
        let recipe = Recipe::new(Make::GuideRust, &name).with_data(data);
        cases.add(&name, Code::InvalidPayload, recipe.frame());
    };
    let zeros = hex([0; 32]);
    let key = hex([7; 32]);
    let off_curve = format!("02{}05", "00".repeat(31));
    let whole = hex(r::uncompressed(&r::point_of(&r::client_key())));
    let checksum: fabstir_protocol::ethereum::Address = r::address_text(&r::client_key()).parse().unwrap();
    let flip = |c: char| if c.is_lowercase() { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() };
    let broken = format!("0x{}", checksum.to_checksum()[2..].chars().map(flip).collect::<String>());
    let field = |name: &str, json: &str| Object::default().with(name, json).json();
    let text = |name: &str, value: &str| Object::default().with_text(name, value).json();
    let cases_of_data = [
        ("empty", String::new()),
        ("no JSON", "hello".to_owned()),
        ("an array", "[]".to_owned()),
        ("an array that holds the fields in order", "[\"0\",\"m\",null,null,null,null,null]".to_owned()),
        ("null", "null".to_owned()),
        ("half an object", "{\"jobId\":\"0\"".to_owned()),
        ("more after the object", "{}{}".to_owned()),
        ("a session key of zeros", text("sessionKey", &zeros)),
        ("a session key of zeros, with 0x", text("sessionKey", &format!("0x{zeros}"))),
        ("a session key of 31 bytes", text("sessionKey", &key[2..])),
        ("a session key of 33 bytes", text("sessionKey", &format!("07{key}"))),
        ("a session key of odd length", text("sessionKey", &key[1..])),
        ("a session key that is no hex", text("sessionKey", &"z".repeat(64))),
        ("an empty session key", text("sessionKey", "")),
        ("a session key that is a number", field("sessionKey", "7")),
        ("a session key that is an array", field("sessionKey", "[7]")),
        (
            "the session key twice",
            Object::default().with_text("sessionKey", &key).with_text("sessionKey", &key).json(),
        ),
        (
            "the session key in both spellings",
            Object::default().with_text("sessionKey", &key).with_text("session_key", &key).json(),
        ),
        ("a jobId that is an object", field("jobId", "{}")),
        ("a modelName that is a number", field("modelName", "7")),
        ("a pricePerToken that is true", field("pricePerToken", "true")),
        ("a timestamp that is text", text("timestamp", "1780000000")),
        ("a timestamp that is negative", field("timestamp", "-1")),
        ("a timestamp with a fraction", field("timestamp", "1780000000.5")),
        ("a recoveryPublicKey off the curve", text("recoveryPublicKey", &off_curve)),
        ("a recoveryPublicKey of 32 bytes", text("recoveryPublicKey", &off_curve[2..])),
        ("a recoveryPublicKey of 65 bytes", text("recoveryPublicKey", &whole)),
        ("a recoveryPublicKey that is no hex", text("recoveryPublicKey", "zz")),
        ("a recoveryPublicKey that is empty", text("recoveryPublicKey", "")),
        ("a clientAddress of 19 bytes", text("clientAddress", &"11".repeat(19))),
        ("a clientAddress of 21 bytes", text("clientAddress", &"11".repeat(21))),
        ("a clientAddress that is no hex", text("clientAddress", &"zz".repeat(20))),
        ("a clientAddress that is empty", text("clientAddress", "")),
        ("a clientAddress with a wrong checksum", text("clientAddress", &broken)),
        ("a clientAddress that is a number", field("clientAddress", "7")),
    ];
    for (name, data) in cases_of_data {
        add(name, data.into_bytes());
    }
    add("not UTF-8", b"{\"modelName\":\"\xff\"}".to_vec());
    cases.of
}

fn init_opening() -> Vec<NodeCase> {
    let mut cases = Cases::new("1.2");
    let refused = Code::DecryptionFailed;
    for make in Make::ALL {
        let named = |what: &str| format!("init, {}: {what}", make.name());
        let recipe = |what: &str| Recipe::new(make, &named(what));
        let flip = |at: usize| move |text: String| flip_bit(&text, at);
        let cut = |bytes: usize| move |text: String| text[..text.len() - 2 * bytes].to_owned();
        let first = |bytes: usize| move |text: String| text[..2 * bytes].to_owned();
        let field = "ciphertextHex";
        let changes: [(&str, Box<dyn FnOnce(Object) -> Object>); 8] = [
            ("a changed bit of the ciphertext", Box::new(move |p| p.map_text(field, flip(0)))),
            (
                "a changed bit of the tag",
                Box::new(move |p| p.map_text(field, |t| flip_bit(&t, t.len() * 4 - 1))),
            ),
            ("a ciphertext without its last byte", Box::new(move |p| p.map_text(field, cut(1)))),
            ("a ciphertext of 16 bytes", Box::new(move |p| p.map_text(field, first(16)))),
            ("a ciphertext of 15 bytes", Box::new(move |p| p.map_text(field, first(15)))),
            ("no ciphertext", Box::new(move |p| p.set_text(field, ""))),
            ("another nonce", Box::new(move |p| p.map_text("nonceHex", flip(100)))),
            ("the nonce reversed", Box::new(move |p| p.map_text("nonceHex", |t| t.chars().rev().collect()))),
        ];
        for (name, change) in changes {
            cases.add(&named(name), refused, recipe(name).changed(change));
        }
        let name = "sealed to another node";
        let mut elsewhere = recipe(name);
        elsewhere.node = fixed("another node");
        cases.add(&named(name), refused, elsewhere.frame());
        let name = "the ephemeral key of another init";
        let other = hex(r::public(&fixed("another ephemeral")));
        cases.add(&named(name), refused, recipe(name).changed(|p| p.set_text("ephPubHex", &other)));
    }
    let name = "init, guide-typescript: the negative of the ephemeral key, which is in its key material";
    cases.add(name, refused, twin(&Recipe::new(Make::GuideTypescript, name)));
    init_aads(&mut cases);
    init_derivations(&mut cases);
    cases.of
}

fn init_aads(cases: &mut Cases) {
    let aads = [
        "session_init ",
        "Session_init",
        "session_ini",
        "session_init\0",
        "message_0",
        "chunk_0",
        "final",
        "x",
    ];
    for aad in aads {
        let name = format!("init: aad {aad:?}, and sealed as that");
        let mut recipe = Recipe::new(Make::GuideRust, &name);
        recipe.aad = aad;
        cases.add(&name, Code::DecryptionFailed, recipe.frame());
        let name = format!("init: sealed as {aad:?}, sent as session_init");
        let recipe = Recipe { aad, ..Recipe::new(Make::GuideRust, &name) };
        let frame = recipe.changed(|p| p.set_text("aadHex", &hex("session_init")));
        cases.add(&name, Code::DecryptionFailed, frame);
    }
}

/// Inits under keys that no make derives.
fn init_derivations(cases: &mut Cases) {
    let mut add = |name: &str, derive: &dyn Fn(&[u8; 33]) -> [u8; 32]| {
        let name = format!("init: {name}");
        let recipe = Recipe::new(Make::GuideRust, &name);
        let key = derive(&r::agree(&recipe.ephemeral, &r::public(&recipe.node)));
        let ciphertext = r::seal(&key, &recipe.nonce, recipe.aad.as_bytes(), &recipe.data);
        let signature = r::sign(&recipe.client, &r::digest_plain(&ciphertext));
        let frame = recipe.changed(|p| {
            p.set_text("ciphertextHex", &hex(&ciphertext)).set_text("signatureHex", &hex(signature))
        });
        cases.add(&name, Code::DecryptionFailed, frame);
    };
    add("the x itself as key, without HKDF", &|point| std::array::from_fn(|i| point[1 + i]));
    add("SHA-256 of the compressed point as key", &r_sha256);
    add("the uncompressed point as key material", &|point| r::hkdf(&r::uncompressed(&r::parse(point))));
    add("the 64 bytes of x and y as key material", &|point| r::hkdf(&r::uncompressed(&r::parse(point))[1..]));
}

fn r_sha256(point: &[u8; 33]) -> [u8; 32] {
    r::digest_plain(point)
}

/// Bit `at` of the hex, the first byte's highest first.
fn flip_bit(text: &str, at: usize) -> String {
    let mut bytes = crate::support::unhex(text);
    bytes[at / 8] ^= 0x80 >> (at % 8);
    hex(bytes)
}

/// A session that is open, and messages for it.
struct Open {
    recipe: Recipe,
}

impl Open {
    fn new(make: Make, name: &str) -> Self {
        Self { recipe: Recipe::new(make, name) }
    }

    fn payload(&self, index: u64) -> Object {
        let nonce = fixed(&format!("{}|message {index}", hex(self.recipe.nonce)));
        r::sealed(&self.recipe.session_key(), &format!("message_{index}"), &nonce, b"hello")
    }

    fn frame(&self, payload: &Object) -> String {
        r::message_with(&self.recipe.session_id, payload).json()
    }

    fn message(&self, index: u64) -> String {
        self.frame(&self.payload(index))
    }

    /// The init and the messages before; the good message of `good` after.
    fn case(&self, case: &mut NodeCase, before: &[u64], after: &[u64]) {
        case.before = vec![self.recipe.frame()];
        case.before.extend(before.iter().map(|index| self.message(*index)));
        case.after = after.iter().map(|index| self.message(*index)).collect();
    }
}

fn message_form() -> Vec<NodeCase> {
    let mut cases = Cases::new("1.3");
    let open = Open::new(Make::Deployed, "messages that are malformed");
    let good = open.payload(0);
    let bare =
        |payload: &str| format!(r#"{{"type":"encrypted_message","session_id":"42","payload":{payload}}}"#);
    let mut frames = vec![
        (
            "no payload".to_owned(),
            Code::MissingPayload,
            r#"{"type":"encrypted_message","session_id":"42"}"#.to_owned(),
        ),
        ("a payload that is null".to_owned(), Code::MissingPayload, bare("null")),
        ("a payload that is an array".to_owned(), Code::MalformedFrame, bare("[\"\",\"\",\"\"]")),
        ("a payload that is text".to_owned(), Code::MalformedFrame, bare("\"\"")),
        ("an empty payload".to_owned(), Code::MissingPayloadFields, bare("{}")),
    ];
    for field in MESSAGE_FIELDS {
        let text = good.text(field);
        let changes = [
            ("missing", Code::MissingPayloadFields, good.clone().without(field)),
            ("null", Code::MissingPayloadFields, good.clone().set(field, "null")),
            ("a number", Code::MalformedFrame, good.clone().set(field, "7")),
            ("there twice", Code::MalformedFrame, good.clone().with_text(field, &text)),
            ("no hex", Code::InvalidHexEncoding, good.clone().set_text(field, &format!("zz{text}"))),
            ("of odd length", Code::InvalidHexEncoding, good.clone().set_text(field, &text[1..])),
        ];
        for (what, code, payload) in changes {
            frames.push((format!("{field} is {what}"), code, open.frame(&payload)));
        }
    }
    for length in [0, 12, 23, 25] {
        let payload = good.clone().set_text("nonceHex", &hex(vec![7; length]));
        frames.push((format!("a nonce of {length} bytes"), Code::InvalidNonceSize, open.frame(&payload)));
    }
    for (what, code, frame) in frames {
        open.case(cases.add(&format!("message: {what}"), code, frame), &[], &[0]);
    }
    cases.of
}

fn message_order() -> Vec<NodeCase> {
    let mut cases = Cases::new("1.3");
    let replay = Code::ReplayDetected;
    let open = Open::new(Make::Deployed, "messages out of order");
    open.case(cases.add("message: the same frame again", replay, open.message(0)), &[0], &[1]);
    open.case(cases.add("message: an older index, never used", replay, open.message(3)), &[0, 5], &[6]);
    let again = open.recipe.message(4, &fixed("again"), b"other words").json();
    open.case(cases.add("message: a spent index with another nonce", replay, again), &[4], &[5]);
    let nonce: [u8; 24] = unhex_array(&open.payload(0).text("nonceHex"));
    let reused = open.recipe.message(1, &nonce, b"other words").json();
    open.case(cases.add("message: a nonce used before, with a new index", replay, reused), &[0], &[1]);
    let last = cases.add(
        "message: after the last index there is none",
        Code::SessionKeyNotFound,
        open.recipe.message(0, &fixed("after the last"), b"hello").json(),
    );
    open.case(last, &[u64::MAX], &[]);

    let agreed = Open::new(Make::GuideTypescript, "a message under the init's nonce");
    let reused = agreed.recipe.message(0, &agreed.recipe.nonce, b"hello").json();
    let name = "message: the init's nonce, where the agreed key is the session key";
    agreed.case(cases.add(name, replay, reused), &[], &[0]);
    cases.of
}

fn message_aad() -> Vec<NodeCase> {
    let mut cases = Cases::new("1.3");
    let open = Open::new(Make::Deployed, "messages with another aad");
    let key = open.recipe.session_key();
    let aads = [
        "",
        "message_",
        "message_00",
        "message_01",
        "message_+1",
        "message_-1",
        "message_1 ",
        " message_1",
        "message_0x1",
        "message_1e0",
        "message_1.0",
        "message_1\0",
        "message_١",
        "message_18446744073709551616",
        "Message_1",
        "MESSAGE_1",
        "message1",
        "chunk_1",
        "final",
        "session_init",
    ];
    for aad in aads {
        let payload = r::sealed(&key, aad, &fixed(aad), b"hello");
        let name = format!("message: aad {aad:?}, and sealed as that");
        open.case(cases.add(&name, Code::DecryptionFailed, open.frame(&payload)), &[], &[0]);
    }
    let not_text = open.payload(1).set_text("aadHex", "ff");
    let name = "message: an aad that is not UTF-8";
    open.case(cases.add(name, Code::DecryptionFailed, open.frame(&not_text)), &[], &[0]);
    for sent in ["message_1", "message_18446744073709551615"] {
        let payload = open.payload(0).set_text("aadHex", &hex(sent));
        let name = format!("message: sealed as message_0, sent as {sent}, which spends nothing");
        open.case(cases.add(&name, Code::DecryptionFailed, open.frame(&payload)), &[], &[0]);
    }
    for sent in ["message_01", "message_+1", "message_1 ", "Message_1", "message_1\0"] {
        let payload = open.payload(1).set_text("aadHex", &hex(sent));
        let name = format!("message: sealed as message_1, sent as {sent:?}");
        open.case(cases.add(&name, Code::DecryptionFailed, open.frame(&payload)), &[], &[1]);
    }
    let reflected =
        r::sealed(&key, "chunk_0", &fixed("reflected"), b"Hel").set_text("aadHex", &hex("message_0"));
    let name = "message: a chunk of the answer, sent back as a message";
    open.case(cases.add(name, Code::DecryptionFailed, open.frame(&reflected)), &[], &[0]);
    cases.of
}

fn message_opening() -> Vec<NodeCase> {
    let mut cases = Cases::new("1.3");
    let open = Open::new(Make::Deployed, "messages that do not open");
    let good = open.payload(0);
    let bits = good.text("ciphertextHex").len() * 4;
    let changes = [
        ("a changed first bit", good.clone().map_text("ciphertextHex", |t| flip_bit(&t, 0))),
        ("a changed last bit", good.clone().map_text("ciphertextHex", |t| flip_bit(&t, bits - 1))),
        ("a changed nonce", good.clone().map_text("nonceHex", |t| flip_bit(&t, 191))),
        (
            "a ciphertext without its last byte",
            good.clone().map_text("ciphertextHex", |t| t[..t.len() - 2].to_owned()),
        ),
        ("a ciphertext with a byte more", good.clone().map_text("ciphertextHex", |t| t + "00")),
        ("the tag alone", good.clone().map_text("ciphertextHex", |t| t[t.len() - 32..].to_owned())),
        ("15 bytes", good.clone().map_text("ciphertextHex", |t| t[..30].to_owned())),
        ("no ciphertext", good.clone().set_text("ciphertextHex", "")),
        ("another key", r::sealed(&[9; 32], "message_0", &fixed("another key"), b"hello")),
        ("the agreed key in place of the session key", {
            r::sealed(&open.recipe.agreed_key(), "message_0", &fixed("the agreed key"), b"hello")
        }),
    ];
    for (name, payload) in changes {
        let case = cases.add(&format!("message: {name}"), Code::DecryptionFailed, open.frame(&payload));
        open.case(case, &[], &[0]);
    }
    cases.add("message: no session was opened", Code::SessionKeyNotFound, open.message(0));
    let other = open.recipe.message(0, &fixed("another id"), b"hello").set_text("session_id", "43").json();
    open.case(cases.add("message: for another session id", Code::SessionKeyNotFound, other), &[], &[0]);

    let second = Open::new(Make::Deployed, "a second init under the same id");
    let name = "message: under the key that a second init replaced";
    let case = cases.add(name, Code::DecryptionFailed, open.message(1));
    open.case(case, &[0], &[]);
    case.before.push(second.recipe.frame());
    case.after = vec![second.message(0)];
    cases.of
}

fn requests() -> Vec<NodeCase> {
    let mut cases = Cases::new("1.4");
    let open = Open::new(Make::Deployed, "requests that are refused");
    let stops = |stops: &str| format!(r#"{{"prompt":"a","stop":{stops}}}"#);
    let many = stops(&format!("[{}\"x\"]", "\"x\",".repeat(16)));
    let long = stops(&format!("\"{}\"", "x".repeat(257)));
    let message = |json: &str| format!(r#"{{"messages":[{json}]}}"#);
    let (bad, no) = (Code::InvalidPayload, Code::UnsupportedField);
    let with = |field: &str| format!(r#"{{"prompt":"a",{field}}}"#);
    let function = r#"{"type":"function","function":{"name":"f"}}"#;
    let tools = |json: &str| format!(r#"{{"messages":[{{"role":"user","content":"a"}}],"tools":[{json}]}}"#);
    let image = r#"{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:"}}]}"#;
    let list: [(&str, Code, String); 42] = [
        ("n over 1", no, with(r#""n":2"#)),
        ("n zero", no, with(r#""n":0"#)),
        ("functions in the older form", no, with(r#""functions":[]"#)),
        ("audio", no, with(r#""modalities":["audio"]"#)),
        ("a tool that is no function", no, with(r#""tools":[{"type":"custom","function":{"name":"f"}}]"#)),
        ("tools with a prompt", bad, with(&format!(r#""tools":[{function}]"#))),
        ("a function without a name", bad, tools(r#"{"type":"function","function":{}}"#)),
        ("a function with a name of two words", bad, tools(&function.replace("\"f\"", "\"a b\""))),
        ("tool_choice without tools", bad, with(r#""tool_choice":"required""#)),
        ("response_format of an unknown type", bad, with(r#""response_format":{"type":"xml"}"#)),
        ("response_format without its schema", bad, with(r#""response_format":{"type":"json_schema"}"#)),
        ("logit_bias of a word", bad, with(r#""logit_bias":{"word":1}"#)),
        ("logit_bias over 100", bad, with(r#""logit_bias":{"1":101}"#)),
        ("logprobs in the older form", bad, with(r#""logprobs":0"#)),
        ("top_logprobs without logprobs", bad, with(r#""top_logprobs":1"#)),
        ("top_logprobs over 20", bad, with(r#""logprobs":true,"top_logprobs":21"#)),
        ("an image", no, message(image)),
        ("a prompt that is a number", bad, r#"{"prompt":7}"#.to_owned()),
        ("the prompt twice", bad, r#"{"prompt":"a","prompt":"b"}"#.to_owned()),
        ("prompt and messages", bad, with(r#""messages":[{"role":"user","content":"b"}]"#)),
        ("no messages", bad, r#"{"messages":[]}"#.to_owned()),
        ("messages that are text", bad, r#"{"messages":"hi"}"#.to_owned()),
        ("a message without a role", bad, message(r#"{"content":"a"}"#)),
        ("a message of an unknown role", bad, message(r#"{"role":"robot","content":"a"}"#)),
        ("a message whose content is a number", bad, message(r#"{"role":"user","content":7}"#)),
        ("a part without its text", bad, message(r#"{"role":"user","content":[{"type":"text"}]}"#)),
        ("a negative max_tokens", bad, with(r#""max_tokens":-1"#)),
        ("max_tokens with a fraction", bad, with(r#""max_tokens":1.5"#)),
        ("max_tokens that is text", bad, with(r#""max_tokens":"9""#)),
        ("a temperature over 2", bad, with(r#""temperature":2.5"#)),
        ("a negative temperature", bad, with(r#""temperature":-0.5"#)),
        ("a temperature beyond all numbers", bad, with(r#""temperature":1e999"#)),
        ("top_p over 1", bad, with(r#""top_p":1.5"#)),
        ("min_p below 0", bad, with(r#""min_p":-0.5"#)),
        ("a repeat_penalty of 0", bad, with(r#""repeat_penalty":0"#)),
        ("a presence_penalty over 2", bad, with(r#""presence_penalty":2.5"#)),
        ("a seed below -1", bad, with(r#""seed":-2"#)),
        ("a seed of 33 bits", bad, with(r#""seed":4294967296"#)),
        ("an empty stop text", bad, stops("\"\"")),
        ("17 stop texts", bad, many),
        ("a stop text of 257 bytes", bad, long),
        ("a stop of 300 arrays", bad, stops(&format!("{}{}", "[".repeat(300), "]".repeat(300)))),
    ];
    let utf8 = ("words that are not UTF-8", Code::InvalidUtf8, b"caf\xe9".to_vec());
    let list = list.into_iter().map(|(name, code, text)| (name, code, text.into_bytes())).chain([utf8]);
    for (name, code, plaintext) in list {
        let name = format!("request: {name}");
        let frame = open.recipe.message(0, &fixed(&name), &plaintext).json();
        open.case(cases.add(&name, code, frame), &[], &[1]);
    }
    cases.of
}

fn replays() -> Vec<NodeCase> {
    let mut cases = Cases::new("1.5");
    let replay = Code::ReplayDetected;
    for make in Make::ALL {
        let named = |what: &str| format!("replay, {}: {what}", make.name());
        let recipe = |what: &str| Recipe::new(make, &named(what));
        let name = "the same init again";
        cases.add(&named(name), replay, recipe(name).frame()).before = vec![recipe(name).frame()];

        let name = "the same init, unclaimed";
        let unclaimed = recipe(name).claiming(false).frame();
        cases.add(&named(name), replay, &*unclaimed).before = vec![unclaimed.clone()];

        let name = "the same payload under another session id";
        let elsewhere = recipe(name).frame_with(&recipe(name).payload()).set_text("session_id", "43").json();
        cases.add(&named(name), replay, elsewhere).before = vec![recipe(name).frame()];

        let name = "the ephemeral key uncompressed";
        let whole = hex(r::uncompressed(&r::point_of(&recipe(name).ephemeral)));
        let respelled = recipe(name).changed(|p| p.set_text("ephPubHex", &whole));
        cases.add(&named(name), replay, respelled).before = vec![recipe(name).frame()];

        let name = "the same init in upper case";
        let upper = recipe(name).changed(|p| {
            ["ephPubHex", "ciphertextHex", "nonceHex"]
                .iter()
                .fold(p, |p, field| p.map_text(field, |text| text.to_uppercase()))
        });
        cases.add(&named(name), replay, upper).before = vec![recipe(name).frame()];

        let name = "the same ephemeral key and nonce around other data";
        let other = recipe(name);
        let data = other.plain_data(true).set_text("modelName", "another").without("sessionKey").json();
        let other = other.with_data(data);
        cases.add(&named(name), replay, other.frame()).before = vec![recipe(name).frame()];
    }
    let name = "replay, guide-rust: the negative of the ephemeral key";
    let recipe = Recipe::new(Make::GuideRust, name);
    cases.add(name, replay, twin(&recipe)).before = vec![recipe.frame()];
    let name = "replay, guide-rust: the negative of the ephemeral key, the other way round";
    let recipe = Recipe::new(Make::GuideRust, name);
    cases.add(name, replay, recipe.frame()).before = vec![twin(&recipe)];
    let name = "replay, guide-rust: the negative of the ephemeral key and the nonce, around other data";
    let recipe = Recipe::new(Make::GuideRust, name);
    let other = recipe.clone().keyed(Some(fixed("other data"))).claiming(true);
    cases.add(name, replay, twin(&other)).before = vec![recipe.frame()];
    repeated_keys(&mut cases);
    cases.of
}

fn repeated_keys(cases: &mut Cases) {
    let key = Some(fixed("a key that is used twice"));
    let init = |name: &str, claim: bool| Recipe::new(Make::Deployed, name).keyed(key).claiming(claim);
    let name = "replay: the session key of an earlier init";
    let case = cases.add(name, Code::ReplayDetected, init("the second", true).frame());
    case.before = vec![init("the first", true).frame()];
    let name = "replay: the session key of an earlier init, both unclaimed";
    let case = cases.add(name, Code::ReplayDetected, init("the second", false).frame());
    case.before = vec![init("the first", false).frame()];
    // What somebody else claims is no business of the first owner's.
    let mut other = init("another owner", true);
    other.client = fixed("another client");
    let other = other.claiming(true).frame();
    let name = "replay: an earlier init, though another owner took its key too";
    let case = cases.add(name, Code::ReplayDetected, init("the first", true).frame());
    case.before = vec![init("the first", true).frame(), other];
    let name = "replay: the agreed key of an earlier init, chosen as session key";
    let earlier = Recipe::new(Make::GuideTypescript, "the earlier");
    let chosen = Recipe::new(Make::Deployed, "the later").keyed(Some(earlier.agreed_key())).claiming(true);
    cases.add(name, Code::ReplayDetected, chosen.frame()).before = vec![earlier.frame()];
}

fn times() -> Vec<NodeCase> {
    let mut cases = Cases::new("1.5");
    let stamped = |name: &str, at: u64| {
        let recipe = Recipe::new(Make::Deployed, name);
        let data = recipe.plain_data(true).with("timestamp", at.to_string()).json();
        recipe.with_data(data).frame()
    };
    let list = [
        ("a timestamp 301 seconds old", NOW - 301, None),
        ("a timestamp 301 seconds ahead", NOW + 301, None),
        ("a timestamp of 1970", 0, None),
        ("a timestamp in milliseconds", NOW * 1000, None),
        ("the largest timestamp", u64::MAX, None),
        ("a timestamp before the start, where one is required", NOW - 10, Some(NOW - 9)),
    ];
    for (name, at, since) in list {
        let name = format!("time: {name}");
        cases.add(&name, Code::ReplayDetected, stamped(&name, at)).require_timestamp_since = since;
    }
    let name = "time: no timestamp, where one is required";
    let frame = Recipe::new(Make::Deployed, name).frame();
    cases.add(name, Code::ReplayDetected, frame).require_timestamp_since = Some(NOW - 9);
    cases.of
}

fn client() -> Vec<ClientCase> {
    let (id, key) = ("42", fixed("a client's session"));
    let nonce = |label: &str| fixed::<24>(&format!("client|{label}"));
    let chunk = |index: u64| r::chunk(id, &key, index, &nonce(&format!("chunk {index}")), "x").json();
    let payload = |aad: &str| r::sealed(&key, aad, &nonce(aad), b"x");
    let sent_as = |aad: &str, sent: &str| payload(aad).set_text("aadHex", &hex(sent));
    let as_chunk = |payload: Object| r::chunk_with(id, &payload, 0).json();
    let as_response = |payload: Object| r::response_with(id, &payload).json();
    let end = r::response(id, &key, &nonce("final"), "stop").json();
    let refused = Code::DecryptionFailed;
    let cases: [(&str, Code, Vec<String>, String, Vec<String>); 23] = [
        ("the second chunk first", refused, vec![], chunk(1), vec![chunk(0), chunk(1)]),
        ("a chunk twice", refused, vec![chunk(0)], chunk(0), vec![chunk(1), end.clone()]),
        ("a chunk left out", refused, vec![chunk(0)], chunk(2), vec![chunk(1), chunk(2)]),
        ("chunk 1 sent as chunk 0", refused, vec![], as_chunk(sent_as("chunk_1", "chunk_0")), vec![chunk(0)]),
        (
            "chunk 0 sent as chunk 1",
            refused,
            vec![chunk(0)],
            as_chunk(sent_as("chunk_0", "chunk_1")),
            vec![chunk(1)],
        ),
        (
            "an aad that is not the one due",
            refused,
            vec![],
            as_chunk(sent_as("chunk_0", "chunk_00")),
            vec![chunk(0)],
        ),
        ("an empty aad", refused, vec![], as_chunk(sent_as("chunk_0", "")), vec![chunk(0)]),
        ("sealed as chunk_00", refused, vec![], as_chunk(payload("chunk_00")), vec![chunk(0)]),
        ("the end as a chunk", refused, vec![], as_chunk(payload("final")), vec![chunk(0)]),
        ("the end as chunk 0", refused, vec![], as_chunk(sent_as("final", "chunk_0")), vec![chunk(0)]),
        ("a chunk as the end", refused, vec![], as_response(payload("chunk_0")), vec![]),
        ("a chunk as the end, renamed", refused, vec![], as_response(sent_as("chunk_0", "final")), vec![]),
        (
            "the client's own message as a chunk",
            refused,
            vec![],
            as_chunk(payload("message_0")),
            vec![chunk(0)],
        ),
        (
            "the client's own message as chunk 0",
            refused,
            vec![],
            as_chunk(sent_as("message_0", "chunk_0")),
            vec![chunk(0)],
        ),
        (
            "another session's key",
            refused,
            vec![],
            r::chunk(id, &[9; 32], 0, &nonce("other"), "x").json(),
            vec![chunk(0)],
        ),
        (
            "a changed ciphertext",
            refused,
            vec![],
            as_chunk(payload("chunk_0").map_text("ciphertextHex", |t| flip_bit(&t, 3))),
            vec![chunk(0)],
        ),
        (
            "a changed end",
            refused,
            vec![],
            as_response(payload("final").map_text("ciphertextHex", |t| flip_bit(&t, 3))),
            vec![],
        ),
        (
            "a nonce of 12 bytes",
            Code::InvalidNonceSize,
            vec![],
            as_chunk(payload("chunk_0").set_text("nonceHex", &"00".repeat(12))),
            vec![chunk(0)],
        ),
        (
            "no hex",
            Code::InvalidHexEncoding,
            vec![],
            as_chunk(payload("chunk_0").set_text("aadHex", "x")),
            vec![chunk(0)],
        ),
        (
            "no ciphertext",
            Code::MissingPayloadFields,
            vec![],
            as_chunk(payload("chunk_0").without("ciphertextHex")),
            vec![chunk(0)],
        ),
        (
            "no payload",
            Code::MissingPayload,
            vec![],
            r#"{"type":"encrypted_chunk","session_id":"42"}"#.to_owned(),
            vec![chunk(0)],
        ),
        (
            "no session id",
            Code::MissingSessionId,
            vec![],
            r#"{"type":"encrypted_chunk","payload":{}}"#.to_owned(),
            vec![chunk(0)],
        ),
        ("an array", Code::MalformedFrame, vec![], "[]".to_owned(), vec![chunk(0)]),
    ];
    let make = |(name, code, before, frame, after)| ClientCase {
        name: format!("answer: {name}"),
        spec: "1.3".to_owned(),
        session_id: id.to_owned(),
        session_key: hex(key),
        before,
        frame,
        code,
        after,
    };
    cases.map(make).into()
}

pub(crate) fn run_node(case: &NodeCase) {
    let mut node = Node::new(case.node_private_key.parse().unwrap());
    node.require_timestamp_since = case.require_timestamp_since;
    for frame in &case.before {
        node.serve(frame, case.now).unwrap_or_else(|code| panic!("{}, before: {code:?}", case.name));
    }
    let refused = node.serve(&case.frame, case.now).map(|outcome| format!("{outcome:?}"));
    assert_eq!(refused, Err(case.code), "{}", case.name);
    for frame in &case.after {
        node.serve(frame, case.now).unwrap_or_else(|code| panic!("{}, after: {code:?}", case.name));
    }
}

pub(crate) fn run_client(case: &ClientCase) {
    let id = SessionId::try_from(case.session_id.as_str()).unwrap();
    let key = SessionKey::take(&mut unhex_array(&case.session_key)).unwrap();
    let session = ClientSession::with_key(id, key);
    let mut answer = Some(session.answer());
    for frame in &case.before {
        read_answer(&session, &mut answer, frame).unwrap_or_else(|code| panic!("{}: {code:?}", case.name));
    }
    assert_eq!(read_answer(&session, &mut answer, &case.frame), Err(case.code), "{}", case.name);
    for frame in &case.after {
        read_answer(&session, &mut answer, frame).unwrap_or_else(|code| panic!("{}: {code:?}", case.name));
    }
}

fn read_answer(session: &ClientSession, answer: &mut Option<AnswerOpener>, frame: &str) -> Result<(), Code> {
    match Reply::decode(frame).map_err(code)? {
        Reply::Chunk { payload, .. } => {
            session.open_chunk(answer.as_mut().unwrap(), &payload).map(drop).map_err(code)
        }
        Reply::Response { payload, .. } => {
            session.open_final(answer.take().unwrap(), &payload).map(drop).map_err(code)
        }
        other => panic!("{other:?} is no piece of an answer"),
    }
}
