//! What a session has to say, in the order in which it goes out.

use std::time::Duration;

use fabstir_protocol::v2::{Flags, Goodbye, RecordType, Shape, Welcome, encode};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::Session;
use crate::{channel::answer::Answer, crypto::lock, ledger::EndReason};

/// Words are put together for so long once the first are out.
const TICK: Duration = Duration::from_millis(40);

/// What is sent beside answers.
#[derive(Debug)]
pub(super) struct Control {
    kind: RecordType,
    flags: Flags,
    body: Zeroizing<Vec<u8>>,
}

/// The next record to seal.
#[derive(Debug)]
pub(in crate::channel) struct Outbound {
    pub(in crate::channel) kind: RecordType,
    pub(in crate::channel) flags: Flags,
    pub(in crate::channel) request: u32,
    pub(in crate::channel) index: u32,
    pub(in crate::channel) body: Zeroizing<Vec<u8>>,
}

/// What a pump is to do.
pub(in crate::channel) enum Next {
    Send(Outbound),
    /// Nothing before this moment.
    At(Instant),
    /// Nothing before somebody wakes it.
    Wait,
    /// Another connection has the session, or it is over.
    Over,
}

impl Session {
    /// Says something that is of no request.
    pub(in crate::channel) fn say(&self, kind: RecordType, flags: Flags, body: &impl serde::Serialize) {
        let mut inner = lock(&self.inner);
        // Behind the last word there is none.
        if inner.control.back().is_none_or(|last| !last.flags.last) {
            inner.control.push_back(Control { kind, flags, body: encode(body) });
        }
        drop(inner);
        self.wake.notify_waiters();
    }

    pub(in crate::channel) fn welcome(&self, welcome: &Welcome) {
        self.say(RecordType::Welcome, Flags::NONE, welcome);
    }

    /// Ends the session: the client is told, and the connection closed behind that.
    pub(crate) fn say_goodbye(&self, reason: &str, why: EndReason) {
        self.account.end(why);
        self.say(RecordType::Goodbye, Flags::LAST, &Goodbye { reason: reason.to_owned() });
    }

    /// The next record for the connection of `epoch`.
    pub(in crate::channel) fn next(&self, epoch: u64) -> Next {
        let mut inner = lock(&self.inner);
        if inner.epoch != epoch || self.ended.is_cancelled() {
            return Next::Over;
        }
        if let Some(Control { kind, flags, body }) = inner.control.pop_front() {
            let index = inner.next_control;
            inner.next_control = index.saturating_add(1);
            drop(inner);
            self.room.notify_waiters();
            return Next::Send(Outbound { kind, flags, request: 0, index, body });
        }
        let tick = (inner.shape == Shape::Bucket).then_some(TICK);
        let now = Instant::now();
        let due =
            |(request, answer): (&u32, &Answer)| answer.due(tick, now).map(|due| (due.max(now), *request));
        // In turns: of those that may send now, the one after the one that did last.
        let turn = inner.turn;
        let Some((at, request)) = inner
            .answers
            .iter()
            .filter_map(due)
            .min_by_key(|(due, request)| (*due, *request <= turn, *request))
        else {
            return Next::Wait;
        };
        if at > now {
            return Next::At(at);
        }
        inner.turn = request;
        let Some(answer) = inner.answers.get_mut(&request) else { return Next::Wait };
        let outbound = answer.send().map(|(index, piece)| Outbound {
            kind: piece.kind,
            flags: piece.flags,
            request,
            index,
            body: piece.body.clone(),
        });
        inner.keep_within_bounds();
        drop(inner);
        self.room.notify_waiters();
        outbound.map_or(Next::Over, Next::Send)
    }

    /// Whether answers are being made or have not been sent.
    pub(in crate::channel) fn is_busy(&self) -> bool {
        let inner = lock(&self.inner);
        !inner.control.is_empty()
            || inner.answers.values().any(|answer| !answer.ended || answer.unsent_bytes() > 0)
    }

    /// Returns once nothing is being made or sent.
    pub(crate) async fn finished(&self) {
        while self.is_busy() {
            let sent = self.room.notified();
            tokio::pin!(sent);
            sent.as_mut().enable();
            if !self.is_busy() || self.ended.is_cancelled() {
                return;
            }
            sent.await;
        }
    }
}
