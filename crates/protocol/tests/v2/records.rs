//! Records: their order, their padding, their keys, and the sessions made of them.

use fabstir_protocol::v2::{
    Ack, Answers, Cancel, Direction, End, Fault, Flags, FromClient, FromNode, MAX_BODY, Opener,
    REKEY_RECORDS, Received, Record, RecordType, Requests, Sealer, Shape, Sid, Welcome, encode,
};
use proptest::prelude::*;

const SID: [u8; 16] = [5; 16];

fn pair(direction: Direction, n: u64) -> (Sealer, Opener) {
    let sid = Sid::from(SID);
    (Sealer::at(&[7; 32], n, sid, direction), Opener::at(&[7; 32], n, sid, direction))
}

fn text(sealer: &mut Sealer, index: u32, words: &str) -> Vec<u8> {
    sealer.seal(RecordType::Text, Flags::NONE, 1, index, words.as_bytes()).unwrap()
}

#[test]
fn what_is_not_the_next_record_ends_the_channel() {
    let (mut sealer, mut opener) = pair(Direction::ToClient, 0);
    let frames: Vec<_> = (0..3).map(|index| text(&mut sealer, index, "word")).collect();
    opener.open(&frames[0]).unwrap();
    assert!(opener.open(&frames[2]).is_err(), "one was left out");
    assert!(opener.open(&frames[1]).is_err(), "nothing opens from then on");
    assert!(opener.expose_key().is_none(), "and the key is gone");
    let (_, mut opener) = pair(Direction::ToClient, 0);
    opener.open(&frames[0]).unwrap();
    assert!(opener.open(&frames[0]).is_err(), "a replay");
}

#[test]
fn of_a_record_its_place_and_length_are_printed() {
    let sid = Sid::from(SID);
    assert_eq!((format!("{sid}"), format!("{sid:?}")), ("05".repeat(16), format!("Sid({sid})")));
    let record = answer(RecordType::Text, Flags::NONE, 2, b"words");
    let shown = format!("{record:?}");
    assert!(shown.starts_with("Record { kind: Text, ") && shown.ends_with("body: 5 bytes }"), "{shown}");
}

#[test]
fn a_record_is_bound_to_its_channel_and_its_direction() {
    let (mut sealer, _) = pair(Direction::ToClient, 0);
    let frame = sealer.seal(RecordType::Goodbye, Flags::LAST, 0, 0, b"{}").unwrap();
    let (_, mut reflected) = pair(Direction::ToNode, 0);
    assert!(reflected.open(&frame).is_err());
    let mut other = Opener::at(&[7; 32], 0, Sid::from([6; 16]), Direction::ToClient);
    assert!(other.open(&frame).is_err());
    let (_, mut right) = pair(Direction::ToClient, 0);
    right.open(&frame).unwrap();
}

/// Every single-bit flip of records of several lengths, without a socket.
#[test]
fn no_flipped_bit_of_a_record_is_accepted() {
    let mut flips = 0;
    for length in [0, 1, 20, 21, 300] {
        let (mut sealer, _) = pair(Direction::ToClient, 9);
        let frame = text(&mut sealer, 0, &"w".repeat(length));
        for bit in 0..frame.len() * 8 {
            let mut bent = frame.clone();
            bent[bit / 8] ^= 1 << (bit % 8);
            let (_, mut opener) = pair(Direction::ToClient, 9);
            assert!(opener.open(&bent).is_err(), "bit {bit} of {length}");
            flips += 1;
        }
        for cut in 0..frame.len() {
            let (_, mut opener) = pair(Direction::ToClient, 9);
            assert!(opener.open(&frame[..cut]).is_err());
        }
    }
    println!("flips refused: {flips}");
}

#[test]
fn lengths_are_rounded_up_to_buckets() {
    for (length, padded) in [
        (12, 32),
        (32, 32),
        (33, 64),
        (64, 64),
        (65, 128),
        (32_768, 32_768),
        (32_769, 49_152),
        (49_152, 49_152),
    ] {
        assert_eq!(Shape::Bucket.padded(length), padded);
        assert_eq!(Shape::Off.padded(length), length);
    }
    let (mut sealer, mut opener) = pair(Direction::ToClient, 0);
    let largest = vec![b'x'; MAX_BODY];
    let frame = sealer.seal(RecordType::Text, Flags::NONE, 1, 0, &largest).unwrap();
    assert_eq!(frame.len(), 2 + 49_152 + 16);
    assert_eq!(opener.open(&frame).unwrap().body.len(), MAX_BODY);
    assert!(sealer.seal(RecordType::Text, Flags::NONE, 1, 1, &vec![0; MAX_BODY + 1]).is_err());
}

#[test]
fn the_key_is_replaced_after_an_end_and_after_many_records_and_never_twice() {
    let (mut sealer, mut opener) = pair(Direction::ToClient, 0);
    let first = *sealer.expose_key();
    for index in 0..u32::try_from(REKEY_RECORDS).unwrap() - 1 {
        opener.open(&text(&mut sealer, index, "w")).unwrap();
        assert_eq!(*sealer.expose_key(), first);
    }
    // The thousandth record is an end too: one new key, not two.
    let last = u32::try_from(REKEY_RECORDS).unwrap() - 1;
    let frame = sealer.seal(RecordType::Event, Flags::LAST, 1, last, b"{}").unwrap();
    opener.open(&frame).unwrap();
    let second = *sealer.expose_key();
    assert_ne!(second, first);
    assert_eq!(opener.expose_key(), Some(&second));
    assert_eq!(sealer.counter(), REKEY_RECORDS, "the counter goes on");
    // The count has begun again.
    opener.open(&text(&mut sealer, last + 1, "w")).unwrap();
    assert_eq!(*sealer.expose_key(), second);
    let frame = sealer.seal(RecordType::Error, Flags::LAST, 2, 0, b"{}").unwrap();
    opener.open(&frame).unwrap();
    assert_ne!(*sealer.expose_key(), second);
    assert_eq!(opener.expose_key(), Some(sealer.expose_key()));
}

#[test]
fn many_bytes_replace_the_key_too() {
    let (mut sealer, mut opener) = pair(Direction::ToClient, 0);
    let first = *sealer.expose_key();
    let body = vec![b'x'; MAX_BODY];
    let mut records = 0_u32;
    while *sealer.expose_key() == first {
        let frame = sealer.seal(RecordType::Text, Flags::NONE, 1, records, &body).unwrap();
        opener.open(&frame).unwrap();
        records += 1;
    }
    assert_eq!(u64::from(records), (16_u64 << 20).div_ceil(49_152 + 16));
    assert_eq!(opener.expose_key(), Some(sealer.expose_key()));
}

#[test]
fn counters_end_before_they_wrap() {
    let (mut sealer, mut opener) = pair(Direction::ToClient, u64::MAX - 1);
    let frame = text(&mut sealer, 0, "the last one");
    opener.open(&frame).unwrap();
    assert!(sealer.seal(RecordType::Text, Flags::NONE, 1, 1, b"one too many").is_err());
}

/// What an honest sender never makes, sealed under the right key by somebody who has it.
#[test]
fn a_record_of_no_known_form_does_not_open() {
    use chacha20poly1305::{
        ChaCha20Poly1305, KeyInit as _,
        aead::{Aead as _, Payload},
    };
    let seal = |plaintext: &[u8], direction: u8| {
        let aad = [&SID[..], &[direction, 2, 6]].concat();
        let payload = Payload { msg: plaintext, aad: &aad };
        let sealed = ChaCha20Poly1305::new(&[7; 32].into()).encrypt(&[0; 12].into(), payload).unwrap();
        [&[2, 6], sealed.as_slice()].concat()
    };
    let record = |kind: u8, flags: u8, request: u32, length: u16, rest: &[u8]| {
        let head = [&[kind, flags][..], &request.to_be_bytes(), &0_u32.to_be_bytes(), &length.to_be_bytes()];
        [head.concat().as_slice(), rest].concat()
    };
    let opens = |plaintext: &[u8], direction: Direction, byte: u8| {
        pair(direction, 0).1.open(&seal(plaintext, byte)).is_ok()
    };
    let to_client = |plaintext: &[u8]| opens(plaintext, Direction::ToClient, 1);
    let to_node = |plaintext: &[u8]| opens(plaintext, Direction::ToNode, 0);
    assert!(to_client(&record(2, 0, 1, 2, b"ok\0\0\0")), "the control");
    assert!(to_node(&record(1, 1, 1, 2, b"ok")), "the control");
    for (what, plaintext) in [
        ("an unknown type", record(9, 0, 1, 0, b"")),
        ("type 0", record(0, 0, 1, 0, b"")),
        ("an unknown flag", record(2, 4, 1, 0, b"")),
        ("a length beyond the end", record(2, 0, 1, 3, b"ok")),
        ("padding that is not zero", record(2, 0, 1, 2, b"ok\0\x01")),
        ("a type of the other direction", record(1, 1, 1, 0, b"")),
        ("words under request 0", record(2, 0, 0, 0, b"")),
        ("a welcome under a request", record(5, 0, 1, 0, b"")),
        ("words that are an end", record(2, 1, 1, 0, b"")),
        ("words that go on", record(2, 2, 1, 0, b"")),
        ("an end that goes on", record(3, 3, 1, 0, b"")),
        ("a goodbye that is no end", record(8, 0, 0, 0, b"")),
        ("a welcome that is an end", record(5, 1, 0, 0, b"")),
        ("nothing", Vec::new()),
        ("half a head", vec![2, 0, 0, 0]),
    ] {
        assert!(!to_client(&plaintext), "{what}");
    }
    assert!(!to_node(&record(2, 0, 1, 0, b"")), "an answer to the node");
}

fn request(id: u32, index: u32, last: bool, body: &[u8]) -> Record {
    let flags = if last { Flags::LAST } else { Flags::NONE };
    Record {
        kind: RecordType::Request,
        flags,
        request: id,
        index,
        body: zeroize::Zeroizing::new(body.to_vec()),
    }
}

fn control(kind: RecordType, index: u32, body: &impl serde::Serialize) -> Record {
    let flags = if kind == RecordType::Goodbye { Flags::LAST } else { Flags::NONE };
    Record { kind, flags, request: 0, index, body: encode(body) }
}

#[test]
fn requests_are_put_together_in_order() {
    let mut requests = Requests::new(100);
    assert!(requests.is_untouched());
    assert!(matches!(requests.take(request(1, 0, false, b"a")), Ok(FromClient::Nothing)));
    assert!(!requests.is_untouched());
    assert!(matches!(requests.take(request(3, 0, true, b"z")), Ok(FromClient::Request(3, _))));
    let Ok(FromClient::Request(1, body)) = requests.take(request(1, 1, true, b"b")) else { panic!("whole") };
    assert_eq!(*body, *b"ab");
    assert!(requests.take(request(3, 0, true, b"z")).is_err(), "an id begins once");
    assert!(Requests::new(9).take(request(1, 1, true, b"a")).is_err(), "no beginning");
    let mut requests = Requests::new(9);
    requests.take(request(2, 0, false, b"a")).unwrap();
    assert!(requests.take(request(2, 2, true, b"a")).is_err(), "a gap");
    assert!(Requests::new(9).take(request(2, 0, true, b"")).is_ok());
}

#[test]
fn a_request_that_is_too_large_is_said_once_and_passed_over() {
    let mut requests = Requests::new(3);
    assert!(matches!(requests.take(request(1, 0, false, b"abcd")), Ok(FromClient::TooLarge(1))));
    assert!(matches!(requests.take(request(1, 1, false, b"e")), Ok(FromClient::Nothing)));
    assert!(matches!(requests.take(request(1, 2, true, b"f")), Ok(FromClient::Nothing)));
    assert!(matches!(requests.take(request(2, 0, true, b"ok")), Ok(FromClient::Request(2, _))));
    let mut requests = Requests::new(3);
    for id in 1..=2 {
        assert!(matches!(requests.take(request(id, 0, false, b"abc")), Ok(FromClient::Nothing)));
    }
    assert!(matches!(requests.take(request(3, 0, false, b"a")), Ok(FromClient::TooLarge(3))), "two at once");
}

#[test]
fn requests_that_are_never_finished_are_bounded() {
    let mut requests = Requests::new(1000);
    for id in 1..=256 {
        requests.take(request(id, 0, false, b"ab")).unwrap();
    }
    assert_eq!(requests.unfinished_bytes(), 512);
    requests.take(request(1, 1, true, b"c")).unwrap();
    assert_eq!(requests.unfinished_bytes(), 510);
    requests.take(request(257, 0, false, b"")).unwrap();
    assert!(requests.take(request(258, 0, true, b"")).is_err());
}

#[test]
fn what_is_not_whole_goes_with_its_connection() {
    let mut requests = Requests::new(9);
    requests.take(request(1, 0, false, b"ab")).unwrap();
    requests.drop_unfinished();
    assert_eq!(requests.unfinished_bytes(), 0);
    assert!(requests.take(request(1, 1, true, b"c")).is_err(), "of what was dropped nothing more is taken");
}

#[test]
fn what_belongs_to_the_connection_has_an_index_of_its_own() {
    let mut requests = Requests::new(9);
    let ack = Ack { received: vec![Received(1, 2)] };
    assert!(
        matches!(requests.take(control(RecordType::Ack, 0, &ack)), Ok(FromClient::Ack(list)) if list == ack.received)
    );
    assert!(matches!(
        requests.take(control(RecordType::Cancel, 1, &Cancel { request: 7 })),
        Ok(FromClient::Cancel(7))
    ));
    assert!(requests.take(control(RecordType::Cancel, 1, &Cancel { request: 7 })).is_err());
    let mut requests = Requests::new(9);
    assert!(matches!(requests.take(control(RecordType::Goodbye, 0, &())), Ok(FromClient::Goodbye)));
}

#[test]
fn after_a_resumption_only_what_the_node_does_not_know_begins_again() {
    let mut requests = Requests::new(9);
    requests.take(request(1, 0, true, b"a")).unwrap();
    requests.take(request(2, 0, false, b"b")).unwrap();
    requests.resume([1]);
    assert!(matches!(requests.take(request(2, 0, true, b"b")), Ok(FromClient::Request(2, _))));
    assert!(requests.take(request(2, 0, true, b"b")).is_err(), "once");
    let mut requests = Requests::new(9);
    requests.take(request(1, 0, true, b"a")).unwrap();
    requests.resume([1]);
    assert!(requests.take(request(1, 0, true, b"a")).is_err(), "the node knows it");
    let mut requests = Requests::new(9);
    requests.resume([]);
    assert!(matches!(requests.take(request(5, 0, true, b"n")), Ok(FromClient::Request(5, _))), "a new one");
}

fn answer(kind: RecordType, flags: Flags, index: u32, body: &[u8]) -> Record {
    Record { kind, flags, request: 1, index, body: zeroize::Zeroizing::new(body.to_vec()) }
}

#[test]
fn an_answer_is_whole_only_with_its_end() {
    let mut answers = Answers::default();
    answers.expect(1);
    assert!(matches!(
        answers.take(control(RecordType::Welcome, 0, &Welcome::default())),
        Ok(FromNode::Welcome(_))
    ));
    assert!(
        matches!(answers.take(answer(RecordType::Text, Flags::NONE, 0, b"hi")), Ok(FromNode::Text(1, w)) if w.as_str() == "hi")
    );
    assert!(matches!(
        answers.take(answer(RecordType::Event, Flags::MORE, 1, b"{\"a\"")),
        Ok(FromNode::Nothing)
    ));
    assert!(
        matches!(answers.take(answer(RecordType::Event, Flags::NONE, 2, b":1}")), Ok(FromNode::Event(1, w)) if w.as_str() == "{\"a\":1}")
    );
    assert_eq!(answers.unfinished(), [1]);
    assert_eq!(answers.received(), [Received(1, 2)]);
    let end = encode(&End { finish_reason: "stop".into(), ..End::default() });
    assert!(
        matches!(answers.take(answer(RecordType::Event, Flags::LAST, 3, &end)), Ok(FromNode::End(1, end)) if end.finish_reason == "stop")
    );
    assert!(answers.unfinished().is_empty());
    assert_eq!(answers.due_ack(), Some(Ack { received: vec![Received(1, 3)] }));
    assert_eq!(answers.due_ack(), None);
    assert!(answers.take(answer(RecordType::Text, Flags::NONE, 4, b"more")).is_err(), "after the end");
}

#[test]
fn an_event_is_as_long_as_it_may_be_and_no_longer() {
    const MOST: usize = 16 << 20;
    let mut answers = Answers::default();
    answers.set_welcomed();
    answers.expect(1);
    let most = vec![b' '; MOST];
    assert!(answers.take(answer(RecordType::Event, Flags::MORE, 0, &most)).is_ok());
    assert!(answers.take(answer(RecordType::Event, Flags::MORE, 1, b" ")).is_err());
}

#[test]
fn an_end_says_how_many_messages_did_not_fit_and_is_silent_of_none() {
    let end = |dropped_messages| {
        let mut answers = Answers::default();
        answers.expect(1);
        answers.take(control(RecordType::Welcome, 0, &Welcome::default())).unwrap();
        let end = encode(&End { finish_reason: "stop".into(), dropped_messages, ..End::default() });
        let Ok(FromNode::End(_, read)) = answers.take(answer(RecordType::Event, Flags::LAST, 0, &end)) else {
            panic!("no end: {}", String::from_utf8_lossy(&end));
        };
        (read.dropped_messages, String::from_utf8_lossy(&end).contains("dropped"))
    };
    assert_eq!((end(0), end(3)), ((0, false), (3, true)));
}

#[test]
fn a_fault_says_when_to_try_again_where_that_is_known() {
    for retry_after_ms in [None, Some(1500)] {
        let fault = Fault { code: "RATE_LIMITED".into(), retry_after_ms, ..Fault::default() };
        let told = encode(&fault);
        assert_eq!(serde_json::from_slice::<Fault>(&told).unwrap(), fault);
        assert_eq!(String::from_utf8_lossy(&told).contains("retry_after_ms"), retry_after_ms.is_some());
    }
    assert!(
        serde_json::from_str::<Fault>(r#"{"code":"X","message":"","retry_after_ms":9007199254740992}"#)
            .is_err()
    );
}

#[test]
fn a_shape_is_named_as_it_is_written() {
    for (shape, name) in [(Shape::Off, "off"), (Shape::Bucket, "bucket")] {
        assert_eq!((shape.as_str(), shape.to_string().as_str()), (name, name));
        assert_eq!(serde_json::to_value(shape).unwrap(), name);
    }
}

/// As many requests as a node remembers are known of at most, after the connection was lost.
#[test]
fn no_more_requests_come_again_than_are_remembered() {
    const MOST: u32 = 65_536;
    let mut requests = Requests::new(usize::MAX);
    assert!(requests.take(request(MOST + 3, 0, true, b"n")).is_ok());
    requests.resume(2..=MOST);
    assert!(
        requests.take(request(1, 0, true, b"n")).is_ok(),
        "one more is known of: as many as there may be"
    );
    assert!(requests.take(request(MOST + 1, 0, true, b"n")).is_err(), "and none beyond them");
}

#[test]
fn records_of_an_answer_come_in_their_order_and_as_what_they_are() {
    let fresh = || {
        let mut answers = Answers::default();
        answers.set_welcomed();
        answers.expect(1);
        answers
    };
    let mut early = Answers::default();
    early.expect(1);
    assert!(early.take(answer(RecordType::Text, Flags::NONE, 0, b"hi")).is_err(), "before the welcome");
    let mut empty = fresh();
    empty.take(answer(RecordType::Event, Flags::MORE, 0, b"")).unwrap();
    assert!(empty.take(answer(RecordType::Text, Flags::NONE, 1, b"hi")).is_err(), "words in an event");
    assert!(fresh().take(answer(RecordType::Text, Flags::NONE, 1, b"hi")).is_err(), "a gap");
    assert!(fresh().take(answer(RecordType::Text, Flags::NONE, 0, b"\xff")).is_err(), "not UTF-8");
    assert!(
        fresh()
            .take(answer(RecordType::Error, Flags::NONE, 0, b"{\"code\":\"X\",\"message\":\"\"}"))
            .is_err(),
        "an error that is no end"
    );
    assert!(fresh().take(answer(RecordType::Event, Flags::LAST, 0, b"{")).is_err(), "half an end");
    let mut answers = fresh();
    answers.take(answer(RecordType::Event, Flags::MORE, 0, b"{")).unwrap();
    assert!(answers.take(answer(RecordType::Text, Flags::NONE, 1, b"hi")).is_err(), "words in an event");
    let mut other = Answers::default();
    other.set_welcomed();
    assert!(other.take(answer(RecordType::Text, Flags::NONE, 0, b"hi")).is_err(), "nothing was asked");
    let mut late = fresh();
    late.take(control(RecordType::Error, 0, &serde_json::json!({"code": "X", "message": ""}))).unwrap();
    assert!(late.take(control(RecordType::Welcome, 1, &Welcome::default())).is_err(), "a late welcome");
}

#[test]
fn of_answers_that_have_ended_the_last_are_told_of() {
    let mut answers = Answers::default();
    answers.set_welcomed();
    for id in 1..=65 {
        answers.expect(id);
        let end =
            Record { request: id, ..answer(RecordType::Event, Flags::LAST, 0, &encode(&End::default())) };
        answers.take(end).unwrap();
    }
    let told: Vec<_> = (2..=65).map(|id| Received(id, 0)).collect();
    assert_eq!(answers.received(), told);
}

#[test]
fn another_session_on_the_same_channel_goes_on_with_the_channels_numbers_alone() {
    let mut answers = Answers::default();
    assert!(!answers.is_open(1));
    answers.expect(1);
    assert!(answers.is_open(1));
    answers.take(control(RecordType::Welcome, 0, &Welcome::default())).unwrap();
    let mut anew = answers.anew();
    assert!(!anew.is_open(1));
    assert!(anew.take(control(RecordType::Welcome, 1, &Welcome::default())).is_err(), "it was welcomed");
    let mut anew = answers.anew();
    let fault = serde_json::json!({"code": "X", "message": ""});
    assert!(answers.anew().take(control(RecordType::Error, 0, &fault)).is_err(), "a number that was used");
    assert!(anew.take(control(RecordType::Error, 1, &fault)).is_ok());
}

#[test]
fn after_a_resumption_a_client_sends_again_what_the_node_does_not_know() {
    let mut answers = Answers::default();
    answers.set_welcomed();
    answers.expect(1);
    answers.expect(2);
    answers.take(answer(RecordType::Text, Flags::NONE, 0, b"hi")).unwrap();
    assert_eq!(answers.received(), [Received(1, 0)]);
    answers.reconnect();
    assert_eq!(answers.unknown_to(&[1]), [2]);
    // What something came of is cut off where the node does not know it, and not asked for again.
    let mut forgotten = Answers::default();
    forgotten.set_welcomed();
    forgotten.expect(1);
    forgotten.take(answer(RecordType::Text, Flags::NONE, 0, b"hi")).unwrap();
    assert!(forgotten.unknown_to(&[]).is_empty());
    assert_eq!((forgotten.lost_to(&[]), forgotten.unfinished()), (vec![1], Vec::new()));
    answers.set_welcomed();
    assert!(matches!(
        answers.take(answer(RecordType::Text, Flags::NONE, 1, b"go on")),
        Ok(FromNode::Text(1, _))
    ));
}

proptest! {
    #[test]
    fn whatever_is_sealed_opens_in_its_order_with_keys_in_step(
        bodies in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..300), any::<bool>(), any::<bool>()), 1..60),
        n in prop_oneof![Just(0_u64), any::<u64>(), (u64::MAX - 70)..u64::MAX],
    ) {
        let (mut sealer, mut opener) = pair(Direction::ToClient, n);
        for (index, (body, last, bucket)) in bodies.iter().enumerate() {
            sealer.set_shape(if *bucket { Shape::Bucket } else { Shape::Off });
            let flags = if *last { Flags::LAST } else { Flags::NONE };
            let index = u32::try_from(index).unwrap();
            let spent = sealer.counter() == u64::MAX;
            let Ok(frame) = sealer.seal(RecordType::Event, flags, 1, index, body) else {
                prop_assert!(spent);
                break;
            };
            let record = opener.open(&frame).unwrap();
            prop_assert_eq!(&*record.body, body);
            prop_assert_eq!((record.index, record.flags), (index, flags));
            prop_assert_eq!(opener.expose_key(), Some(sealer.expose_key()));
        }
    }

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let _ = fabstir_protocol::v2::Kind::split(&bytes);
        let _ = fabstir_protocol::v2::M1::read(&bytes);
        let _ = fabstir_protocol::v2::R1::read(&bytes);
        let _ = fabstir_protocol::v2::SignedDelegation::try_from(bytes.as_slice());
        let _ = pair(Direction::ToNode, 0).1.open(&bytes);
        let _ = std::str::from_utf8(&bytes).map(fabstir_protocol::v2::Advertisement::read);
    }
}
