//! The record layer a second time, as plainly as it can be said: what a record may be, when keys are replaced, and
//! what requests and answers are made of records. Slow, and sure of nothing but docs/protocol.md.
#![allow(dead_code, reason = "each test crate uses its part of this")]

use std::collections::{BTreeMap, BTreeSet};

use fabstir_protocol::v2::{
    Ack, Cancel, Direction, End, Fault, Flags, FromClient, FromNode, Goodbye, Received, Record, RecordType,
    Welcome, decode,
};
use zeroize::Zeroizing;

pub(crate) const KINDS: [RecordType; 8] = [
    RecordType::Request,
    RecordType::Text,
    RecordType::Event,
    RecordType::Error,
    RecordType::Welcome,
    RecordType::Cancel,
    RecordType::Ack,
    RecordType::Goodbye,
];

/// A record's parts, in a form that compares and copies.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Parts {
    pub(crate) kind: RecordType,
    pub(crate) flags: Flags,
    pub(crate) request: u32,
    pub(crate) index: u32,
    pub(crate) body: Vec<u8>,
}

impl Parts {
    pub(crate) fn of(record: &Record) -> Self {
        let Record { kind, flags, request, index, body } = record;
        Self { kind: *kind, flags: *flags, request: *request, index: *index, body: body.to_vec() }
    }

    pub(crate) fn record(&self) -> Record {
        let Self { kind, flags, request, index, body } = self.clone();
        Record { kind, flags, request, index, body: Zeroizing::new(body) }
    }

    /// Before its padding.
    pub(crate) fn plaintext(&self) -> Vec<u8> {
        let kind = KINDS.iter().position(|kind| *kind == self.kind).unwrap();
        let kind = u8::try_from(kind).unwrap() + 1;
        let flags = u8::from(self.flags.last) + 2 * u8::from(self.flags.more);
        super::v2_support::reference::record(kind, flags, self.request, self.index, &self.body)
    }

    /// Whether the table of records allows it in this direction.
    pub(crate) fn is_allowed(&self, direction: Direction) -> bool {
        use RecordType as T;
        let Flags { last, more } = self.flags;
        let connection = self.request == 0;
        let to_node = direction == Direction::ToNode;
        match self.kind {
            T::Request => to_node && !connection && !more,
            T::Text => !to_node && !connection && !last && !more,
            T::Event => !(to_node || connection || last && more),
            T::Error => !to_node && !more && (connection || last),
            T::Welcome => !to_node && connection && !last && !more,
            T::Cancel | T::Ack => to_node && connection && !last && !more,
            T::Goodbye => connection && last && !more,
        }
    }

    /// What a plaintext says, if it is one of this direction's.
    pub(crate) fn read(plaintext: &[u8], direction: Direction) -> Option<Self> {
        let number =
            |at: usize| plaintext.get(at..at + 4).map(|four| u32::from_be_bytes(four.try_into().unwrap()));
        let kind = *KINDS.get(usize::from(*plaintext.first()?).checked_sub(1)?)?;
        let flags = *plaintext.get(1)?;
        let (request, index) = (number(2)?, number(6)?);
        let length = plaintext.get(10..12)?;
        let end = 12 + usize::from(length[0]) * 256 + usize::from(length[1]);
        let body = plaintext.get(12..end)?.to_vec();
        let flags = match flags {
            0..=3 => Flags { last: flags & 1 == 1, more: flags & 2 == 2 },
            _ => return None,
        };
        let parts = Self { kind, flags, request, index, body };
        let padded = plaintext[end..].iter().all(|byte| *byte == 0);
        (padded && end <= 49152 && parts.is_allowed(direction)).then_some(parts)
    }
}

/// One direction's key as it has to be, record by record.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    pub(crate) key: [u8; 32],
    records: u64,
    bytes: usize,
    /// How often the key was replaced.
    pub(crate) replaced: u32,
}

impl Keys {
    pub(crate) fn new(key: [u8; 32]) -> Self {
        Self { key, records: 0, bytes: 0, replaced: 0 }
    }

    /// A record went by.
    pub(crate) fn count(&mut self, frame: &[u8], last: bool) {
        self.records += 1;
        self.bytes += frame.len() - 2;
        if last || self.records == 1000 || self.bytes >= 16 * 1024 * 1024 {
            *self = Self {
                replaced: self.replaced + 1,
                ..Self::new(super::v2_support::reference::rekey(&self.key))
            };
        }
    }
}

/// What a node's half or a client's half makes of a record.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Led {
    Request(u32, Vec<u8>),
    TooLarge(u32),
    Cancel(u32),
    Ack(Vec<Received>),
    Goodbye(Option<Goodbye>),
    Nothing,
    Welcome(Welcome),
    Text(u32, String),
    Event(u32, String),
    End(u32, End),
    Failed(u32, Fault),
    Fault(Fault, bool),
}

impl From<FromClient> for Led {
    fn from(led: FromClient) -> Self {
        match led {
            FromClient::Request(id, bytes) => Self::Request(id, bytes.to_vec()),
            FromClient::TooLarge(id) => Self::TooLarge(id),
            FromClient::Cancel(id) => Self::Cancel(id),
            FromClient::Ack(list) => Self::Ack(list),
            FromClient::Goodbye => Self::Goodbye(None),
            FromClient::Nothing => Self::Nothing,
        }
    }
}

impl From<FromNode> for Led {
    fn from(led: FromNode) -> Self {
        match led {
            FromNode::Welcome(welcome) => Self::Welcome(welcome),
            FromNode::Text(id, words) => Self::Text(id, words.as_str().to_owned()),
            FromNode::Event(id, words) => Self::Event(id, words.as_str().to_owned()),
            FromNode::End(id, end) => Self::End(id, end),
            FromNode::Failed(id, fault) => Self::Failed(id, fault),
            FromNode::Fault(fault, last) => Self::Fault(fault, last),
            FromNode::Goodbye(goodbye) => Self::Goodbye(Some(goodbye)),
            FromNode::Nothing => Self::Nothing,
        }
    }
}

/// A request that is coming: every body so far, or that it was too large.
#[derive(Debug, Default)]
struct Coming {
    records: u32,
    bodies: Vec<Vec<u8>>,
    too_large: bool,
}

impl Coming {
    fn length(&self) -> usize {
        self.bodies.iter().map(Vec::len).sum()
    }
}

/// The requests of a session.
#[derive(Debug)]
pub(crate) struct ModelRequests {
    most: usize,
    control: u32,
    begun: BTreeSet<u32>,
    /// Every id up to the highest may begin again but these, after a resumption.
    again: Option<(u32, BTreeSet<u32>)>,
    coming: BTreeMap<u32, Coming>,
}

impl ModelRequests {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, control: 0, begun: BTreeSet::new(), again: None, coming: BTreeMap::new() }
    }

    pub(crate) fn resume(&mut self, known: &[u32]) {
        let highest = self.begun.last().copied().unwrap_or(0);
        self.again = Some((highest, known.iter().copied().collect()));
        self.control = 0;
        self.coming.clear();
    }

    fn begin(&mut self, id: u32) -> Option<()> {
        if self.coming.len() >= 256 {
            return None;
        }
        if self.begun.last().is_none_or(|highest| id > *highest) {
            self.begun.insert(id);
        } else {
            let (highest, taken) = self.again.as_mut()?;
            if id > *highest || !taken.insert(id) {
                return None;
            }
        }
        self.coming.insert(id, Coming::default());
        Some(())
    }

    /// `None` ends the connection.
    pub(crate) fn take(&mut self, record: &Parts) -> Option<Led> {
        let Parts { kind, flags, request: id, index, body } = record;
        if *kind != RecordType::Request {
            let due = self.control;
            self.control += 1;
            let body = body.as_slice();
            return match kind {
                _ if *index != due => None,
                RecordType::Cancel => decode(body).ok().map(|Cancel { request }| Led::Cancel(request)),
                RecordType::Ack => decode(body).ok().map(|Ack { received }| Led::Ack(received)),
                RecordType::Goodbye => Some(Led::Goodbye(None)),
                _ => None,
            };
        }
        if *index == 0 {
            self.begin(*id)?;
        }
        let all: usize = self.coming.values().map(Coming::length).sum();
        let coming = self.coming.get_mut(id).filter(|coming| coming.records == *index)?;
        coming.records += 1;
        let mut led = Led::Nothing;
        if !coming.too_large {
            coming.bodies.push(body.clone());
            if coming.length() > self.most || all + body.len() > 2 * self.most {
                (coming.too_large, led) = (true, Led::TooLarge(*id));
                coming.bodies.clear();
            }
        }
        if flags.last {
            let whole = self.coming.remove(id)?;
            if !whole.too_large {
                led = Led::Request(*id, whole.bodies.concat());
            }
        }
        Some(led)
    }
}

/// An answer that is coming: its records so far, and the parts of an event that goes on.
#[derive(Debug, Default)]
struct Answer {
    records: u32,
    event: Vec<u8>,
    goes_on: bool,
}

/// The answers of a session.
#[derive(Debug, Default)]
pub(crate) struct ModelAnswers {
    control: u32,
    welcomed: bool,
    coming: BTreeMap<u32, Answer>,
    ended: Vec<Received>,
}

impl ModelAnswers {
    pub(crate) fn expect(&mut self, request: u32) {
        self.coming.entry(request).or_default();
    }

    pub(crate) fn reconnect(&mut self) {
        self.control = 0;
        self.welcomed = false;
    }

    pub(crate) fn set_welcomed(&mut self) {
        self.welcomed = true;
    }

    /// What is to be asked again, and what is cut off and forgotten.
    pub(crate) fn after_a_resumption(&mut self, known: &[u32]) -> (Vec<u32>, Vec<u32>) {
        let unknown = self.coming.iter().filter(|(id, _)| !known.contains(id));
        let (again, lost): (Vec<_>, Vec<_>) = unknown.partition(|(_, answer)| answer.records == 0);
        let ids = |list: Vec<(&u32, &Answer)>| list.into_iter().map(|(id, _)| *id).collect::<Vec<_>>();
        let (again, lost) = (ids(again), ids(lost));
        lost.iter().for_each(|id| drop(self.coming.remove(id)));
        (again, lost)
    }

    pub(crate) fn unfinished(&self) -> Vec<u32> {
        self.coming.keys().copied().collect()
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        let begun = self.coming.iter().filter(|(_, answer)| answer.records > 0);
        let lately = self.ended.iter().rev().take(64).rev();
        begun.map(|(id, answer)| Received(*id, answer.records - 1)).chain(lately.copied()).collect()
    }

    /// `None` ends the connection.
    pub(crate) fn take(&mut self, record: &Parts) -> Option<Led> {
        let Parts { kind, flags, request: id, index, body } = record;
        if *id == 0 {
            let due = self.control;
            if *index != due {
                return None;
            }
            self.control += 1;
            let body = body.as_slice();
            let first = !std::mem::replace(&mut self.welcomed, true);
            return match kind {
                RecordType::Welcome if first => decode(body).ok().map(Led::Welcome),
                RecordType::Goodbye if !first => decode(body).ok().map(|goodbye| Led::Goodbye(Some(goodbye))),
                RecordType::Error => decode(body).ok().map(|fault| Led::Fault(fault, flags.last)),
                _ => None,
            };
        }
        if !self.welcomed {
            return None;
        }
        let answer = self.coming.get_mut(id).filter(|answer| answer.records == *index)?;
        answer.records += 1;
        let led = match kind {
            RecordType::Text if !answer.goes_on => Led::Text(*id, String::from_utf8(body.clone()).ok()?),
            RecordType::Event => {
                answer.event.extend_from_slice(body);
                answer.goes_on = flags.more;
                if flags.more {
                    return Some(Led::Nothing);
                }
                let json = std::mem::take(&mut answer.event);
                if flags.last {
                    Led::End(*id, decode(&json).ok()?)
                } else {
                    Led::Event(*id, String::from_utf8(json).ok()?)
                }
            }
            RecordType::Error if flags.last => Led::Failed(*id, decode(body).ok()?),
            _ => return None,
        };
        if flags.last {
            self.coming.remove(id);
            self.ended.push(Received(*id, *index));
        }
        Some(led)
    }
}
