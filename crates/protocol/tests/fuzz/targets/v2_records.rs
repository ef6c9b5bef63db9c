//! Both directions of a channel as a list of operations: records sealed, delivered, changed, replayed, reflected, over
//! many changes of key and both shapes; what opens goes to the state machines of both ends. Held to the naive model.

use fabstir_protocol::v2::{
    Answers, Direction, Flags, MAX_BODY, Opener, RecordType, Requests, Sealer, Shape, Sid,
};

use super::{
    Bytes, bend,
    model::{KINDS, Keys, Led, ModelAnswers, ModelRequests, Parts},
    v2_support::reference as r,
};

const MOST_OPERATIONS: usize = 200;
const SID: [u8; 16] = [5; 16];
const MAX_REQUEST: usize = 300;
/// Bytes that one run may seal in all, so that it ends soon.
const MOST_SEALED: usize = 20 << 20;

/// One direction: its two ends, the key as it has to be, and what is on its way.
struct Way {
    direction: Direction,
    sealer: Sealer,
    opener: Opener,
    sealed_under: Keys,
    sent: Vec<(Vec<u8>, Parts)>,
    delivered: usize,
    generation: u8,
}

impl Way {
    fn new(direction: Direction, generation: u8, n: u64) -> Self {
        let key = [if direction == Direction::ToNode { generation } else { !generation }; 32];
        let sid = Sid::from(SID);
        Self {
            direction,
            sealer: Sealer::at(&key, n, sid, direction),
            opener: Opener::at(&key, n, sid, direction),
            sealed_under: Keys::new(key),
            sent: Vec::new(),
            delivered: 0,
            generation,
        }
    }

    /// A new channel, after something did not open: from then on nothing does.
    fn renew(&mut self) {
        assert!(self.opener.expose_key().is_none(), "the key is gone");
        if let Some((frame, _)) = self.sent.get(self.delivered) {
            assert!(self.opener.open(frame).is_err(), "nothing opens any more");
        }
        *self = Self::new(self.direction, self.generation.wrapping_add(1), 0);
    }

    fn seal(&mut self, parts: Parts) -> usize {
        let Parts { kind, flags, request, index, ref body } = parts;
        let counter = self.sealer.counter();
        let Ok(frame) = self.sealer.seal(kind, flags, request, index, body) else {
            assert!(counter == u64::MAX || body.len() > MAX_BODY, "a record is not sealed");
            return 0;
        };
        assert!(counter < u64::MAX && body.len() <= MAX_BODY);
        self.sealed_under.count(&frame, flags.last);
        assert_eq!(self.sealer.expose_key(), &self.sealed_under.key);
        assert_eq!(self.sealer.counter(), counter + 1);
        let length = frame.len();
        self.sent.push((frame, parts));
        length
    }

    /// The next record, as it was sent. `None` where nothing is on its way, or it may not be.
    fn deliver(&mut self) -> Option<Parts> {
        let (frame, parts) = self.sent.get(self.delivered)?;
        let allowed = parts.is_allowed(self.direction);
        match self.opener.open(frame) {
            Ok(record) => {
                assert!(allowed, "{parts:?} opens");
                assert_eq!(Parts::of(&record), *parts);
                self.delivered += 1;
                if self.delivered == self.sent.len() {
                    assert_eq!(self.opener.expose_key(), Some(self.sealer.expose_key()));
                }
                Some(parts.clone())
            }
            Err(_) => {
                assert!(!allowed, "{parts:?} does not open");
                self.renew();
                None
            }
        }
    }

    /// What is not the next record, as it was sent.
    fn refuse(&mut self, frame: &[u8]) {
        if self.sent.get(self.delivered).is_none_or(|(next, _)| next != frame) {
            assert!(self.opener.open(frame).is_err());
            self.renew();
        }
    }
}

struct Channel {
    to_node: Way,
    to_client: Way,
    node: Option<(Requests, ModelRequests)>,
    client: Option<(Answers, ModelAnswers)>,
    sealed: usize,
}

impl Channel {
    fn new(n: u64) -> Self {
        Self {
            to_node: Way::new(Direction::ToNode, 1, n),
            to_client: Way::new(Direction::ToClient, 1, n),
            node: None,
            client: None,
            sealed: 0,
        }
    }

    fn way(&mut self, to_node: bool) -> &mut Way {
        if to_node { &mut self.to_node } else { &mut self.to_client }
    }

    fn seal(&mut self, to_node: bool, parts: Parts) {
        if self.sealed < MOST_SEALED {
            self.sealed += self.way(to_node).seal(parts);
        }
    }

    fn deliver(&mut self, to_node: bool) {
        if let Some(parts) = self.way(to_node).deliver() {
            if to_node { self.at_node(&parts) } else { self.at_client(&parts) }
        }
    }

    fn at_node(&mut self, parts: &Parts) {
        let (real, model) =
            self.node.get_or_insert_with(|| (Requests::new(MAX_REQUEST), ModelRequests::new(MAX_REQUEST)));
        let (real, model) = (real.take(parts.record()).ok().map(Led::from), model.take(parts));
        assert_eq!(real, model, "{parts:?}");
        if real.is_none() {
            self.node = None;
        }
    }

    fn at_client(&mut self, parts: &Parts) {
        let (real, model) = self.client.get_or_insert_with(welcomed);
        let led = real.take(parts.record()).ok().map(Led::from);
        assert_eq!(led, model.take(parts), "{parts:?}");
        if led.is_none() {
            self.client = None;
            return;
        }
        assert_eq!(real.unfinished(), model.unfinished());
        assert_eq!(real.received(), model.received());
    }

    fn resume(&mut self, bytes: &mut Bytes<'_>) {
        let known: Vec<u32> = bytes.chunk().iter().map(|id| u32::from(*id % 16)).collect();
        if let Some((real, model)) = &mut self.node {
            real.resume(known.iter().copied());
            model.resume(&known);
        }
        if let Some((real, model)) = &mut self.client {
            real.reconnect();
            model.reconnect();
            // By a ticket, where r2 takes the welcome's place; else by a new handshake.
            if known.len().is_multiple_of(2) {
                real.set_welcomed();
                model.set_welcomed();
            }
            let (again, lost) = model.after_a_resumption(&known);
            assert_eq!((real.unknown_to(&known), real.lost_to(&known)), (again, lost));
        }
    }

    fn expect(&mut self, request: u32) {
        let (real, model) = self.client.get_or_insert_with(welcomed);
        real.expect(request);
        model.expect(request);
        if let Some(ack) = real.due_ack() {
            assert_eq!(ack.received, model.received());
        }
    }
}

fn welcomed() -> (Answers, ModelAnswers) {
    let mut both = (Answers::default(), ModelAnswers::default());
    both.0.set_welcomed();
    both.1.set_welcomed();
    both
}

/// A record of the fuzzer's: mostly of small numbers, so that records meet.
fn record(bytes: &mut Bytes<'_>) -> Parts {
    let [kind, form, request, index] = bytes.array();
    let wide = form & 16 != 0;
    let body = match form >> 5 {
        0 => br#"{"request":3,"received":[[1,2]],"reason":"r","code":"c","message":"m"}"#.to_vec(),
        1 => br#"{"finish_reason":"stop","usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3,"context_window_size":4}}"#.to_vec(),
        2 => br#"{"node":"n","shape":"off","ticket":true,"limits":{"max_request_bytes":1,"max_requests":1,"grace_seconds":1,"keep_seconds":1,"ticket_seconds":1},"models":[]}"#.to_vec(),
        3 => vec![b'x'; bytes.u16().into()],
        _ => bytes.chunk().to_vec(),
    };
    Parts {
        kind: KINDS[usize::from(kind % 8)],
        flags: Flags { last: form & 1 != 0, more: form & 2 != 0 },
        request: if wide { bytes.u32() } else { (request % 16).into() },
        index: if wide { bytes.u32() } else { (index % 16).into() },
        body,
    }
}

/// Any plaintext under the right key: read as the model reads it.
fn plaintext(to_node: bool, bytes: &mut Bytes<'_>) {
    let (direction, byte) = if to_node { (Direction::ToNode, 0) } else { (Direction::ToClient, 1) };
    let real = bytes.byte() & 1 == 0;
    let plain = if real { bend(&record(bytes).plaintext(), &[], bytes) } else { bytes.chunk().to_vec() };
    let frame = r::seal_record(&[7; 32], 0, &r::aad(&SID, byte), &plain);
    let opened = Opener::at(&[7; 32], 0, Sid::from(SID), direction).open(&frame);
    assert_eq!(opened.ok().as_ref().map(Parts::of), Parts::read(&plain, direction));
}

pub(crate) fn run(data: &[u8]) {
    let mut bytes = Bytes(data);
    let near_the_end = bytes.byte();
    let n = if near_the_end & 1 == 0 { 0 } else { u64::MAX - u64::from(near_the_end >> 1) };
    let mut channel = Channel::new(n);
    for _ in 0..MOST_OPERATIONS {
        if !bytes.more() {
            break;
        }
        let operation = bytes.byte();
        let to_node = operation & 128 != 0;
        step(&mut channel, operation % 16, to_node, &mut bytes);
    }
    while channel.to_node.delivered < channel.to_node.sent.len() {
        channel.deliver(true);
    }
    while channel.to_client.delivered < channel.to_client.sent.len() {
        channel.deliver(false);
    }
}

fn step(channel: &mut Channel, operation: u8, to_node: bool, bytes: &mut Bytes<'_>) {
    match operation {
        0..=2 => channel.seal(to_node, record(bytes)),
        3..=4 => channel.deliver(to_node),
        5 => {
            let way = channel.way(to_node);
            if let Some((next, _)) = way.sent.get(way.delivered) {
                let bent = bend(next, &[], &mut Bytes(bytes.chunk()));
                way.refuse(&bent);
            }
        }
        6 => {
            let way = channel.way(to_node);
            let which = bytes.below(way.sent.len());
            if let Some(frame) = way.sent.get(which).map(|(frame, _)| frame.clone()) {
                way.refuse(&frame);
            }
        }
        7 => {
            let way = channel.way(to_node);
            if let Some(frame) = way.sent.get(way.delivered).map(|(frame, _)| frame.clone()) {
                channel.way(!to_node).refuse(&frame);
            }
        }
        8 => channel.way(to_node).sealer.set_shape(if bytes.byte() & 1 == 0 {
            Shape::Bucket
        } else {
            Shape::Off
        }),
        9 => burst(channel, to_node, bytes),
        10 => plaintext(to_node, bytes),
        11 => channel.expect((bytes.byte() % 16).into()),
        12 => channel.resume(bytes),
        // What no channel lets through is not for the state machines to judge.
        13 | 14 => {
            let parts = record(bytes);
            if operation == 13 && parts.is_allowed(Direction::ToNode) {
                channel.at_node(&parts);
            } else if operation == 14 && parts.is_allowed(Direction::ToClient) {
                channel.at_client(&parts);
            }
        }
        _ => {}
    }
}

/// Many records at once, towards the thousandth or the sixteenth MiB; the last one may be an end.
fn burst(channel: &mut Channel, to_node: bool, bytes: &mut Bytes<'_>) {
    let [how, high, low] = bytes.array();
    let (length, most) = if how & 1 == 0 { (0, 1024) } else { (MAX_BODY, 64) };
    let kind = if to_node { RecordType::Request } else { RecordType::Event };
    let count = usize::from(u16::from_be_bytes([high, low])) % most;
    for at in 0..count {
        let last = how & 2 != 0 && at + 1 == count;
        let flags = if last { Flags::LAST } else { Flags::NONE };
        channel.seal(to_node, Parts { kind, flags, request: 99, index: 0, body: vec![b'x'; length] });
        let way = channel.way(to_node);
        if way.sent.len() == way.delivered + 1 {
            way.deliver();
        }
        way.sent.drain(..way.delivered);
        way.delivered = 0;
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let (seal_end, deliver) = ([0, 2, 0b0010_0001, 1, 0], [3]);
    let (ask, take) = ([128, 0, 0b1000_0000, 1, 0, 2, b'h', b'i'], [131]);
    let (many, large) = ([9, 2, 3, 231], [9, 3, 0, 63]);
    let lists: [&[&[u8]]; 14] = [
        &[&ask, &take, &[128, 0, 0b1000_0001, 1, 1, 1, b'!'], &take, &take],
        &[&[11, 1], &seal_end, &deliver],
        &[
            &[11, 1],
            &[0, 1, 128, 1, 0, 1, b'a'],
            &[0, 2, 130, 1, 1, 1, b'{'],
            &[0, 2, 128, 1, 2, 1, b'}'],
            &deliver,
            &deliver,
            &deliver,
        ],
        &[&many, &[9, 0, 0, 3], &seal_end, &deliver],
        &[&large, &large, &large, &large, &large, &[9, 3, 0, 27], &seal_end],
        &[&ask, &[133, 4, 0, 0, 9, 1], &ask, &take],
        &[&ask, &take, &[134, 0, 0]],
        &[&ask, &[135]],
        &[&[8, 1], &seal_end, &[8, 0], &seal_end, &deliver, &deliver],
        &[&[10, 0, 1, 128, 1, 0, 2, b'h', b'i'], &[138, 1, 12, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]],
        &[&[13, 5, 0, 0, 0], &[13, 6, 0, 0, 1], &[13, 7, 1, 0, 2], &[13, 0, 97, 3, 0, 1, 200]],
        &[&[14, 4, 64, 0, 0], &[14, 3, 1, 0, 1], &[14, 7, 1, 0, 2], &[11, 2], &[14, 3, 1, 2, 0]],
        &[&ask, &take, &[12, 1, 1], &ask, &take],
        &[&[11, 3], &[14, 1, 128, 3, 0, 1, b'a'], &[12, 0], &[14, 1, 128, 3, 1, 1, b'b']],
    ];
    let mut all: Vec<Vec<u8>> =
        lists.iter().map(|parts| [&[0], parts.concat().as_slice()].concat()).collect();
    // Plaintexts with something behind the body, with other flags, of other types, cut short.
    for kind in 0..8 {
        for flags in 0..4 {
            for request in 0..2 {
                all.push(vec![0, 10, 0, kind, 128 | flags, request, 0, 2, b'h', b'i', 5, 0, 0, 3, 0, 0, 0]);
                all.push(vec![0, 138, 0, kind, 128 | flags, request, 0, 2, b'h', b'i', 5, 0, 0, 3, 0, 1, 0]);
            }
        }
    }
    for edit in [
        [1, 0, 1, 4],
        [1, 0, 1, 128],
        [1, 0, 0, 0],
        [1, 0, 0, 9],
        [1, 0, 11, 3],
        [1, 0, 10, 1],
        [4, 0, 11, 0],
    ] {
        all.push([&[0, 10, 0, 1, 128, 1, 0, 2, b'h', b'i'][..], &edit].concat());
    }
    all.push([&[3], [&seal_end[..], &seal_end, &seal_end, &deliver, &deliver].concat().as_slice()].concat());
    all
}
