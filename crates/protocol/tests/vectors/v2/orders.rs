//! Records that open and are out of place.

use fabstir_protocol::v2::{Ack, Answers, Cancel, End, Fault, Goodbye, Received, Record, Requests, Welcome};
use zeroize::Zeroizing;

use super::{
    cases::{OrderCase, RecordCase},
    records::type_of,
};

const MAX_REQUEST: usize = 1000;

fn case(reader: &str, why: &str, sent: &[u32], records: Vec<RecordCase>) -> OrderCase {
    OrderCase { why: why.to_owned(), reader: reader.to_owned(), sent: sent.to_vec(), records }
}

fn to_node() -> Vec<OrderCase> {
    let piece = |request, index| RecordCase::new("request", request, index, "x");
    let cancel = |index| RecordCase::json("cancel", 0, index, &Cancel { request: 1 });
    let ack = |index| RecordCase::json("ack", 0, index, &Ack { received: vec![Received(1, 2)] });
    let goodbye = |index| RecordCase::json("goodbye", 0, index, &Goodbye::default()).last();
    let node = |why, records| case("node", why, &[], records);
    vec![
        node("a request that does not begin", vec![piece(1, 1)]),
        node("a request with a gap", vec![piece(1, 0), piece(1, 2)]),
        node("a piece of a request twice", vec![piece(1, 0), piece(1, 1), piece(1, 1)]),
        node("a request that begins twice", vec![piece(1, 0), piece(1, 0)]),
        node("more behind the end of a request", vec![piece(1, 0).last(), piece(1, 1)]),
        node("an id twice", vec![piece(1, 0).last(), piece(1, 0)]),
        node("an id below another", vec![piece(2, 0).last(), piece(1, 0)]),
        node("an id below one that is open", vec![piece(2, 0), piece(1, 0)]),
        node("an index of another request", vec![piece(1, 0), piece(2, 0), piece(1, 1), piece(2, 2)]),
        node("a first cancel that is not index 0", vec![cancel(1)]),
        node("a cancel twice", vec![cancel(0), cancel(0)]),
        node("an ack that does not count on from a cancel", vec![cancel(0), ack(0)]),
        node("a goodbye to the node with a gap", vec![ack(0), cancel(1), goodbye(3)]),
        node("a cancel of nothing", vec![RecordCase::new("cancel", 0, 0, "{}")]),
        node("a cancel that is no JSON", vec![RecordCase::new("cancel", 0, 0, "")]),
        node("a cancel of a request below zero", vec![RecordCase::new("cancel", 0, 0, "{\"request\":-1}")]),
        node("an ack of nothing", vec![RecordCase::new("ack", 0, 0, "{}")]),
        node("an ack of half a pair", vec![RecordCase::new("ack", 0, 0, "{\"received\":[[1]]}")]),
    ]
}

fn to_client() -> Vec<OrderCase> {
    let text = |request, index| RecordCase::new("text", request, index, "x");
    let half = |index| RecordCase::new("event", 1, index, "{\"a\":").more();
    let event = |index| RecordCase::new("event", 1, index, "{\"a\":1}");
    let end = |index| {
        let end = End { finish_reason: "stop".to_owned(), ..End::default() };
        RecordCase::json("event", 1, index, &end).last()
    };
    let fault = || Fault { code: "BUSY".to_owned(), ..Fault::default() };
    let welcome = |index| RecordCase::json("welcome", 0, index, &Welcome::default());
    let goodbye = |index| RecordCase::json("goodbye", 0, index, &Goodbye::default()).last();
    let client = |why, records| case("client", why, &[1, 2], records);
    vec![
        client("an answer to nothing", vec![text(3, 0)]),
        client("an answer that does not begin", vec![text(1, 1)]),
        client("an answer with a gap", vec![text(1, 0), text(1, 2)]),
        client("a piece of an answer twice", vec![text(1, 0), text(1, 0)]),
        client("an index of another answer", vec![text(1, 0), text(2, 0), text(1, 1), text(2, 2)]),
        client("words behind the end", vec![text(1, 0), end(1), text(1, 2)]),
        client("an end behind the end", vec![end(0), end(1)]),
        client("words inside of an event", vec![half(0), text(1, 1)]),
        client(
            "an end that is no end of an answer",
            vec![RecordCase::new("event", 1, 0, "{\"a\":1}").last()],
        ),
        client("an end that is no JSON", vec![event(0), RecordCase::new("event", 1, 1, "").last()]),
        client("an error of a request that is no end", vec![RecordCase::json("error", 1, 0, &fault())]),
        client("an error without a code", vec![RecordCase::new("error", 1, 0, "{\"message\":\"\"}").last()]),
        client("words behind an error", vec![RecordCase::json("error", 1, 0, &fault()).last(), text(1, 1)]),
        client("a first welcome that is not index 0", vec![welcome(1)]),
        client("a welcome twice", vec![welcome(0), welcome(1)]),
        client("a welcome behind an error", vec![RecordCase::json("error", 0, 0, &fault()), welcome(1)]),
        client("a welcome without its fields", vec![RecordCase::new("welcome", 0, 0, "{}")]),
        client("a welcome that is no JSON", vec![RecordCase::new("welcome", 0, 0, "")]),
        client("a goodbye with a gap", vec![welcome(0), goodbye(2)]),
        client("a goodbye that is no JSON", vec![welcome(0), RecordCase::new("goodbye", 0, 1, "bye").last()]),
        client(
            "an error of the connection without a code",
            vec![welcome(0), RecordCase::new("error", 0, 1, "{}")],
        ),
    ]
}

pub(crate) fn make() -> Vec<OrderCase> {
    [to_node(), to_client()].concat()
}

fn record(case: &RecordCase) -> Record {
    Record {
        kind: type_of(&case.r#type),
        flags: case.flags(),
        request: case.request,
        index: case.index,
        body: Zeroizing::new(case.body()),
    }
}

pub(crate) fn run(case: &OrderCase) {
    let mut requests = Requests::new(MAX_REQUEST);
    let mut answers = Answers::default();
    case.sent.iter().for_each(|request| answers.expect(*request));
    // What does not begin with a record of the connection is read behind a welcome.
    if case.records.first().is_some_and(|first| first.request != 0) {
        answers.set_welcomed();
    }
    let mut take = |one: &RecordCase| match case.reader.as_str() {
        "node" => requests.take(record(one)).is_ok(),
        _ => answers.take(record(one)).is_ok(),
    };
    let (last, before) = case.records.split_last().unwrap();
    for (place, one) in before.iter().enumerate() {
        assert!(take(one), "{}: record {place}", case.why);
    }
    assert!(!take(last), "{}", case.why);
}
