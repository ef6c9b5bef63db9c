//! What a client makes of a node's records: answers put together, each whole or not at all.

use std::collections::{BTreeMap, VecDeque};

use zeroize::Zeroizing;

use super::{
    body::{self, Ack, End, Fault, Goodbye, Received, Welcome},
    record::{Record, RecordType},
    requests::append,
};
use crate::seal::{OpenError, Words};

/// Most bytes of one event, over all its records.
const MAX_EVENT: usize = 16 << 20;
/// Records of answers after which the node is told what came, so that it need not keep it.
const ACK_EVERY: u32 = 64;
/// Answers that ended lately, named once more when a session is resumed: the word that they came may have been lost.
const LATELY: usize = 64;

/// What a record led to.
#[derive(Debug)]
pub enum FromNode {
    /// The session is open.
    Welcome(Welcome),
    /// The next words of an answer.
    Text(u32, Words),
    /// The next object of an answer: JSON.
    Event(u32, Words),
    /// An answer is whole.
    End(u32, End),
    /// There is no answer, or no more of it.
    Failed(u32, Fault),
    /// The node refuses something that is of no request; with `true` it ends the connection.
    Fault(Fault, bool),
    /// The node leaves.
    Goodbye(Goodbye),
    /// Nothing yet.
    Nothing,
}

/// An answer as far as it came.
#[derive(Debug, Default)]
struct Progress {
    next: u32,
    /// The beginning of an event that goes on.
    event: Zeroizing<Vec<u8>>,
    in_event: bool,
}

/// The answers of one session.
#[derive(Debug, Default)]
pub struct Answers {
    control: u32,
    /// Whether the node has said its first word on this channel: nothing else counts before it.
    welcomed: bool,
    open: BTreeMap<u32, Progress>,
    lately: VecDeque<Received>,
    /// Records since the node was last told.
    unsaid: u32,
    ended: bool,
}

impl Answers {
    /// Expects the answer to a request.
    pub fn expect(&mut self, request: u32) {
        self.open.entry(request).or_default();
    }

    /// What came of the answers, for a resumption.
    pub fn received(&self) -> Vec<Received> {
        let begun = self.open.iter().filter_map(|(id, one)| Some(Received(*id, one.next.checked_sub(1)?)));
        begun.chain(self.lately.iter().copied()).collect()
    }

    /// The same session on a new channel: what belongs to the connection is numbered anew.
    pub fn reconnect(&mut self) {
        self.control = 0;
        self.welcomed = false;
    }

    /// The welcome came another way: in the second message of a resumption.
    pub fn set_welcomed(&mut self) {
        self.welcomed = true;
    }

    /// Another session on the same connection's channel: a claim that was not honoured.
    #[must_use]
    pub fn anew(&self) -> Self {
        Self { control: self.control, welcomed: self.welcomed, ..Self::default() }
    }

    /// The open requests that are not among those that the node knows, and that nothing came of: they are to be sent
    /// again.
    pub fn unknown_to(&self, known: &[u32]) -> Vec<u32> {
        self.open.iter().filter(|(id, one)| one.next == 0 && !known.contains(id)).map(|(id, _)| *id).collect()
    }

    /// The open requests that something came of and that the node does not know any more: they are cut off. They are
    /// not sent again, for what came would be made a second time.
    pub fn lost_to(&mut self, known: &[u32]) -> Vec<u32> {
        let lost: Vec<u32> = (self.open.iter())
            .filter(|(id, one)| one.next > 0 && !known.contains(id))
            .map(|(id, _)| *id)
            .collect();
        self.open.retain(|id, _| !lost.contains(id));
        lost
    }

    /// Whether an answer has begun or is awaited.
    pub fn is_open(&self, request: u32) -> bool {
        self.open.contains_key(&request)
    }

    /// The requests that have no answer yet, or half of one.
    pub fn unfinished(&self) -> Vec<u32> {
        self.open.keys().copied().collect()
    }

    /// What the node is to be told now, if anything.
    pub fn due_ack(&mut self) -> Option<Ack> {
        let due = self.ended || self.unsaid >= ACK_EVERY;
        due.then(|| {
            self.unsaid = 0;
            self.ended = false;
            Ack { received: self.received() }
        })
    }

    /// Takes the next record.
    ///
    /// # Errors
    /// [`OpenError`] for one that is out of place: the connection has to end.
    pub fn take(&mut self, record: Record) -> Result<FromNode, OpenError> {
        if record.request == 0 {
            return self.control(&record);
        }
        if !self.welcomed {
            return Err(OpenError);
        }
        let Record { kind, flags, request, index, body } = record;
        let progress = self.open.get_mut(&request).filter(|one| one.next == index).ok_or(OpenError)?;
        progress.next = index.checked_add(1).ok_or(OpenError)?;
        self.unsaid = self.unsaid.saturating_add(1);
        // An event that goes on is followed by its next part and nothing else.
        if progress.in_event && kind == RecordType::Text {
            return Err(OpenError);
        }
        let led = match kind {
            RecordType::Text => {
                let words = std::str::from_utf8(&body).map_err(|_| OpenError)?;
                FromNode::Text(request, Words::from(words))
            }
            RecordType::Event => {
                if progress.event.len().saturating_add(body.len()) > MAX_EVENT {
                    return Err(OpenError);
                }
                append(&mut progress.event, &body);
                progress.in_event = flags.more;
                if flags.more {
                    return Ok(FromNode::Nothing);
                }
                let json = std::mem::take(&mut progress.event);
                if flags.last {
                    FromNode::End(request, body::decode(&json).map_err(|_| OpenError)?)
                } else {
                    FromNode::Event(request, Words::from(std::str::from_utf8(&json).map_err(|_| OpenError)?))
                }
            }
            RecordType::Error => FromNode::Failed(request, body::decode(&body).map_err(|_| OpenError)?),
            RecordType::Request
            | RecordType::Welcome
            | RecordType::Cancel
            | RecordType::Ack
            | RecordType::Goodbye => return Err(OpenError),
        };
        // An error under a request is its end, and says so.
        if flags.last {
            self.close(request, index);
        } else if kind == RecordType::Error {
            return Err(OpenError);
        }
        Ok(led)
    }

    fn close(&mut self, request: u32, index: u32) {
        self.open.remove(&request);
        self.ended = true;
        self.lately.push_back(Received(request, index));
        if self.lately.len() > LATELY {
            self.lately.pop_front();
        }
    }

    fn control(&mut self, record: &Record) -> Result<FromNode, OpenError> {
        if record.index != self.control {
            return Err(OpenError);
        }
        let due = !std::mem::replace(&mut self.welcomed, true);
        self.control = self.control.checked_add(1).ok_or(OpenError)?;
        let body = &record.body;
        match record.kind {
            // The welcome comes first, and once.
            RecordType::Welcome if due => body::decode(body).map(FromNode::Welcome).map_err(|_| OpenError),
            // Without a welcome there is one thing to say: why there is none.
            RecordType::Goodbye if !due => body::decode(body).map(FromNode::Goodbye).map_err(|_| OpenError),
            RecordType::Error => {
                let fault = body::decode(body).map_err(|_| OpenError)?;
                Ok(FromNode::Fault(fault, record.flags.last))
            }
            RecordType::Welcome
            | RecordType::Request
            | RecordType::Text
            | RecordType::Event
            | RecordType::Cancel
            | RecordType::Ack
            | RecordType::Goodbye => Err(OpenError),
        }
    }
}
