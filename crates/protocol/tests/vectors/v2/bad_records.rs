//! Records that must not open: bent ones, ones in the wrong place, and well sealed ones of no known form.

use super::cases::{BadRecordCase, PlaceCase};
use crate::{
    support::{hex, unhex, unhex_array},
    v2_support::reference as r,
};

const FINAL: u8 = 1;
const MORE: u8 = 2;

/// Plaintexts that are sealed well: direction, type, flags, request, and what follows the head.
fn bad_plaintexts() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let record =
        |kind, flags, request, body: &[u8]| r::to_length(r::record(kind, flags, request, 0, body), 32);
    let client = |why, kind, flags, request| (why, "to_client", record(kind, flags, request, b""));
    let node = |why, kind, flags, request| (why, "to_node", record(kind, flags, request, b""));
    let mut list = vec![
        client("type 0", 0, 0, 1),
        client("a type that is not known", 9, 0, 1),
        node("a type that is not known, to the node", 255, 0, 1),
        client("a flag that is not known", 2, 4, 1),
        client("the highest flag", 3, 0x81, 1),
        client("a request to the client", 1, FINAL, 1),
        client("a cancel to the client", 6, 0, 0),
        client("an ack to the client", 7, 0, 0),
        node("words to the node", 2, 0, 1),
        node("an event to the node", 3, 0, 1),
        node("an error to the node", 4, FINAL, 1),
        node("a welcome to the node", 5, 0, 0),
        node("a request under request 0", 1, 0, 0),
        client("words under request 0", 2, 0, 0),
        client("an event under request 0", 3, 0, 0),
        client("a welcome under a request", 5, 0, 1),
        node("a cancel under a request", 6, 0, 1),
        node("an ack under a request", 7, 0, 1),
        node("a goodbye under a request", 8, FINAL, 1),
        client("words that are an end", 2, FINAL, 1),
        client("a welcome that is an end", 5, FINAL, 0),
        node("a cancel that is an end", 6, FINAL, 0),
        node("an ack that is an end", 7, FINAL, 0),
        node("a goodbye that is no end", 8, 0, 0),
        client("words that go on", 2, MORE, 1),
        client("an error that goes on", 4, MORE, 1),
        client("a welcome that goes on", 5, MORE, 0),
        node("a request that goes on by the flag of events", 1, MORE, 1),
        node("a goodbye that goes on", 8, FINAL | MORE, 0),
        client("an end that goes on", 3, FINAL | MORE, 1),
    ];
    let with = |place: usize, byte: u8| {
        let mut bent = record(2, 0, 1, b"hello");
        bent[place] = byte;
        bent
    };
    let head = r::record(2, 0, 1, 0, b"");
    list.extend([
        ("nothing", "to_client", Vec::new()),
        ("a byte less than a head", "to_client", head[..11].to_vec()),
        (
            "a length of a byte more than there is",
            "to_client",
            r::record(2, 0, 1, 0, b"hello")[..16].to_vec(),
        ),
        ("the largest length", "to_client", [&head[..10], &[0xff; 2]].concat()),
        ("padding whose first byte is not zero", "to_client", with(17, 1)),
        ("padding whose last byte is not zero", "to_client", with(31, 1)),
        ("a length that is a byte short, so that padding begins with text", "to_client", with(11, 4)),
    ]);
    list
}

pub(super) fn make() -> Vec<BadRecordCase> {
    let mut cases = Vec::new();
    let mut add = |why: &str, place: PlaceCase, frame: Vec<u8>| {
        cases.push(BadRecordCase { why: why.to_owned(), place, frame: hex(frame) });
    };
    for (why, direction, plaintext) in bad_plaintexts() {
        let place = PlaceCase::new(direction, &format!("rejected|{why}"), 0);
        let seal = |plaintext: &[u8]| r::seal_record(&unhex_array(&place.key), 0, &place.aad(), plaintext);
        let (kind, flags) = if direction == "to_node" { (1, FINAL) } else { (2, 0) };
        let control = seal(&r::to_length(r::record(kind, flags, 1, 0, b"hello"), 32));
        assert!(place.opener().open(&control).is_ok(), "the control");
        let frame = seal(&plaintext);
        add(why, place, frame);
    }
    let place = || PlaceCase::new("to_client", "rejected", 5);
    let (key, aad) = (unhex_array(&place().key), place().aad());
    let words = r::to_length(r::record(2, 0, 1, 0, b"hello"), 32);
    let good = r::seal_record(&key, 5, &aad, &words);
    assert!(place().opener().open(&good).is_ok(), "the control");
    let with = |at: usize, change: fn(u8) -> u8| {
        let mut bent = good.clone();
        bent[at] = change(bent[at]);
        bent
    };
    add("no bytes", place(), Vec::new());
    add("a head and nothing else", place(), good[..2].to_vec());
    add("less than a tag", place(), good[..17].to_vec());
    add("a byte too few", place(), good[..good.len() - 1].to_vec());
    add("a byte too many", place(), [good.as_slice(), &[0]].concat());
    add("another first byte", place(), with(0, |_| 1));
    add("the kind of a message", place(), with(1, |_| r::R2));
    add("a bit of the type flipped", place(), with(2, |byte| byte ^ 1));
    add("a bit of the padding flipped", place(), with(33, |byte| byte ^ 1));
    add("the first bit of the tag flipped", place(), with(34, |byte| byte ^ 1));
    add("the last bit of the tag flipped", place(), with(good.len() - 1, |byte| byte ^ 0x80));
    add("the record before: a replay", place(), r::seal_record(&key, 4, &aad, &words));
    add("the record after: one was left out", place(), r::seal_record(&key, 6, &aad, &words));
    add("a counter that begins again", place(), r::seal_record(&key, 0, &aad, &words));
    add("the counter in the other order of bytes", place(), r::seal_record(&key, 5 << 56, &aad, &words));
    add("the next key before its time", place(), r::seal_record(&r::rekey(&key), 5, &aad, &words));
    add("sealed without what binds it", place(), r::seal_record(&key, 5, &[], &words));
    add("sealed for the other direction: a reflection", place(), {
        let other = PlaceCase { direction: "to_node".to_owned(), ..place() };
        r::seal_record(&key, 5, &other.aad(), &words)
    });
    add("sealed for another handshake", place(), {
        let other = PlaceCase { sid: hex([0xa5; 16]), ..place() };
        r::seal_record(&key, 5, &other.aad(), &words)
    });
    let last = || PlaceCase { counter: u64::MAX.to_string(), ..place() };
    add("the counter that is never used", last(), r::seal_record(&key, u64::MAX, &aad, &words));
    cases
}

pub(crate) fn run(case: &BadRecordCase) {
    let mut opener = case.place.opener();
    assert!(opener.open(&unhex(&case.frame)).is_err(), "{}", case.why);
    assert!(opener.expose_key().is_none(), "{}: the key is gone", case.why);
}

/// Too long for a file: a byte more than the largest bucket, under the same key as the largest bucket.
pub(crate) fn run_longest() {
    let place = PlaceCase::new("to_client", "rejected|the longest", 0);
    let opens = |length| {
        let plaintext = r::to_length(r::record(2, 0, 1, 0, b"hello"), length);
        let frame = r::seal_record(&unhex_array(&place.key), 0, &place.aad(), &plaintext);
        place.opener().open(&frame).is_ok()
    };
    assert!(opens(49_152), "the control");
    assert!(!opens(49_153));
}
