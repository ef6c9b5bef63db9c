//! What this implementation makes of an input: `ok` and what came of it, or `no` and the protocol's reason.

use std::sync::Arc;

use fabstir_protocol::{
    ethereum::Address,
    identity::{PrivateKey, PublicKey},
    v2::{
        Advertisement, AdvertisementError, AwaitingM2, AwaitingM3, AwsLc, CertificateError, ClientIdentity,
        Direction, End, Fault, Flags, Goodbye, Hello, M1, Opener, R1, Record, RecordType, Resume, Sealer,
        Shape, Sid, SignedDelegation, Ticket, Welcome, decode, encode,
    },
};
use rand_core::UnwrapErr;
use serde_json::Value;

const TYPES: [(&str, RecordType); 8] = [
    ("request", RecordType::Request),
    ("text", RecordType::Text),
    ("event", RecordType::Event),
    ("error", RecordType::Error),
    ("welcome", RecordType::Welcome),
    ("cancel", RecordType::Cancel),
    ("ack", RecordType::Ack),
    ("goodbye", RecordType::Goodbye),
];

/// Handshakes take more than one question.
#[derive(Default)]
pub(crate) struct Judge {
    awaiting_m3: Option<AwaitingM3>,
    awaiting_m2: Option<AwaitingM2<AwsLc>>,
}

impl Judge {
    pub(crate) fn verdict(&mut self, question: &Value) -> String {
        match question["ask"].as_str() {
            Some("advertisement") => advertisement(question),
            Some("delegation") => delegation(question),
            Some("record") => record(question),
            Some("seal") => seal(question),
            Some("body") => body(question),
            Some("m1") => self.m1(question),
            Some("m3") => self.m3(question),
            Some("start") => self.start(question),
            Some("finish") => self.finish(question),
            Some("r1") => r1(question),
            other => panic!("nobody knows how to answer {other:?}"),
        }
    }

    fn m1(&mut self, question: &Value) -> String {
        let key = Arc::new(private_key(question, "channel_key"));
        let frame = bytes(question, "frame");
        let prologue = bytes(question, "prologue");
        let opened = M1::read(&frame).and_then(|m1| m1.open(&key, &prologue));
        match opened.and_then(|opened| opened.respond::<AwsLc>(&mut rng())) {
            Ok((m2, waiting)) => {
                self.awaiting_m3 = Some(waiting);
                format!("ok {}", hex(&m2))
            }
            Err(_) => "no".into(),
        }
    }

    fn m3(&mut self, question: &Value) -> String {
        let waiting = self.awaiting_m3.take().expect("an m1 before");
        let Ok(greeted) = waiting.finish(&bytes(question, "frame")) else { return "no handshake".into() };
        let Some(hello) = greeted.hello else { return "no hello".into() };
        let (node, now) = (address(question, "node"), number(question, "now"));
        let wallet = greeted.delegation.and_then(|signed| {
            signed.map(|signed| signed.verify(&greeted.static_key, node, now)).transpose()
        });
        match wallet {
            Err(error) => format!("no {}", certificate(error)),
            Ok(wallet) => {
                let mut channel = greeted.channel;
                let welcome = text(question, "welcome").as_bytes();
                let sealed = channel.sealer.seal(RecordType::Welcome, Flags::NONE, 0, 0, welcome).unwrap();
                let wallet = wallet.map_or_else(|| "anonymous".to_owned(), |wallet| wallet.to_string());
                format!("ok {} {wallet} {} {}", channel.sid, hex(&sealed), hello.client)
            }
        }
    }

    fn start(&mut self, question: &Value) -> String {
        let shown = Advertisement::read(text(question, "frame")).unwrap();
        let node = shown.verify(address(question, "pinned"), number(question, "now")).unwrap();
        let (m1, waiting) = AwaitingM2::<AwsLc>::start(&node, &mut rng()).unwrap();
        self.awaiting_m2 = Some(waiting);
        format!("ok {}", hex(&m1))
    }

    fn finish(&mut self, question: &Value) -> String {
        let waiting = self.awaiting_m2.take().expect("a start before");
        let identity = ClientIdentity {
            key: Arc::new(private_key(question, "client_key")),
            delegation: question["delegation"]
                .as_str()
                .map(|wire| SignedDelegation::try_from(const_hex::decode(wire).unwrap().as_slice()).unwrap()),
        };
        let hello = Hello { client: "oracle".into(), ticket: true, ..Hello::default() };
        match waiting.finish(&bytes(question, "frame"), &identity, &hello, &mut rng()) {
            Ok((m3, channel)) => format!("ok {} {}", hex(&m3), channel.sid),
            Err(_) => "no".into(),
        }
    }
}

fn advertisement(question: &Value) -> String {
    let shown = Advertisement::read(text(question, "frame"));
    let verified = shown.and_then(|shown| shown.verify(address(question, "pinned"), number(question, "now")));
    match verified {
        Ok(node) => {
            format!("ok {} {} {}", hex(&node.channel_key().to_bytes()), node.min_version, node.not_after)
        }
        Err(AdvertisementError::Malformed) => "no malformed".into(),
        Err(AdvertisementError::NoVersion2) => "no no_version_2".into(),
        Err(AdvertisementError::OtherIdentity(shown)) => format!("no other_identity {shown}"),
        Err(AdvertisementError::Moved(shown)) => format!("no moved {shown}"),
        Err(AdvertisementError::Certificate(error)) => format!("no certificate_{}", certificate(error)),
    }
}

fn delegation(question: &Value) -> String {
    let delegate = PublicKey::try_from(bytes(question, "delegate").as_slice()).unwrap();
    let (node, now) = (address(question, "node"), number(question, "now"));
    let signed = SignedDelegation::try_from(bytes(question, "wire").as_slice());
    match signed.and_then(|signed| signed.verify(&delegate, node, now)) {
        Ok(wallet) => format!("ok {wallet}"),
        Err(error) => format!("no {}", certificate(error)),
    }
}

fn certificate(error: CertificateError) -> &'static str {
    match error {
        CertificateError::Malformed => "malformed",
        CertificateError::Signature => "signature",
        CertificateError::Time => "time",
        CertificateError::TooLong => "too_long",
        CertificateError::OtherKey => "other_key",
        CertificateError::OtherNode => "other_node",
        CertificateError::Version => "version",
    }
}

fn lane(question: &Value) -> ([u8; 32], u64, Sid, Direction) {
    let direction = if question["direction"] == "to_node" { Direction::ToNode } else { Direction::ToClient };
    let counter = text(question, "counter").parse().unwrap();
    (array(question, "key"), counter, serde_sid(question), direction)
}

fn record(question: &Value) -> String {
    let (key, counter, sid, direction) = lane(question);
    match Opener::at(&key, counter, sid, direction).open(&bytes(question, "frame")) {
        Ok(Record { kind, flags, request, index, body }) => {
            let name = TYPES.iter().find(|(_, known)| *known == kind).unwrap().0;
            format!("ok {name} {} {} {request} {index} {}", flags.last, flags.more, hex(&body))
        }
        Err(_) => "no".into(),
    }
}

fn seal(question: &Value) -> String {
    let (key, counter, sid, direction) = lane(question);
    let mut sealer = Sealer::at(&key, counter, sid, direction);
    sealer.set_shape(if question["shape"] == "off" { Shape::Off } else { Shape::Bucket });
    let kind = TYPES.iter().find(|(name, _)| *name == text(question, "type")).unwrap().1;
    let flags = Flags { last: question["last"] == true, more: question["more"] == true };
    let number = |name| u32::try_from(number(question, name)).unwrap();
    match sealer.seal(kind, flags, number("request"), number("index"), &bytes(question, "body")) {
        Ok(frame) => format!("ok {}", hex(&frame)),
        Err(_) => "no".into(),
    }
}

fn body(question: &Value) -> String {
    fn judged<T: for<'a> serde::Deserialize<'a> + serde::Serialize>(json: &[u8]) -> String {
        decode::<T>(json)
            .map_or_else(|_| "no".into(), |read| format!("ok {}", String::from_utf8_lossy(&encode(&read))))
    }
    let json = bytes(question, "json");
    match text(question, "form") {
        "hello" => judged::<Hello>(&json),
        "resume" => judged::<Resume>(&json),
        "welcome" => judged::<Welcome>(&json),
        "end" => judged::<End>(&json),
        "fault" => judged::<Fault>(&json),
        "goodbye" => judged::<Goodbye>(&json),
        other => panic!("no form {other}"),
    }
}

fn r1(question: &Value) -> String {
    let ticket = Ticket::of(array(question, "ticket"), &array(question, "secret"));
    let frame = bytes(question, "frame");
    let opened = R1::read(&frame).and_then(|r1| {
        if r1.ticket == ticket.id() { r1.open(&ticket) } else { Err(fabstir_protocol::v2::HandshakeError) }
    });
    let Ok(opened) = opened else { return "no".into() };
    let Some(resume) = &opened.resume else { return "no".into() };
    let resume = String::from_utf8_lossy(&encode(resume)).into_owned();
    let welcome: Welcome = decode(text(question, "welcome").as_bytes()).unwrap();
    let (r2, channel) = opened.respond(&welcome, &mut rng()).unwrap();
    format!("ok {} {} {resume}", channel.sid, hex(&r2))
}

pub(crate) fn rng() -> UnwrapErr<getrandom::SysRng> {
    UnwrapErr(getrandom::SysRng)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    const_hex::encode(bytes)
}

fn text<'a>(question: &'a Value, name: &str) -> &'a str {
    question[name].as_str().unwrap_or_else(|| panic!("{name} is missing"))
}

fn number(question: &Value, name: &str) -> u64 {
    question[name].as_u64().unwrap_or_else(|| panic!("{name} is missing"))
}

fn bytes(question: &Value, name: &str) -> Vec<u8> {
    const_hex::decode(text(question, name)).unwrap()
}

fn array<const N: usize>(question: &Value, name: &str) -> [u8; N] {
    bytes(question, name).try_into().unwrap()
}

fn address(question: &Value, name: &str) -> Address {
    text(question, name).parse().unwrap()
}

fn private_key(question: &Value, name: &str) -> PrivateKey {
    text(question, name).parse().unwrap()
}

fn serde_sid(question: &Value) -> Sid {
    Sid::from(array::<{ Sid::LEN }>(question, "sid"))
}
