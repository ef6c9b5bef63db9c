//! The record layer at its limits, held to a naive second version of it: the last counters, keys replaced where several
//! reasons for it meet, and requests and answers put together of any records.

use std::collections::BTreeMap;

use fabstir_protocol::v2::{
    Answers, Direction, Flags, MAX_BODY, MAX_FRAME_LEN, Opener, REKEY_BYTES, REKEY_RECORDS, RecordType,
    Requests, Sealer, Shape, Sid,
};
use proptest::prelude::*;

use crate::{
    model::{KINDS, Keys, Led, ModelAnswers, ModelRequests, Parts},
    v2_support::reference as r,
};

const SID: [u8; 16] = [5; 16];
const KEY: [u8; 32] = [7; 32];
const LARGEST_FRAME: usize = 2 + 12 + MAX_BODY + 16;

#[test]
fn the_largest_frame_is_the_largest_record() {
    assert_eq!(MAX_FRAME_LEN, LARGEST_FRAME);
}

/// Both ends of a direction, and the key that both must have.
struct Way {
    sealer: Sealer,
    opener: Opener,
    keys: Keys,
    kind: RecordType,
    index: u32,
}

impl Way {
    fn new(direction: Direction, n: u64) -> Self {
        let sid = Sid::from(SID);
        Self {
            sealer: Sealer::at(&KEY, n, sid, direction),
            opener: Opener::at(&KEY, n, sid, direction),
            keys: Keys::new(KEY),
            kind: if direction == Direction::ToNode { RecordType::Request } else { RecordType::Event },
            index: 0,
        }
    }

    /// Seals and opens a record, and compares the keys. `false` where it cannot be sealed any more.
    fn pass(&mut self, length: usize, last: bool, shape: Shape) -> bool {
        self.sealer.set_shape(shape);
        let flags = if last { Flags::LAST } else { Flags::NONE };
        let Ok(frame) = self.sealer.seal(self.kind, flags, 1, self.index, &vec![b'x'; length]) else {
            return false;
        };
        self.keys.count(&frame, last);
        let record = self.opener.open(&frame).unwrap();
        assert_eq!((record.body.len(), record.flags, record.index), (length, flags, self.index));
        assert_eq!(self.sealer.expose_key(), &self.keys.key);
        assert_eq!(self.opener.expose_key(), Some(&self.keys.key));
        self.index += 1;
        true
    }
}

fn direction() -> impl Strategy<Value = Direction> {
    prop_oneof![Just(Direction::ToNode), Just(Direction::ToClient)]
}

fn shape() -> impl Strategy<Value = Shape> {
    prop_oneof![Just(Shape::Off), Just(Shape::Bucket)]
}

/// Length, whether it is an end, shape.
fn records(most: usize) -> impl Strategy<Value = Vec<(usize, bool, Shape)>> {
    let length = prop_oneof![4 => 0..80_usize, 1 => 0..=MAX_BODY];
    prop::collection::vec((length, prop::bool::weighted(0.2), shape()), 1..most)
}

proptest! {
    /// Every counter but the last seals one record, whatever the records are; the last is REKEY's, and then there is
    /// nothing: no record sealed, none opened, in this direction alone.
    #[test]
    fn a_direction_ends_with_its_last_counter_and_the_other_goes_on(
        ending in direction(),
        left in 0..40_u64,
        records in records(60),
    ) {
        let other = if ending == Direction::ToNode { Direction::ToClient } else { Direction::ToNode };
        let (mut way, mut back) = (Way::new(ending, u64::MAX - left), Way::new(other, 0));
        let mut passed = 0;
        for (length, last, shape) in records {
            prop_assert_eq!(way.pass(length, last, shape), passed < left);
            prop_assert!(back.pass(length, last, shape));
            passed += u64::from(passed < left);
            prop_assert_eq!(way.sealer.counter(), u64::MAX - left + passed);
        }
    }

    /// A record under the nonce that is REKEY's alone does not open, though its key is right.
    #[test]
    fn nobody_opens_a_record_under_the_nonce_of_rekey(ending in direction(), body in prop::collection::vec(any::<u8>(), 0..40)) {
        let (byte, kind) = if ending == Direction::ToNode { (0, 1) } else { (1, 3) };
        let plain = r::record(kind, 1, 1, 0, &body);
        for (n, opens) in [(u64::MAX - 1, true), (u64::MAX, false)] {
            let frame = r::seal_record(&KEY, n, &r::aad(&SID, byte), &plain);
            let mut opener = Opener::at(&KEY, n, Sid::from(SID), ending);
            prop_assert_eq!(opener.open(&frame).is_ok(), opens);
        }
    }

    /// Any plaintext that somebody with the key seals, read as a naive reader reads it.
    #[test]
    fn a_plaintext_is_read_as_a_naive_reader_reads_it(
        way in direction(),
        parts in parts(&KINDS),
        padding in prop::collection::vec(prop::bool::weighted(0.02).prop_map(u8::from), 0..40),
        change in prop::option::weighted(0.3, (0..14_usize, any::<u8>())),
    ) {
        let mut plain = [parts.plaintext(), padding].concat();
        if let Some((at, byte)) = change && at < plain.len() {
            plain[at] = byte;
        }
        let byte = u8::from(way == Direction::ToClient);
        let frame = r::seal_record(&KEY, 0, &r::aad(&SID, byte), &plain);
        let opened = Opener::at(&KEY, 0, Sid::from(SID), way).open(&frame);
        prop_assert_eq!(opened.ok().as_ref().map(Parts::of), Parts::read(&plain, way));
    }

    /// The thousandth record, with an end before it, on it or behind it, or none.
    #[test]
    fn keys_stay_in_step_about_the_thousandth_record(
        way in direction(),
        short in 0..4_u64,
        tail in records(8),
    ) {
        let mut way = Way::new(way, 0);
        for _ in 0..REKEY_RECORDS - 1 - short {
            prop_assert!(way.pass(3, false, Shape::Off));
        }
        prop_assert_eq!(way.keys.replaced, 0);
        for (length, last, shape) in tail {
            let before = way.keys.replaced;
            prop_assert!(way.pass(length, last, shape));
            // Once, whatever the reasons.
            prop_assert!(way.keys.replaced - before <= 1);
        }
    }
}

proptest! {
    // Bounded shrinking: a case is 16 MiB.
    #![proptest_config(ProptestConfig { max_shrink_iters: 40, ..ProptestConfig::with_cases(24) })]

    /// The sixteenth MiB, met exactly, missed by some bytes or passed, by an end or by none.
    #[test]
    fn keys_stay_in_step_about_the_sixteenth_mebibyte(
        way in direction(),
        off in -2..=2_i64,
        last in any::<bool>(),
        tail in records(6),
    ) {
        let mut way = Way::new(way, 0);
        let limit = usize::try_from(REKEY_BYTES).unwrap();
        let full = LARGEST_FRAME - 2;
        for _ in 0..limit / full {
            prop_assert!(way.pass(MAX_BODY, false, Shape::Off));
        }
        prop_assert_eq!(way.keys.replaced, 0);
        let exact = i64::try_from(limit % full - 28).unwrap();
        prop_assert!(way.pass(usize::try_from(exact + off).unwrap(), last, Shape::Off));
        prop_assert_eq!(way.keys.replaced, u32::from(last || off >= 0), "once where both meet");
        for (length, last, shape) in tail {
            prop_assert!(way.pass(length, last, shape));
        }
    }
}

/// All three reasons at once: the thousandth record, which ends the sixteenth MiB and an answer.
#[test]
fn three_reasons_for_a_new_key_give_one_new_key() {
    let mut way = Way::new(Direction::ToClient, 0);
    let limit = usize::try_from(REKEY_BYTES).unwrap();
    let each = limit / usize::try_from(REKEY_RECORDS).unwrap();
    for _ in 1..REKEY_RECORDS {
        assert!(way.pass(each - 28, false, Shape::Off));
    }
    assert_eq!(way.keys.replaced, 0);
    let rest = limit - each * usize::try_from(REKEY_RECORDS - 1).unwrap();
    assert!(way.pass(rest - 28, true, Shape::Off));
    assert_eq!((way.keys.key, way.keys.replaced), (r::rekey(&KEY), 1));
    assert!(way.pass(0, false, Shape::Bucket));
    assert_eq!(way.keys.replaced, 1);
}

/// What happens to one end: a record in its place, one that may be anywhere, or a new connection.
#[derive(Clone, Debug)]
enum Step {
    Due(Parts),
    Stray(Parts),
    Resume(Vec<u32>),
    Expect(u32),
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    let end = r#"{"finish_reason":"stop","usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3,"context_window_size":4}}"#;
    let welcome = r#"{"node":"n","shape":"off","ticket":true,"limits":{"max_request_bytes":1,"max_requests":1,"grace_seconds":1,"keep_seconds":1,"ticket_seconds":1},"models":[]}"#;
    let json = [
        r#"{"request":3,"received":[[1,2]],"reason":"r","code":"c","message":"m"}"#,
        end,
        welcome,
        "",
        "{\"a\":",
        "1}",
        "words",
        "ü",
    ];
    prop_oneof![
        8 => prop::sample::select(json.map(|json| json.as_bytes().to_vec()).to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..30),
    ]
}

fn parts(kinds: &'static [RecordType]) -> impl Strategy<Value = Parts> {
    let flags =
        (prop::bool::weighted(0.3), prop::bool::weighted(0.15)).prop_map(|(last, more)| Flags { last, more });
    let request = prop_oneof![8 => 1..4_u32, 2 => Just(0), 1 => Just(u32::MAX), 1 => any::<u32>()];
    let index = prop_oneof![4 => 0..5_u32, 1 => any::<u32>()];
    (prop::sample::select(kinds), flags, request, index, body()).prop_map(
        |(kind, flags, request, index, body)| {
            // Mostly of a form that a channel lets through.
            let control = matches!(
                kind,
                RecordType::Welcome | RecordType::Cancel | RecordType::Ack | RecordType::Goodbye
            );
            let request = if control { 0 } else { request };
            Parts { kind, flags, request, index, body }
        },
    )
}

fn steps(kinds: &'static [RecordType]) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        16 => parts(kinds).prop_map(Step::Due),
        1 => parts(kinds).prop_map(Step::Stray),
        1 => prop::collection::vec(1..6_u32, 0..4).prop_map(Step::Resume),
        4 => (1..6_u32).prop_map(Step::Expect),
    ];
    prop::collection::vec(step, 1..80)
}

/// The index that is due under each request, so that most records are in their place.
#[derive(Default)]
struct Due(BTreeMap<u32, u32>);

impl Due {
    fn place(&mut self, mut parts: Parts) -> Parts {
        let next = self.0.entry(parts.request).or_default();
        parts.index = *next;
        *next = if parts.flags.last && parts.request != 0 { 0 } else { *next + 1 };
        parts
    }
}

const TO_NODE: [RecordType; 4] =
    [RecordType::Request, RecordType::Cancel, RecordType::Ack, RecordType::Goodbye];
const TO_CLIENT: [RecordType; 5] =
    [RecordType::Text, RecordType::Event, RecordType::Error, RecordType::Welcome, RecordType::Goodbye];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn requests_are_what_a_naive_reader_makes_of_the_records(most in 0..200_usize, steps in steps(&TO_NODE)) {
        let (mut real, mut naive, mut due) = (Requests::new(most), ModelRequests::new(most), Due::default());
        for step in steps {
            let parts = match step {
                Step::Due(parts) => due.place(parts),
                Step::Stray(parts) => parts,
                Step::Resume(known) => {
                    real.resume(known.iter().copied());
                    naive.resume(&known);
                    due = Due::default();
                    continue;
                }
                Step::Expect(_) => continue,
            };
            if !parts.is_allowed(Direction::ToNode) {
                continue;
            }
            let led = real.take(parts.record()).ok().map(Led::from);
            prop_assert_eq!(&led, &naive.take(&parts), "{:?}", parts);
            if led.is_none() {
                (real, naive, due) = (Requests::new(most), ModelRequests::new(most), Due::default());
            }
        }
    }

    #[test]
    fn answers_are_what_a_naive_reader_makes_of_the_records(steps in steps(&TO_CLIENT)) {
        let begin = || {
            let (mut real, mut naive) = (Answers::default(), ModelAnswers::default());
            real.set_welcomed();
            naive.set_welcomed();
            for request in 1..4 {
                real.expect(request);
                naive.expect(request);
            }
            (real, naive, Due::default())
        };
        let (mut real, mut naive, mut due) = begin();
        for step in steps {
            let parts = match step {
                Step::Due(parts) if parts.is_allowed(Direction::ToClient) => due.place(parts),
                Step::Stray(parts) if parts.is_allowed(Direction::ToClient) => parts,
                Step::Due(_) | Step::Stray(_) => continue,
                Step::Resume(known) => {
                    real.reconnect();
                    naive.reconnect();
                    real.set_welcomed();
                    naive.set_welcomed();
                    due.0.remove(&0);
                    let (again, lost) = naive.after_a_resumption(&known);
                    prop_assert_eq!((real.unknown_to(&known), real.lost_to(&known)), (again, lost));
                    continue;
                }
                Step::Expect(request) => {
                    real.expect(request);
                    naive.expect(request);
                    continue;
                }
            };
            let led = real.take(parts.record()).ok().map(Led::from);
            prop_assert_eq!(&led, &naive.take(&parts), "{:?}", parts);
            if led.is_none() {
                (real, naive, due) = begin();
                continue;
            }
            prop_assert_eq!(real.unfinished(), naive.unfinished());
            prop_assert_eq!(real.received(), naive.received());
            if let Some(ack) = real.due_ack() {
                prop_assert_eq!(ack.received, naive.received());
            }
        }
    }
}
