//! What a node makes of a client's records: requests put together, in order, within bounds.

use std::collections::{BTreeMap, HashSet};

use zeroize::Zeroizing;

use super::{
    body::{self, Ack, Cancel, Received},
    record::{Record, RecordType},
};
use crate::seal::OpenError;

/// Requests that one channel may begin again after resumptions, in all. More than any client has open.
const MOST_REMEMBERED: usize = 65_536;

/// Requests that may be on their way at once, whole ones not counted.
const MOST_UNFINISHED: usize = 256;

/// What a record led to.
#[derive(Debug)]
pub enum FromClient {
    /// A request is whole.
    Request(u32, Zeroizing<Vec<u8>>),
    /// A request is larger than it may be. Said once; what is left of it is passed over.
    TooLarge(u32),
    /// The client wants no more of an answer.
    Cancel(u32),
    /// The client has answers up to an index.
    Ack(Vec<Received>),
    /// The client leaves.
    Goodbye,
    /// Nothing yet.
    Nothing,
}

/// A request that is still coming.
#[derive(Debug)]
struct Partial {
    next: u32,
    /// `None` once it was too large.
    bytes: Option<Zeroizing<Vec<u8>>>,
}

/// The requests of one session, as far as they came.
#[derive(Debug)]
pub struct Requests {
    max_bytes: usize,
    control: u32,
    highest: u32,
    /// Of ids up to this one, those not known may begin once more: what a resumption left behind.
    again_up_to: u32,
    known: HashSet<u32>,
    open: BTreeMap<u32, Partial>,
    /// Bytes of all that is open.
    buffered: usize,
}

impl Requests {
    /// For requests of at most `max_bytes`.
    pub fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            control: 0,
            highest: 0,
            again_up_to: 0,
            known: HashSet::new(),
            open: BTreeMap::new(),
            buffered: 0,
        }
    }

    /// Drops what is not whole: the connection that it came by is gone.
    pub fn drop_unfinished(&mut self) {
        self.open.clear();
        self.buffered = 0;
    }

    /// The same session on a new channel: what was not whole is dropped, and ids that are not `known` may begin again.
    pub fn resume(&mut self, known: impl IntoIterator<Item = u32>) {
        self.control = 0;
        self.drop_unfinished();
        self.again_up_to = self.highest;
        self.known = known.into_iter().collect();
    }

    /// Whether nothing was ever asked.
    pub fn is_untouched(&self) -> bool {
        self.highest == 0
    }

    /// Bytes of requests that are not whole yet.
    pub fn unfinished_bytes(&self) -> usize {
        self.buffered
    }

    /// Takes the next record.
    ///
    /// # Errors
    /// [`OpenError`] for one that is out of place: the connection has to end.
    pub fn take(&mut self, record: Record) -> Result<FromClient, OpenError> {
        match record.kind {
            RecordType::Request => return self.request(record),
            RecordType::Cancel | RecordType::Ack | RecordType::Goodbye => {}
            RecordType::Text | RecordType::Event | RecordType::Error | RecordType::Welcome => {
                return Err(OpenError);
            }
        }
        if record.index != self.control {
            return Err(OpenError);
        }
        self.control = self.control.checked_add(1).ok_or(OpenError)?;
        if record.kind == RecordType::Goodbye {
            return Ok(FromClient::Goodbye);
        }
        if record.kind == RecordType::Cancel {
            let Cancel { request } = body::decode(&record.body).map_err(|_| OpenError)?;
            return Ok(FromClient::Cancel(request));
        }
        let Ack { received } = body::decode(&record.body).map_err(|_| OpenError)?;
        Ok(FromClient::Ack(received))
    }

    fn request(&mut self, record: Record) -> Result<FromClient, OpenError> {
        let Record { flags, request: id, index, body, .. } = record;
        if index == 0 {
            self.begin(id)?;
        }
        let all = self.unfinished_bytes().saturating_add(body.len());
        let partial = self.open.get_mut(&id).filter(|partial| partial.next == index).ok_or(OpenError)?;
        partial.next = index.checked_add(1).ok_or(OpenError)?;
        let so_far = partial.bytes.as_ref().map_or(0, |bytes| bytes.len());
        // Two whole requests' worth may be on their way at once.
        let fits =
            so_far.saturating_add(body.len()) <= self.max_bytes && all <= self.max_bytes.saturating_mul(2);
        let too_large = !fits && partial.bytes.take().is_some();
        if too_large {
            self.buffered = self.buffered.saturating_sub(so_far);
        }
        if let Some(bytes) = &mut partial.bytes {
            append(bytes, &body);
            self.buffered = self.buffered.saturating_add(body.len());
        }
        if flags.last
            && let Some(Partial { bytes, .. }) = self.open.remove(&id)
            && let Some(bytes) = bytes
        {
            self.buffered = self.buffered.saturating_sub(bytes.len());
            return Ok(FromClient::Request(id, bytes));
        }
        Ok(if too_large { FromClient::TooLarge(id) } else { FromClient::Nothing })
    }

    fn begin(&mut self, id: u32) -> Result<(), OpenError> {
        if self.open.len() >= MOST_UNFINISHED {
            return Err(OpenError);
        }
        if id > self.highest {
            self.highest = id;
        } else {
            let again = id <= self.again_up_to && self.known.len() < MOST_REMEMBERED;
            if !again || !self.known.insert(id) {
                return Err(OpenError);
            }
        }
        self.open.insert(id, Partial { next: 0, bytes: Some(Zeroizing::new(Vec::new())) });
        Ok(())
    }
}

/// Appends without leaving a copy of what was there in freed memory.
pub(super) fn append(bytes: &mut Zeroizing<Vec<u8>>, more: &[u8]) {
    let length = bytes.len().saturating_add(more.len());
    if bytes.capacity() < length {
        let mut grown = Zeroizing::new(Vec::with_capacity(length.max(bytes.capacity().saturating_mul(2))));
        grown.extend_from_slice(bytes);
        *bytes = grown;
    }
    bytes.extend_from_slice(more);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What has room stays where it is; what has none moves once, and not at each piece.
    #[test]
    fn bytes_move_only_where_there_is_no_room() {
        let mut bytes = Zeroizing::new(Vec::with_capacity(4));
        let (place, room) = (bytes.as_ptr(), bytes.capacity());
        append(&mut bytes, b"ab");
        append(&mut bytes, b"cd");
        assert_eq!((bytes.as_ptr(), bytes.capacity()), (place, room));
        append(&mut bytes, b"e");
        assert_eq!((bytes.as_slice(), bytes.capacity()), (b"abcde".as_slice(), 2 * room));
    }
}
