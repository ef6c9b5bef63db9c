//! Sealed records: every type, padding, counters, and the keys that follow each other.

use fabstir_protocol::{
    v1::Usage,
    v2::{
        Ack, Cancel, Direction, End, Fault, Flags, Goodbye, Opener, Received, RecordType, Sealer, Shape, Sid,
        Welcome, encode,
    },
};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{
    cases::{FrameCase, PlaceCase, RecordCase, Records, RunCase, StepCase},
    number,
};
use crate::{
    support::{hex, unhex_array},
    v2_support::{draw, reference as r, rng},
};

/// Frames above this are given as their hash.
const SHORT: usize = 1200;

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

fn place_of(name: &str) -> usize {
    TYPES.iter().position(|(known, _)| *known == name).unwrap()
}

/// The byte on the wire.
pub(crate) fn byte_of(name: &str) -> u8 {
    u8::try_from(place_of(name)).unwrap() + 1
}

pub(crate) fn type_of(name: &str) -> RecordType {
    TYPES[place_of(name)].1
}

pub(crate) fn shape_of(name: &str) -> Shape {
    match name {
        "off" => Shape::Off,
        _ => Shape::Bucket,
    }
}

impl RecordCase {
    pub(crate) fn new(kind: &str, request: u32, index: u32, body: impl Into<String>) -> Self {
        Self {
            r#type: kind.to_owned(),
            last: false,
            more: false,
            request,
            index,
            body: body.into(),
            body_times: 1,
        }
    }

    pub(crate) fn json(kind: &str, request: u32, index: u32, body: &impl Serialize) -> Self {
        Self::new(kind, request, index, String::from_utf8(encode(body).to_vec()).unwrap())
    }

    pub(crate) fn last(self) -> Self {
        Self { last: true, ..self }
    }

    pub(crate) fn more(self) -> Self {
        Self { more: true, ..self }
    }

    pub(crate) fn times(self, body_times: usize) -> Self {
        Self { body_times, ..self }
    }

    pub(crate) fn body(&self) -> Vec<u8> {
        self.body.repeat(self.body_times).into_bytes()
    }

    pub(crate) fn flags(&self) -> Flags {
        Flags { last: self.last, more: self.more }
    }

    fn plaintext(&self, shape: &str) -> Vec<u8> {
        let flags = u8::from(self.last) | (u8::from(self.more) << 1);
        let bytes = r::record(byte_of(&self.r#type), flags, self.request, self.index, &self.body());
        let length = if shape == "off" { bytes.len() } else { r::bucket(bytes.len()) };
        r::to_length(bytes, length)
    }
}

impl PlaceCase {
    /// A place whose key and sid hang on a name.
    pub(crate) fn new(direction: &str, name: &str, counter: u64) -> Self {
        let rng = &mut rng(&format!("records|{name}"));
        Self {
            direction: direction.to_owned(),
            sid: hex(draw::<16>(rng)),
            key: hex(draw::<32>(rng)),
            counter: counter.to_string(),
        }
    }

    pub(crate) fn aad(&self) -> Vec<u8> {
        r::aad(&unhex_array(&self.sid), u8::from(self.direction == "to_client"))
    }

    fn parts(&self) -> ([u8; 32], u64, Sid, Direction) {
        let direction = if self.direction == "to_client" { Direction::ToClient } else { Direction::ToNode };
        let sid = Sid::from(unhex_array::<16>(&self.sid));
        (unhex_array(&self.key), number(&self.counter), sid, direction)
    }

    pub(crate) fn sealer(&self) -> Sealer {
        let (key, n, sid, direction) = self.parts();
        Sealer::at(&key, n, sid, direction)
    }

    pub(crate) fn opener(&self) -> Opener {
        let (key, n, sid, direction) = self.parts();
        Opener::at(&key, n, sid, direction)
    }
}

fn short(bytes: &[u8]) -> Option<String> {
    (bytes.len() <= SHORT).then(|| hex(bytes))
}

fn sha256(bytes: &[u8]) -> String {
    hex(Sha256::digest(bytes))
}

fn frame(name: &str, direction: &str, shape: &str, counter: u64, record: RecordCase) -> FrameCase {
    let place = PlaceCase::new(direction, name, counter);
    let plaintext = record.plaintext(shape);
    let aad = place.aad();
    let key = unhex_array(&place.key);
    let frame = r::seal_record(&key, counter, &aad, &plaintext);
    FrameCase {
        name: name.to_owned(),
        key_after: hex(if record.last { r::rekey(&key) } else { key }),
        place,
        shape: shape.to_owned(),
        record,
        aad: hex(aad),
        plaintext_length: plaintext.len(),
        plaintext: short(&plaintext),
        frame: short(&frame),
        frame_sha256: sha256(&frame),
    }
}

const QUESTION: &str =
    r#"{"op":"chat","body":{"model":"a-model","messages":[{"role":"user","content":"Grüße, 世界"}]}}"#;

fn usage() -> Usage {
    Usage {
        prompt_tokens: 12,
        completion_tokens: 34,
        total_tokens: 46,
        context_window_size: 8192,
        model_sha256: Some(hex([0x5a; 32])),
        ..Usage::default()
    }
}

/// A record of every type, as a session has it.
fn of_every_type() -> Vec<(&'static str, &'static str, RecordCase)> {
    let end = End { finish_reason: "stop".to_owned(), usage: usage(), dropped_messages: 0 };
    let fault =
        Fault { code: "MODEL_NOT_FOUND".to_owned(), message: "no such model".to_owned(), ..Fault::default() };
    let received = vec![Received(1, 34), Received(2, 0)];
    let delta = r#"{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"city\":"}}]}}"#;
    vec![
        ("a request", "to_node", RecordCase::new("request", 1, 0, QUESTION).last()),
        ("a request that goes on", "to_node", RecordCase::new("request", 2, 0, &QUESTION[..40])),
        ("words", "to_client", RecordCase::new("text", 1, 0, "Hello")),
        ("words that are not ASCII", "to_client", RecordCase::new("text", 1, 1, "Grüße, 世界 🦀")),
        ("an event", "to_client", RecordCase::new("event", 1, 2, delta)),
        ("half an event", "to_client", RecordCase::new("event", 1, 3, &delta[..30]).more()),
        ("the other half", "to_client", RecordCase::new("event", 1, 4, &delta[30..])),
        ("the end of an answer", "to_client", RecordCase::json("event", 1, 5, &end).last()),
        ("an error of a request", "to_client", RecordCase::json("error", 2, 0, &fault).last()),
        ("an error of the connection", "to_client", RecordCase::json("error", 0, 1, &fault)),
        ("an error that ends the connection", "to_client", RecordCase::json("error", 0, 2, &fault).last()),
        (
            "a welcome",
            "to_client",
            RecordCase::json("welcome", 0, 0, &Welcome { ticket: true, ..Welcome::default() }),
        ),
        ("a cancel", "to_node", RecordCase::json("cancel", 0, 0, &Cancel { request: 2 })),
        ("an ack", "to_node", RecordCase::json("ack", 0, 1, &Ack { received })),
        (
            "the client's goodbye",
            "to_node",
            RecordCase::json("goodbye", 0, 2, &Goodbye { reason: "done".to_owned() }).last(),
        ),
        ("the node's goodbye", "to_client", RecordCase::json("goodbye", 0, 3, &Goodbye::default()).last()),
        ("the largest numbers", "to_client", RecordCase::new("text", u32::MAX, u32::MAX, "")),
    ]
}

fn frames() -> Vec<FrameCase> {
    let mut frames = Vec::new();
    for (counter, (name, direction, record)) in (0..).zip(of_every_type()) {
        frames.push(frame(name, direction, "bucket", counter, record.clone()));
        frames.push(frame(&format!("{name}, unpadded"), direction, "off", counter, record));
    }
    // A header is 12 bytes: the last body of each bucket, and the first of the next.
    for length in [0, 20, 21, 52, 53, 116, 117, 1012, 1013, 32_756, 32_757, 49_140] {
        let record = RecordCase::new("text", 1, 0, "x").times(length);
        frames.push(frame(&format!("a body of {length} bytes"), "to_client", "bucket", 0, record));
    }
    // Where numbers of 32, 53 and 64 bits end. 2^64-1 is never used.
    let edges = [8, 16, 32, 53, 63].map(|power| 1_u64 << power);
    let edges =
        edges.into_iter().flat_map(|edge| [edge - 1, edge, edge + 1]).chain([u64::MAX - 2, u64::MAX - 1]);
    for counter in edges {
        let record = RecordCase::new("text", 1, 7, "word");
        frames.push(frame(&format!("counter {counter}"), "to_client", "bucket", counter, record));
    }
    frames
}

/// What a run does, in the words of the specification.
struct Run {
    case: RunCase,
    key: [u8; 32],
    counter: u64,
    records: u64,
    bytes: u64,
}

impl Run {
    fn new(name: &str, direction: &str, counter: u64) -> Self {
        let place = PlaceCase::new(direction, name, counter);
        let key = unhex_array(&place.key);
        let case = RunCase { name: name.to_owned(), place, steps: Vec::new() };
        Self { case, key, counter, records: 0, bytes: 0 }
    }

    fn step(mut self, times: u32, shape: &str, record: RecordCase) -> Self {
        let mut last = Vec::new();
        for index in 0..times {
            let next = RecordCase { index: record.index + index, ..record.clone() };
            last = r::seal_record(&self.key, self.counter, &self.case.place.aad(), &next.plaintext(shape));
            self.counter += 1;
            self.records += 1;
            self.bytes += u64::try_from(last.len() - 2).unwrap();
            if record.last || self.records == 1000 || self.bytes >= 16 * 1024 * 1024 {
                self.key = r::rekey(&self.key);
                (self.records, self.bytes) = (0, 0);
            }
        }
        self.case.steps.push(StepCase {
            times,
            shape: shape.to_owned(),
            record,
            last_frame: short(&last),
            last_frame_sha256: sha256(&last),
            key_after: hex(self.key),
            counter_after: self.counter.to_string(),
        });
        self
    }
}

fn runs() -> Vec<RunCase> {
    let word = |index| RecordCase::new("text", 1, index, "w");
    let end = |index| RecordCase::new("event", 1, index, r#"{"finish_reason":"stop"}"#).last();
    let large = |index| RecordCase::new("text", 1, index, "x").times(49_140);
    let exact = |index, length| RecordCase::new("text", 1, index, "x").times(length);
    let runs = [
        Run::new("an end replaces the key, and each end again", "to_client", 0)
            .step(2, "bucket", word(0))
            .step(1, "bucket", end(2))
            .step(1, "bucket", RecordCase::new("text", 2, 0, "w"))
            .step(1, "bucket", RecordCase::new("error", 2, 1, r#"{"code":"BUSY","message":""}"#).last())
            .step(1, "off", RecordCase::new("text", 3, 0, "w")),
        Run::new("the end of a request replaces the client's key", "to_node", 0)
            .step(3, "bucket", RecordCase::new("request", 1, 0, "x"))
            .step(1, "bucket", RecordCase::new("request", 1, 3, "x").last())
            .step(1, "bucket", RecordCase::new("cancel", 0, 0, r#"{"request":1}"#)),
        Run::new("a thousand records replace the key", "to_client", 0)
            .step(999, "bucket", word(0))
            .step(1, "bucket", word(999))
            .step(1, "bucket", word(1000))
            .step(998, "bucket", word(1001))
            .step(1, "bucket", word(1999))
            .step(1, "bucket", word(2000)),
        Run::new("the thousandth is an end: one new key, not two", "to_client", 0)
            .step(999, "bucket", word(0))
            .step(1, "bucket", end(999))
            .step(1, "bucket", RecordCase::new("text", 2, 0, "w")),
        Run::new("after an end the count begins again", "to_client", 0)
            .step(500, "bucket", word(0))
            .step(1, "bucket", end(500))
            .step(999, "bucket", RecordCase::new("text", 2, 0, "w"))
            .step(1, "bucket", RecordCase::new("text", 2, 999, "w"))
            .step(1, "bucket", RecordCase::new("text", 2, 1000, "w")),
        // A large record is 49168 bytes of ciphertext and tag: 341 of them leave 10928 of 16 MiB.
        Run::new("16 MiB replace the key, to the byte", "to_client", 0)
            .step(341, "bucket", large(0))
            .step(1, "off", exact(341, 10_928 - 16 - 12))
            .step(1, "bucket", word(342)),
        Run::new("a byte less than 16 MiB does not", "to_client", 0)
            .step(341, "bucket", large(0))
            .step(1, "off", exact(341, 10_928 - 16 - 12 - 1))
            .step(1, "bucket", word(342))
            .step(1, "bucket", word(343)),
        Run::new("a new key at the last counters", "to_client", u64::MAX - 3)
            .step(1, "bucket", end(0))
            .step(1, "bucket", RecordCase::new("text", 2, 0, "w"))
            .step(1, "bucket", RecordCase::new("text", 2, 1, "w")),
    ];
    runs.map(|run| run.case).into()
}

pub(crate) fn make() -> Records {
    let about = [
        "Records of version 2 of the protocol (docs/protocol.md, part 2). Bytes are lower-case hex; numbers of 64 bits are \
decimal text; a body is text in UTF-8, `body` written `body_times` times over.",
        "frames: under `key`, at `counter`, in `direction` (to_node or to_client) of the handshake `sid`, padded to the \
buckets or not (`shape`), the record seals to `frame`, and opens to itself. What is long is null: then the SHA-256 of \
the frame has to do. key_after: the key of the next record.",
        "runs: the same, over many records. A step seals its record `times` times, each with the next index and the next \
counter; last_frame is the last of them. Keys are replaced inside of steps and between them: after a record that is \
last, after a thousand records, after 16 MiB of ciphertext and tags, once where two of these meet; the counter goes on.",
        "reserved_counter: nothing is sealed under it and nothing opens.",
    ];
    Records {
        about: about.map(str::to_owned).to_vec(),
        frames: frames(),
        runs: runs(),
        reserved_counter: u64::MAX.to_string(),
    }
}

/// Seals and opens one record, and gives the frame.
fn both_ways(sealer: &mut Sealer, opener: &mut Opener, shape: &str, record: &RecordCase) -> Vec<u8> {
    sealer.set_shape(shape_of(shape));
    let (kind, body) = (type_of(&record.r#type), record.body());
    let frame = sealer.seal(kind, record.flags(), record.request, record.index, &body).unwrap();
    let opened = opener.open(&frame).unwrap();
    assert_eq!((opened.kind, opened.flags), (kind, record.flags()));
    assert_eq!((opened.request, opened.index, &*opened.body), (record.request, record.index, &body));
    frame
}

pub(crate) fn run_frame(case: &FrameCase) {
    let (mut sealer, mut opener) = (case.place.sealer(), case.place.opener());
    let frame = both_ways(&mut sealer, &mut opener, &case.shape, &case.record);
    assert_eq!(
        (short(&frame), sha256(&frame)),
        (case.frame.clone(), case.frame_sha256.clone()),
        "{}",
        case.name
    );
    assert_eq!(frame.len(), 2 + case.plaintext_length + 16, "{}", case.name);
    let shown = case.plaintext.as_ref();
    assert!(shown.is_none_or(|plaintext| plaintext.len() == 2 * case.plaintext_length), "{}", case.name);
    assert_eq!(hex(sealer.expose_key()), case.key_after, "{}", case.name);
    assert_eq!(hex(opener.expose_key().unwrap()), case.key_after, "{}", case.name);
}

pub(crate) fn run_run(case: &RunCase) {
    let (mut sealer, mut opener) = (case.place.sealer(), case.place.opener());
    for (place, step) in case.steps.iter().enumerate() {
        let mut last = Vec::new();
        for index in 0..step.times {
            let record = RecordCase { index: step.record.index + index, ..step.record.clone() };
            last = both_ways(&mut sealer, &mut opener, &step.shape, &record);
        }
        let name = format!("{}, step {place}", case.name);
        assert_eq!(
            (short(&last), sha256(&last)),
            (step.last_frame.clone(), step.last_frame_sha256.clone()),
            "{name}"
        );
        assert_eq!(hex(sealer.expose_key()), step.key_after, "{name}");
        assert_eq!(hex(opener.expose_key().unwrap()), step.key_after, "{name}");
        assert_eq!(sealer.counter().to_string(), step.counter_after, "{name}");
    }
}
