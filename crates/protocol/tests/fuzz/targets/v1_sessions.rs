//! A session of version 1 as a list of operations: sealed, replayed, put in another order, changed, opened. Nothing
//! opens twice or out of order, and what opens is what was sealed.
//!
//! Answers of one session share a key and begin at chunk 0 each, so version 1 cannot tell one answer's chunk from the
//! same chunk of another (docs/protocol.md, 1.3): the model counts on no more than that.

use std::sync::LazyLock;

use fabstir_protocol::{
    id::SessionId,
    seal::SessionKey,
    v1::{
        AnswerOpener, AnswerSealer, ClientFrame, ClientSession, Dialect, Inbound, NodeFrame, Reply,
        SealedPayload, Session,
    },
};
use rand_chacha::ChaCha20Rng;

use super::{
    Bytes, bend,
    v1_frames::{NODE, init},
    v2_support::rng,
};

const MOST_OPERATIONS: usize = 64;

/// What the client sent or the node answered, and what is in it.
struct Sent {
    text: String,
    index: u64,
    plain: Vec<u8>,
}

/// Of every make, the init and the key of its session.
static INITS: LazyLock<Vec<(String, [u8; 32])>> = LazyLock::new(|| {
    let of = |dialect| {
        let (text, session) = init(dialect, true);
        (text, *session.expose_key())
    };
    Dialect::ALL.map(of).into()
});

struct Pair {
    client: ClientSession,
    node: Session,
    rng: ChaCha20Rng,
    messages: Vec<Sent>,
    /// The index that is due, and which messages were opened.
    next: u64,
    opened: Vec<u64>,
    chunks: Vec<Sent>,
    ends: Vec<Sent>,
    sealing: Option<(AnswerSealer, u64)>,
    reading: Option<(AnswerOpener, u64)>,
}

impl Pair {
    fn new(make: usize) -> Self {
        let (text, session_key) = &INITS[make];
        let Ok(Inbound { frame: ClientFrame::SessionInit(id, raw), .. }) = Inbound::decode(text) else {
            panic!("an init was expected")
        };
        let node = raw.read(id.clone()).unwrap().open(&NODE).unwrap().authenticate().unwrap().session;
        let client = ClientSession::with_key(id, SessionKey::take(&mut { *session_key }).unwrap());
        Self {
            client,
            node,
            rng: rng("operations"),
            messages: Vec::new(),
            next: 0,
            opened: Vec::new(),
            chunks: Vec::new(),
            ends: Vec::new(),
            sealing: None,
            reading: None,
        }
    }

    fn seal(&mut self, plain: &[u8]) {
        let text = self.client.message(plain, &mut self.rng).unwrap();
        let index = u64::try_from(self.messages.len()).unwrap();
        self.messages.push(Sent { text, index, plain: plain.to_vec() });
    }

    /// Delivers what may be a message, as it was or changed.
    fn deliver(&mut self, which: usize, text: &str) {
        let sent = &self.messages[which];
        let Some(payload) = message(text, self.client.id()) else {
            assert_ne!(text, sent.text, "a message that was sent can be read");
            return;
        };
        let due = sent.index >= self.next;
        match self.node.open(&payload) {
            Ok(plain) => {
                assert!(due, "message {} opens though {} is due", sent.index, self.next);
                assert!(!self.opened.contains(&sent.index), "message {} opens twice", sent.index);
                assert_eq!(plain.as_bytes(), sent.plain);
                self.opened.push(sent.index);
                self.next = sent.index + 1;
            }
            Err(_) => assert!(!due || text != sent.text, "message {} does not open", sent.index),
        }
    }

    fn chunk(&mut self, words: &str) {
        let (sealer, next) = self.sealing.get_or_insert_with(|| (self.node.answer(), 0));
        let (index, payload) = sealer.chunk(words, &mut self.rng).unwrap();
        assert_eq!(index, *next);
        *next += 1;
        let frame = NodeFrame::EncryptedChunk {
            session_id: "fuzz",
            tokens: 1,
            payload,
            index,
            last: false,
            id: None,
        };
        self.chunks.push(Sent { text: frame.encode(), index, plain: words.into() });
    }

    fn end(&mut self, reason: &str) {
        let (sealer, _) = self.sealing.take().unwrap_or_else(|| (self.node.answer(), 0));
        let payload = sealer.finish(reason, &mut self.rng).unwrap();
        let frame = NodeFrame::EncryptedResponse { session_id: "fuzz", payload, id: None };
        self.ends.push(Sent { text: frame.encode(), index: 0, plain: reason.into() });
    }

    fn read_chunk(&mut self, which: usize, text: &str) {
        let Some(sent) = self.chunks.get(which) else { return };
        let (opener, next) = self.reading.get_or_insert_with(|| (self.client.answer(), 0));
        let Some(payload) = reply(text) else { return };
        match self.client.open_chunk(opener, &payload) {
            Ok(plain) => {
                assert_eq!(sent.index, *next, "a chunk opens out of its order");
                assert_eq!(plain.as_bytes(), sent.plain);
                *next += 1;
            }
            Err(_) => assert!(text != sent.text || sent.index != *next, "a chunk that is due does not open"),
        }
    }

    fn read_end(&mut self, which: usize, text: &str) {
        let Some(sent) = self.ends.get(which) else { return };
        let Some(payload) = reply(text) else { return };
        let (opener, _) = self.reading.take().unwrap_or_else(|| (self.client.answer(), 0));
        match self.client.open_final(opener, &payload) {
            Ok(plain) => assert_eq!(plain.as_bytes(), sent.plain),
            Err(_) => assert_ne!(text, sent.text, "an end does not open"),
        }
    }

    /// What one side sealed does not open on that side, and not as anything else.
    fn reflect(&mut self, which: usize) {
        let (opener, _) = self.reading.get_or_insert_with(|| (self.client.answer(), 0));
        let text = |list: &[Sent]| list.get(which % list.len().max(1)).map(|sent| sent.text.clone());
        if let Some(payload) = text(&self.messages).and_then(|text| message(&text, self.client.id())) {
            assert!(self.client.open_chunk(opener, &payload).is_err());
            assert!(self.client.open_final(self.client.answer(), &payload).is_err());
        }
        if let Some(payload) = text(&self.chunks).and_then(|text| reply(&text)) {
            assert!(self.node.open(&payload).is_err());
            assert!(self.client.open_final(self.client.answer(), &payload).is_err());
        }
        if let Some(payload) = text(&self.ends).and_then(|text| reply(&text)) {
            assert!(self.node.open(&payload).is_err());
            assert!(self.client.open_chunk(opener, &payload).is_err());
        }
    }
}

/// The payload of a message for this session, if the text is one.
fn message(text: &str, ours: &SessionId) -> Option<SealedPayload> {
    match Inbound::decode(text).ok()?.frame {
        ClientFrame::Message(id, raw) if id == *ours => raw.read().ok(),
        _ => None,
    }
}

fn reply(text: &str) -> Option<SealedPayload> {
    match Reply::decode(text).ok()? {
        Reply::Chunk { payload, .. } | Reply::Response { payload, .. } => Some(payload),
        _ => None,
    }
}

/// A text changed as the bytes say, if it is one then.
fn bent(text: &str, bytes: &mut Bytes<'_>) -> Option<String> {
    let change = bytes.chunk();
    String::from_utf8(bend(text.as_bytes(), &[], &mut Bytes(change))).ok()
}

pub(crate) fn run(data: &[u8]) {
    let mut bytes = Bytes(data);
    let mut pair = Pair::new(usize::from(bytes.byte()) % INITS.len());
    for _ in 0..MOST_OPERATIONS {
        if !bytes.more() {
            break;
        }
        let operation = bytes.byte();
        let words = |bytes: &mut Bytes<'_>| String::from_utf8_lossy(bytes.chunk()).into_owned();
        match operation % 9 {
            0 => pair.seal(bytes.chunk()),
            1 => pair.chunk(&words(&mut bytes)),
            2 => pair.end(&words(&mut bytes)),
            3 | 4 if !pair.messages.is_empty() => {
                let which = bytes.below(pair.messages.len());
                let text = pair.messages[which].text.clone();
                let text = if operation % 9 == 3 { Some(text) } else { bent(&text, &mut bytes) };
                text.into_iter().for_each(|text| pair.deliver(which, &text));
            }
            5 | 6 if !pair.chunks.is_empty() => {
                let which = bytes.below(pair.chunks.len());
                let text = pair.chunks[which].text.clone();
                let text = if operation % 9 == 5 { Some(text) } else { bent(&text, &mut bytes) };
                text.into_iter().for_each(|text| pair.read_chunk(which, &text));
            }
            7 if !pair.ends.is_empty() => {
                let which = bytes.below(pair.ends.len());
                let text = bent(&pair.ends[which].text, &mut bytes);
                text.into_iter().for_each(|text| pair.read_end(which, &text));
            }
            8 => pair.reflect(bytes.byte().into()),
            _ => {}
        }
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let (seal, chunk, end) = ([0, 2, b'h', b'i'], [1, 1, b'w'], [2, 4, b's', b't', b'o', b'p']);
    let (deliver, bent, read, read_bent, last) =
        ([3, 0, 0], [4, 0, 0, 4, 0, 0, 90, 5], [5, 0, 0], [6, 0, 0, 4, 0, 0, 99, 1], [7, 0, 0, 0]);
    let parts: [&[u8]; 12] =
        [&seal, &deliver, &deliver, &bent, &seal, &[3, 0, 1], &chunk, &read, &chunk, &[5, 0, 1], &end, &last];
    let mut all = Vec::new();
    for make in 0..3 {
        all.push([&[make], parts.concat().as_slice()].concat());
        all.push(
            [&[make], [&chunk[..], &read_bent, &read, &[8, 0], &end, &last].concat().as_slice()].concat(),
        );
        all.push(
            [&[make], [&seal[..], &seal, &seal, &[3, 0, 2], &[3, 0, 0], &bent].concat().as_slice()].concat(),
        );
    }
    all
}
