//! The steps against version 1.

use super::text;
use crate::{
    step::{Act, Again, Byte, Class, Demand, Edit, Keep, Source, Step},
    wire::{Kind, Place, Way},
};

const INIT: Place = Place::new(Way::ToNode, Kind::Init, 0);
const ACK: Place = Place::new(Way::ToClient, Kind::Ack, 0);
const MESSAGE: Place = Place::new(Way::ToNode, Kind::Message, 0);

const fn chunk(nth: usize) -> Place {
    Place::new(Way::ToClient, Kind::Chunk, nth)
}

const fn response(nth: usize) -> Place {
    Place::new(Way::ToClient, Kind::Response, nth)
}

const fn stream_end(nth: usize) -> Place {
    Place::new(Way::ToClient, Kind::StreamEnd, nth)
}

/// The steps against version 1: what it promises, and what it is known not to keep.
pub fn version_1() -> Vec<Step> {
    let mut steps = vec![Step::new(Class::Control, INIT, Act::Pass)];
    let message = |nth| Place::new(Way::ToNode, Kind::Message, nth);
    let places = [
        INIT,
        ACK,
        message(0),
        message(1),
        chunk(0),
        chunk(1),
        chunk(2),
        response(0),
        stream_end(0),
        response(1),
        stream_end(1),
    ];
    for place in places {
        order_1(&mut steps, place);
        changes_1(&mut steps, place);
    }
    again_1(&mut steps);
    known_1(&mut steps);
    steps
}

fn order_1(steps: &mut Vec<Step>, place: Place) {
    let mut step = |class, act| steps.push(Step::new(class, place, act));
    let last = place == stream_end(1) || place.way == Way::ToNode && place.nth == 1;
    step(Class::Replay, Act::Twice);
    if !last {
        step(Class::Replay, Act::Later(1));
        step(Class::Duplicate, Act::OverNext);
    }
    step(Class::Drop, Act::Drop);
    if matches!(place.kind, Kind::Chunk | Kind::Response) {
        step(Class::Reorder, Act::Swap);
    }
    step(Class::Reflect, Act::ReflectToo);
    step(Class::Reflect, Act::ReflectInstead);
    let other = if place.way == Way::ToNode { "encrypted_chunk" } else { "encrypted_message" };
    if matches!(place.kind, Kind::Message | Kind::Chunk | Kind::Response) {
        step(Class::Reflect, Act::ReflectAs(other));
    }
    for keep in [Keep::AllBut(1), Keep::Half, Keep::Bytes(0)] {
        step(Class::Truncate, Act::Cut(keep));
    }
    step(Class::Truncate, Act::CloseBefore);
    step(Class::Truncate, Act::CloseAfter);
    step(Class::Splice, Act::Replace(Source::Other(place)));
    if place.kind == Kind::Chunk && place.nth > 0 {
        step(Class::Splice, Act::Replace(Source::Own(chunk(0))));
    }
    let frames = match place.way {
        Way::ToClient => vec![
            text(r#"{"type":"error","code":"INTERNAL_ERROR","message":"words of an attacker"}"#),
            text(r#"{"type":"stream_chunk","session_id":"1","content":"words of an attacker","tokens":1}"#),
            text(
                r#"{"type":"stream_end","session_id":"1","reason":"complete","finish_reason":"stop","tokens_used":1}"#,
            ),
            text(r#"{"type":"connected","message":"words of an attacker"}"#),
            text("words of an attacker"),
        ],
        Way::ToNode => vec![
            text(r#"{"type":"session_init","session_id":"1"}"#),
            text(r#"{"type":"prompt","session_id":"1","prompt":"words of an attacker"}"#),
            text("words of an attacker"),
        ],
    };
    for frame in frames {
        step(Class::Inject, Act::Before(frame));
    }
}

fn changes_1(steps: &mut Vec<Step>, place: Place) {
    let fields: &[&str] = match place.kind {
        Kind::Init => &["ephPubHex", "ciphertextHex", "nonceHex", "signatureHex"],
        Kind::Message | Kind::Chunk | Kind::Response => &["ciphertextHex", "nonceHex", "aadHex"],
        Kind::Greeting
        | Kind::M1
        | Kind::M2
        | Kind::M3
        | Kind::R1
        | Kind::R2
        | Kind::Record
        | Kind::Ack
        | Kind::StreamEnd
        | Kind::Other => &[],
    };
    for field in fields {
        for byte in [Byte::Front(0), Byte::Front(1), Byte::Middle, Byte::Back(1), Byte::Back(0)] {
            for bit in [0, 7] {
                // A message that was refused is followed by another.
                let first = place.nth == 0 && place.kind != Kind::Message;
                let demand = if first { Demand::Refused } else { Demand::Right };
                let act = Act::Edit(Edit::Flip(field, byte, bit));
                steps.push(Step { demand, ..Step::new(Class::Flip, place, act) });
            }
        }
        steps.push(Step::new(Class::Flip, place, Act::Edit(Edit::Empty(field))));
        // Both clients write the same aad.
        if *field != "aadHex" {
            steps.push(Step::new(Class::Splice, place, Act::Edit(Edit::FieldOfOther(field))));
        }
    }
    for at in (1..200).step_by(9) {
        steps.push(Step::new(Class::Flip, place, Act::Flip(Byte::Front(at), 0)));
    }
    if place == INIT {
        steps.push(Step::new(Class::Swap, place, Act::Edit(Edit::Signature)));
    }
}

fn again_1(steps: &mut Vec<Step>) {
    let what = [
        Again::Recorded(&[INIT]),
        Again::Recorded(&[INIT, MESSAGE]),
        Again::Recorded(&[MESSAGE]),
        Again::Everything(0),
        Again::OfOther(&[INIT]),
        Again::OfOther(&[INIT, MESSAGE]),
        Again::OfOther(&[MESSAGE]),
    ];
    for again in what {
        for place in [ACK, chunk(0), stream_end(0)] {
            steps.push(Step::new(Class::Elsewhere, place, Act::Elsewhere(again)));
        }
        steps.push(Step::new(Class::Elsewhere, INIT, Act::Afterwards(again)));
    }
}

/// What version 1 cannot keep (SECURITY.md): these succeed, and are counted apart.
fn known_1(steps: &mut Vec<Step>) {
    let mut known = |class, place, act, why| {
        steps.push(Step { known: Some(why), ..Step::new(class, place, act) });
    };
    for nth in [0, 1, 2] {
        let why = "the sealed end counts nothing: the last pieces of an answer can be left out";
        known(Class::Truncate, chunk(nth), Act::DropRest, why);
    }
    let why = "stream_end and its usage are in the clear";
    known(Class::Flip, stream_end(0), Act::Edit(Edit::Usage), why);
    known(Class::Flip, stream_end(1), Act::Edit(Edit::Usage), why);
}
