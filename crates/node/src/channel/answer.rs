//! One answer as the node holds it: what is still to be sent, and what was sent and may have to be sent again.

use std::{collections::VecDeque, time::Duration};

use fabstir_protocol::v2::{Flags, MAX_BODY, RecordType};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

/// What a record says, without its place.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) kind: RecordType,
    pub(super) flags: Flags,
    pub(super) body: Zeroizing<Vec<u8>>,
}

impl Piece {
    /// Words, in as many records as it takes: each of them is UTF-8 by itself.
    pub(super) fn text(mut words: &str) -> Vec<Self> {
        let mut pieces = Vec::new();
        while !words.is_empty() {
            let (part, rest) = words.split_at(words.floor_char_boundary(MAX_BODY));
            let body = Zeroizing::new(part.as_bytes().to_vec());
            pieces.push(Self { kind: RecordType::Text, flags: Flags::NONE, body });
            words = rest;
        }
        pieces
    }

    /// An event, in as many records as it takes.
    pub(super) fn event(json: &[u8], last: bool) -> Vec<Self> {
        let parts: Vec<&[u8]> = if json.is_empty() { vec![&[]] } else { json.chunks(MAX_BODY).collect() };
        let end = parts.len().saturating_sub(1);
        let piece = |(at, part): (usize, &&[u8])| Self {
            kind: RecordType::Event,
            flags: Flags { last: last && at == end, more: at != end },
            body: Zeroizing::new(part.to_vec()),
        };
        parts.iter().enumerate().map(piece).collect()
    }

    pub(super) fn error(json: &[u8]) -> Self {
        Self { kind: RecordType::Error, flags: Flags::LAST, body: Zeroizing::new(json.to_vec()) }
    }

    fn is_text(&self) -> bool {
        self.kind == RecordType::Text
    }

    /// Takes the words of the piece that follows, where both are words and a record has room for them.
    fn take(&mut self, next: &Self) -> bool {
        let length = self.body.len().saturating_add(next.body.len());
        if !self.is_text() || !next.is_text() || length > MAX_BODY {
            return false;
        }
        if length > self.body.capacity() {
            // Never grown, so that no copy of a part of it stays behind.
            let mut roomy = Zeroizing::new(Vec::with_capacity(length.saturating_mul(2).min(MAX_BODY)));
            roomy.extend_from_slice(&self.body);
            self.body = roomy;
        }
        self.body.extend_from_slice(&next.body);
        true
    }
}

/// A record that was sent.
#[derive(Debug)]
struct Sent {
    index: u32,
    piece: Piece,
}

/// An answer, from its request to the moment when the client has all of it.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) cancel: CancellationToken,
    unsent: VecDeque<Piece>,
    sent: VecDeque<Sent>,
    /// Bytes of both.
    bytes: usize,
    /// Index of the next record.
    next: u32,
    /// Index of the first record that is still kept.
    first_kept: u32,
    /// Whether the last record is among the pieces, or was.
    pub(super) ended: bool,
    /// Whether what there was of it was dropped.
    gone: bool,
    /// When words were last sent: they are put together until the next tick.
    last_sent: Option<Instant>,
}

impl Answer {
    pub(super) fn new(cancel: CancellationToken) -> Self {
        Self {
            cancel,
            unsent: VecDeque::new(),
            sent: VecDeque::new(),
            bytes: 0,
            next: 0,
            first_kept: 0,
            ended: false,
            gone: false,
            last_sent: None,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn unsent_bytes(&self) -> usize {
        self.unsent.iter().map(|piece| piece.body.len()).sum()
    }

    /// Takes what comes next of the answer.
    pub(super) fn push(&mut self, piece: Piece) {
        if self.ended {
            return;
        }
        self.ended = piece.flags.last;
        self.bytes = self.bytes.saturating_add(piece.body.len());
        // Words that wait take the room of their bytes, not of a record for each token.
        if self.unsent.back_mut().is_none_or(|last| !last.take(&piece)) {
            self.unsent.push_back(piece);
        }
    }

    /// When something may be sent: at once, or where only words wait, a tick after the last ones.
    pub(super) fn due(&self, tick: Option<Duration>, now: Instant) -> Option<Instant> {
        let first = self.unsent.front()?;
        let only_words = first.is_text() && self.unsent.iter().all(Piece::is_text);
        match (tick, self.last_sent) {
            (Some(tick), Some(sent)) if only_words => Some(sent.checked_add(tick).unwrap_or(now)),
            _ => Some(now),
        }
    }

    /// The next record, with its index. It stays until the client says that it came. Words that follow each other go
    /// together.
    pub(super) fn send(&mut self) -> Option<(u32, &Piece)> {
        let mut piece = self.unsent.pop_front()?;
        if piece.is_text() {
            self.last_sent = Some(Instant::now());
            self.put_together(&mut piece);
        }
        let index = self.next;
        self.next = index.checked_add(1)?;
        self.sent.push_back(Sent { index, piece });
        self.sent.back().map(|sent| (sent.index, &sent.piece))
    }

    fn put_together(&mut self, piece: &mut Piece) {
        let mut length = piece.body.len();
        let mut count: usize = 0;
        for other in &self.unsent {
            let more = length.saturating_add(other.body.len());
            if !other.is_text() || more > MAX_BODY {
                break;
            }
            length = more;
            count = count.saturating_add(1);
        }
        if count == 0 {
            return;
        }
        // Never grown, so that no copy of a part of it stays behind.
        let mut whole = Zeroizing::new(Vec::with_capacity(length));
        whole.extend_from_slice(&piece.body);
        for other in self.unsent.drain(..count) {
            whole.extend_from_slice(&other.body);
        }
        piece.body = whole;
    }

    /// Whether a record of this index was sent.
    pub(super) fn has_sent(&self, index: u32) -> bool {
        index < self.next
    }

    /// The client has everything up to `last`. True where that is all there is.
    pub(super) fn acknowledge(&mut self, last: u32) -> bool {
        while self.sent.front().is_some_and(|sent| sent.index <= last) {
            self.forget_first();
        }
        let all = self.unsent.is_empty() && self.sent.is_empty() && last.checked_add(1) == Some(self.next);
        self.ended && !self.gone && all
    }

    fn forget_first(&mut self) {
        if let Some(Sent { index, piece }) = self.sent.pop_front() {
            self.bytes = self.bytes.saturating_sub(piece.body.len());
            self.first_kept = index.saturating_add(1);
        }
    }

    /// Forgets the oldest of what was sent until no more than `most` bytes are kept.
    pub(super) fn keep_at_most(&mut self, most: usize) {
        while self.bytes > most && !self.sent.is_empty() {
            self.forget_first();
        }
    }

    /// The client has everything up to `received` and nothing after it: what was sent since is to be sent again.
    /// False where some of that is kept no longer.
    pub(super) fn resume(&mut self, received: Option<u32>) -> bool {
        let next = received.map_or(0, |last| last.saturating_add(1));
        if self.gone || next > self.next || next < self.first_kept {
            return false;
        }
        while let Some(sent) = self.sent.pop_back_if(|sent| sent.index >= next) {
            self.unsent.push_front(sent.piece);
        }
        if let Some(last) = received {
            self.acknowledge(last);
        }
        self.next = next;
        self.last_sent = None;
        true
    }

    /// Drops every word; what is left to say is `piece`, at the index that the client has next.
    pub(super) fn replace(&mut self, received: Option<u32>, piece: Piece) {
        self.forget();
        self.ended = false;
        self.gone = false;
        self.next = received.map_or(0, |last| last.saturating_add(1));
        self.first_kept = self.next;
        self.push(piece);
    }

    /// Drops every word: they were kept for long enough. Resuming it from here on is refused.
    pub(super) fn drop_text(&mut self) {
        self.forget();
        self.ended = true;
        self.gone = true;
    }

    /// Lets go of the words, and of the room for their pieces: a session may rest for long after it.
    fn forget(&mut self) {
        self.cancel.cancel();
        (self.unsent, self.sent) = (VecDeque::new(), VecDeque::new());
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests;
