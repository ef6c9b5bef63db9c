//! What can be done to a conversation: one act, at one place.

use std::fmt;

use crate::{
    forgery::Forgery,
    wire::{Frame, Place},
};

/// What kind of attack it is, as the counts have it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Class {
    /// Nothing is done: without this coming out well no other result says anything.
    Control,
    /// The same frame again, at once or later.
    Replay,
    /// A frame after the one that follows it.
    Reorder,
    /// A frame is left out.
    Drop,
    /// A frame in the place of the one that follows it.
    Duplicate,
    /// A frame or a conversation is cut off.
    Truncate,
    /// A frame of another session, connection, request or place.
    Splice,
    /// What a side said is said back to it.
    Reflect,
    /// One bit is the other way round.
    Flip,
    /// The node seems to speak only older versions, or others than it does.
    Downgrade,
    /// Keys, certificates, addresses and signatures of the attacker's.
    Swap,
    /// What was recorded is sent again on a connection of the attacker's.
    Elsewhere,
    /// The same with tickets.
    Ticket,
    /// Words of the attacker's that are not sealed.
    Inject,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Control,
        Self::Replay,
        Self::Reorder,
        Self::Drop,
        Self::Duplicate,
        Self::Truncate,
        Self::Splice,
        Self::Reflect,
        Self::Flip,
        Self::Downgrade,
        Self::Swap,
        Self::Elsewhere,
        Self::Ticket,
        Self::Inject,
    ];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Replay => "replay",
            Self::Reorder => "reorder",
            Self::Drop => "drop",
            Self::Duplicate => "duplicate",
            Self::Truncate => "truncate",
            Self::Splice => "splice",
            Self::Reflect => "reflect",
            Self::Flip => "flip",
            Self::Downgrade => "downgrade",
            Self::Swap => "swap",
            Self::Elsewhere => "elsewhere",
            Self::Ticket => "ticket",
            Self::Inject => "inject",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How much of a frame is left.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Keep {
    /// So many bytes.
    Bytes(usize),
    /// All but so many.
    AllBut(usize),
    /// One half.
    Half,
}

/// Which byte.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Byte {
    /// Counted from the front.
    Front(usize),
    /// Counted from the back, the last is 0.
    Back(usize),
    /// The one in the middle.
    Middle,
}

/// Whose frame is spliced in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Source {
    /// Of another client's session with the same node.
    Other(Place),
    /// Of this session, from before.
    Own(Place),
}

/// What is sent on a connection of the attacker's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Again {
    /// Frames of these places of this session, each after the answer to the one before.
    Recorded(&'static [Place]),
    /// Everything that the client sent on its connection of this number.
    Everything(usize),
    /// Another client's frames of these places.
    OfOther(&'static [Place]),
    /// The ticket of the r1 at this place, with an r1 of the attacker's own behind it.
    Forged(Place),
    /// The r1 at this place with one bit of it the other way round.
    Spoilt(Place, Byte),
}

/// A change of a text frame of version 1.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Edit {
    /// One bit of a hex field of the payload.
    Flip(&'static str, Byte, u8),
    /// The payload's field is emptied.
    Empty(&'static str),
    /// The payload's field is another client's.
    FieldOfOther(&'static str),
    /// The frame is called something else.
    Type(&'static str),
    /// Top-level field: a number in its place.
    Number(&'static str, u64),
    /// Top-level field: a text in its place.
    Text(&'static str, &'static str),
    /// The signature is by the attacker's key, over the same ciphertext.
    Signature,
    /// Counts of tokens in the clear.
    Usage,
}

/// What is done.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// Nothing.
    Pass,
    /// Sent twice.
    Twice,
    /// Sent again after so many more frames in its direction.
    Later(usize),
    /// Held back until the next frame in its direction is through.
    Swap,
    /// Left out.
    Drop,
    /// This one, and all of its kind after it until the next one of another kind.
    DropRest,
    /// Sent again in the place of the next one in its direction.
    OverNext,
    /// Shortened.
    Cut(Keep),
    /// Both connections are closed instead of passing it.
    CloseBefore,
    /// Both connections are closed once it is through.
    CloseAfter,
    /// As `CloseBefore`, on every connection from then on.
    CloseAlways,
    /// A frame that was seen elsewhere in its place.
    Replace(Source),
    /// Said to its sender too.
    ReflectToo,
    /// Said to its sender instead.
    ReflectInstead,
    /// Said to its sender instead, under another type.
    ReflectAs(&'static str),
    /// One bit of it.
    Flip(Byte, u8),
    /// Its second byte, which says what it is.
    CallIt(u8),
    /// Something of the attacker's before it.
    Before(Frame),
    /// The node's first frame is changed.
    Forge(Forgery),
    /// A text frame is changed.
    Edit(Edit),
    /// Passed on, and something is sent on a connection of the attacker's.
    Elsewhere(Again),
    /// Something is sent on a connection of the attacker's first, and only then it is passed on.
    First(Again),
    /// Sent on a connection of the attacker's first, and only then passed on.
    Race,
    /// Nothing until the client is done; then something is sent on a connection of the attacker's.
    Afterwards(Again),
}

/// What must come of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Demand {
    /// An answer that passes for whole is the right one.
    Right,
    /// No answer passes for whole: what was changed was to be noticed.
    Refused,
}

/// One attack.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// What kind.
    pub class: Class,
    /// Where.
    pub place: Place,
    /// What is done there.
    pub act: Act,
    /// What must come of it.
    pub demand: Demand,
    /// Whether the first connection is cut in the middle of an answer, so that there is a resumption to attack.
    pub resumed: bool,
    /// Why this succeeds: what the protocol is known not to keep.
    pub known: Option<&'static str>,
}

impl Step {
    /// A step of which a right answer may come.
    pub fn new(class: Class, place: Place, act: Act) -> Self {
        Self { class, place, act, demand: Demand::Right, resumed: place.connection > 0, known: None }
    }

    /// A step of which none may.
    pub fn refused(class: Class, place: Place, act: Act) -> Self {
        Self { demand: Demand::Refused, ..Self::new(class, place, act) }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The words of a frame that is sent in are of no interest; which frame it is can be told by its beginning.
        let act: String = format!("{:?}", self.act).chars().take(90).collect();
        write!(f, "{}: {act} at {}", self.class, self.place)
    }
}
