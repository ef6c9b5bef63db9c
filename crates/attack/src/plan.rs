//! Every step: class by class, over both directions, every kind of frame and its places.

mod v1;

pub use self::v1::version_1;
use crate::{
    forgery::Forgery,
    step::{Act, Again, Byte, Class, Demand, Keep, Source, Step},
    wire::{Frame, Kind, Place, Way},
};

const GREETING: Place = Place::new(Way::ToClient, Kind::Greeting, 0);
const M1: Place = Place::new(Way::ToNode, Kind::M1, 0);
const M2: Place = Place::new(Way::ToClient, Kind::M2, 0);
const M3: Place = Place::new(Way::ToNode, Kind::M3, 0);
const R1: Place = Place::new(Way::ToNode, Kind::R1, 0).on(1);
const R2: Place = Place::new(Way::ToClient, Kind::R2, 0).on(1);
const REQUEST: Place = sent(0);
const AFTER_R1: Place = sent(0).on(1);

const fn sent(nth: usize) -> Place {
    Place::new(Way::ToNode, Kind::Record, nth)
}

const fn said(nth: usize) -> Place {
    Place::new(Way::ToClient, Kind::Record, nth)
}

/// Where the first connection is cut when there is to be a resumption: the first words are through, the end is not.
pub(crate) const CUT: Place = said(1);
/// The same for the other client, whose session is to have every place on its first connection too.
pub(crate) const LATE_CUT: Place = said(8);

/// Places of a session of two questions that every such session has.
fn straight() -> Vec<Place> {
    let mut places = vec![M1, M2, M3];
    places.extend((0..=3).map(sent));
    places.extend((0..=4).map(said));
    places
}

/// Places behind a resumption.
fn resumed() -> Vec<Place> {
    let mut places = vec![R1, R2];
    places.extend((0..=2).map(|nth| sent(nth).on(1)));
    places.extend((0..=2).map(|nth| said(nth).on(1)));
    places
}

fn is_handshake(kind: Kind) -> bool {
    matches!(kind, Kind::M1 | Kind::M2 | Kind::M3 | Kind::R1 | Kind::R2)
}

/// The steps against version 2.
pub fn version_2() -> Vec<Step> {
    let mut steps = vec![
        Step::new(Class::Control, M1, Act::Pass),
        Step { resumed: true, ..Step::new(Class::Control, R1, Act::Pass) },
    ];
    for place in straight().into_iter().chain(resumed()) {
        order(&mut steps, place);
        cuts(&mut steps, place);
        splices(&mut steps, place);
        flips_of_bytes(&mut steps, place);
        words(&mut steps, place);
    }
    greetings(&mut steps);
    again(&mut steps);
    tickets(&mut steps);
    steps
}

/// Repeated, held back, left out, said back.
fn order(steps: &mut Vec<Step>, place: Place) {
    let mut step = |class, act| steps.push(Step::new(class, place, act));
    step(Class::Replay, Act::Twice);
    // The client says little: behind its last record that is looked at there is one more.
    step(Class::Replay, Act::Later(1));
    if place.nth == 0 {
        step(Class::Replay, Act::Later(2));
    }
    step(Class::Drop, Act::Drop);
    step(Class::Duplicate, Act::OverNext);
    // Behind the others nothing follows before they have been answered: to hold them back is to drop them.
    let followed =
        matches!(place.kind, Kind::M3 | Kind::R2) || [said(0), said(1), said(0).on(1)].contains(&place);
    if followed {
        step(Class::Reorder, Act::Swap);
    }
    step(Class::Reflect, Act::ReflectToo);
    step(Class::Reflect, Act::ReflectInstead);
}

fn cuts(steps: &mut Vec<Step>, place: Place) {
    let mut keep = vec![Keep::AllBut(1), Keep::AllBut(16), Keep::Half, Keep::Bytes(2), Keep::Bytes(0)];
    if is_handshake(place.kind) {
        keep.push(Keep::Bytes(35));
    }
    for keep in keep {
        let step = Step::new(Class::Truncate, place, Act::Cut(keep));
        let opens = matches!(place.kind, Kind::M1 | Kind::M2 | Kind::M3);
        steps.push(if opens { Step { demand: Demand::Refused, ..step } } else { step });
    }
    for act in [Act::CloseBefore, Act::CloseAfter, Act::CloseAlways] {
        steps.push(Step::new(Class::Truncate, place, act));
    }
}

fn splices(steps: &mut Vec<Step>, place: Place) {
    // The other client's session was cut where this one is: it has a connection 1 too.
    let mut sources = vec![Source::Other(place)];
    if place.kind == Kind::Record {
        sources.push(Source::Other(Place { connection: 0, nth: usize::from(place.nth == 0), ..place }));
        if place.connection == 1 {
            sources.push(Source::Own(Place { connection: 0, nth: 0, ..place }));
            if place.way == Way::ToClient {
                sources.push(Source::Own(said(1)));
            }
        }
        if place.nth > 0 {
            sources.push(Source::Own(Place { nth: 0, ..place }));
            sources.push(Source::Own(Place { nth: place.nth.saturating_sub(1), ..place }));
        }
        // What the other side said, as if this one had; before the first request it has said nothing.
        let heard = (place != REQUEST).then_some(Source::Own(Place {
            way: place.way.back(),
            nth: 0,
            connection: 0,
            ..place
        }));
        sources.extend(heard);
    }
    for source in sources {
        // On the first connection of a session that is not cut the other's first connection is looked at.
        let step = Step::new(Class::Splice, place, Act::Replace(source));
        let opens = matches!(place.kind, Kind::M1 | Kind::M2 | Kind::M3);
        steps.push(if opens { Step { demand: Demand::Refused, ..step } } else { step });
    }
    for kind in [0_u8, 1, 2, 3, 4, 5, 6, 7] {
        let own = match place.kind {
            Kind::M1 => 1,
            Kind::M2 => 2,
            Kind::M3 => 3,
            Kind::R1 => 4,
            Kind::R2 => 5,
            Kind::Record => 6,
            Kind::Greeting
            | Kind::Init
            | Kind::Ack
            | Kind::Message
            | Kind::Chunk
            | Kind::Response
            | Kind::StreamEnd
            | Kind::Other => 9,
        };
        if kind != own {
            steps.push(Step::new(Class::Splice, place, Act::CallIt(kind)));
        }
    }
}

fn flips_of_bytes(steps: &mut Vec<Step>, place: Place) {
    // All of what is short and read by hand; of what is long and opened as one piece, some.
    let front: Vec<usize> = match place.kind {
        Kind::M1 | Kind::M2 => (0..90).chain((90..1130).step_by(16)).collect(),
        Kind::M3 | Kind::R1 | Kind::R2 => (0..110).chain((110..540).step_by(16)).collect(),
        Kind::Record
        | Kind::Greeting
        | Kind::Init
        | Kind::Ack
        | Kind::Message
        | Kind::Chunk
        | Kind::Response
        | Kind::StreamEnd
        | Kind::Other => (0..34).collect(),
    };
    let bytes = front.into_iter().map(Byte::Front).chain((0..17).map(Byte::Back));
    let opens = matches!(place.kind, Kind::M1 | Kind::M2 | Kind::M3);
    for (at, byte) in bytes.enumerate() {
        // Another bit in each.
        let bit = u8::try_from(at % 8).unwrap_or_default();
        let step = Step::new(Class::Flip, place, Act::Flip(byte, bit));
        steps.push(if opens { Step { demand: Demand::Refused, ..step } } else { step });
    }
}

fn text(words: &str) -> Frame {
    Frame::Text(words.to_owned())
}

/// What an attacker may say that needs no key.
fn words(steps: &mut Vec<Step>, place: Place) {
    let frames = match place.way {
        Way::ToClient if place.nth <= 2 => vec![
            text(r#"{"type":"error","code":"INTERNAL_ERROR","message":"words of an attacker"}"#),
            text(r#"{"type":"error","code":"PROTOCOL_TOO_OLD","message":"speak version 1"}"#),
            text(r#"{"type":"stream_chunk","session_id":"1","content":"words of an attacker","tokens":1}"#),
            text(
                r#"{"type":"stream_end","session_id":"1","reason":"complete","finish_reason":"stop","tokens_used":1}"#,
            ),
            text(r#"{"type":"connected","e2ee":["1"]}"#),
            text("words of an attacker"),
            Frame::Binary(Vec::new()),
            Frame::Binary([vec![2, 6], vec![0; 48]].concat()),
        ],
        Way::ToNode if place.nth <= 2 => vec![
            text(r#"{"type":"session_init","session_id":"1"}"#),
            text(r#"{"type":"prompt","session_id":"1","prompt":"words of an attacker"}"#),
            text(r#"{"type":"inference","session_id":"1","request":{"prompt":"words of an attacker"}}"#),
            text(r#"{"type":"stream_cancel","session_id":"1"}"#),
            text(r#"{"type":"ping"}"#),
            text("words of an attacker"),
            Frame::Binary(Vec::new()),
            Frame::Binary([vec![2, 6], vec![0; 48]].concat()),
            Frame::Binary([vec![2, 1], vec![0; 1237]].concat()),
        ],
        Way::ToClient | Way::ToNode => Vec::new(),
    };
    steps.extend(frames.into_iter().map(|frame| Step::new(Class::Inject, place, Act::Before(frame))));
}

/// The node's first frame: not sealed, and yet not the attacker's to change.
fn greetings(steps: &mut Vec<Step>) {
    for connection in [0, 1] {
        let place = GREETING.on(connection);
        let changed = |class, forgery| {
            let step = Step::new(class, place, Act::Forge(forgery));
            // A resumption is held by its ticket, whatever the frame before it says.
            if connection == 0 { Step { demand: Demand::Refused, ..step } } else { step }
        };
        steps.extend(Forgery::DOWNGRADES.map(|forgery| changed(Class::Downgrade, forgery)));
        steps.extend(Forgery::SWAPS.map(|forgery| changed(Class::Swap, forgery)));
        let mut step = |class, act| steps.push(Step::new(class, place, act));
        step(Class::Replay, Act::Twice);
        step(Class::Replay, Act::Later(1));
        step(Class::Drop, Act::Drop);
        step(Class::Duplicate, Act::OverNext);
        step(Class::Reflect, Act::ReflectToo);
        step(Class::Reflect, Act::ReflectInstead);
        for keep in [Keep::AllBut(1), Keep::Half, Keep::Bytes(2), Keep::Bytes(0)] {
            step(Class::Truncate, Act::Cut(keep));
        }
        for act in [Act::CloseBefore, Act::CloseAfter, Act::CloseAlways] {
            step(Class::Truncate, act);
        }
        for frame in [text("{}"), Frame::Binary(vec![2, 2]), text(r#"{"type":"connected","e2ee":["1"]}"#)] {
            step(Class::Inject, Act::Before(frame));
        }
        for at in (1..520).step_by(if connection == 0 { 5 } else { 31 }) {
            step(Class::Flip, Act::Flip(Byte::Front(at), 0));
        }
    }
}

/// What was recorded, on a connection of the attacker's: while the session is open, and when it is over.
fn again(steps: &mut Vec<Step>) {
    let what = [
        Again::Recorded(&[M1]),
        Again::Recorded(&[M3]),
        Again::Recorded(&[REQUEST]),
        Again::Recorded(&[M1, M3]),
        Again::Recorded(&[M1, M3, REQUEST]),
        Again::Recorded(&[M1, M1]),
        Again::Recorded(&[M1, REQUEST]),
        Again::Recorded(&[M2]),
        Again::Recorded(&[CUT]),
        Again::Everything(0),
        Again::OfOther(&[M1, M3]),
        Again::OfOther(&[M1, M3, REQUEST]),
        Again::OfOther(&[R1]),
    ];
    for again in what {
        for place in [said(0), said(1), said(3)] {
            steps.push(Step::new(Class::Elsewhere, place, Act::Elsewhere(again)));
        }
        steps.push(Step::new(Class::Elsewhere, M1, Act::Afterwards(again)));
    }
}

fn tickets(steps: &mut Vec<Step>) {
    let mut what = vec![
        Again::Recorded(&[R1]),
        Again::Recorded(&[R1, AFTER_R1]),
        Again::Recorded(&[R1, R1]),
        Again::Everything(1),
        Again::OfOther(&[R1]),
        Again::Forged(R1),
    ];
    let bytes = [2, 9, 33, 34, 35, 50, 66, 67, 68, 100].map(Byte::Front);
    what.extend(bytes.into_iter().chain([Byte::Middle, Byte::Back(0)]).map(|byte| Again::Spoilt(R1, byte)));
    for again in what {
        let step = |place, act| Step { resumed: true, ..Step::new(Class::Ticket, place, act) };
        for place in [R2, said(0).on(1)] {
            steps.push(step(place, Act::Elsewhere(again)));
        }
        steps.push(step(R1, Act::Afterwards(again)));
        // Before the client's own r1 is through: what does not open must not spend the ticket.
        if matches!(again, Again::Forged(_) | Again::Spoilt(..) | Again::OfOther(_)) {
            steps.push(step(R1, Act::First(again)));
        }
    }
    steps.push(Step { resumed: true, ..Step::new(Class::Ticket, R1, Act::Race) });
}
