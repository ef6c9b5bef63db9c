//! The answers of a session: begun, added to, ended, cancelled, acknowledged.

use fabstir_protocol::v2::{Fault as WireFault, Received, encode};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{KEPT, Session};
use crate::{
    channel::answer::{Answer, Piece},
    crypto::lock,
    ledger::Standing,
};

/// Unsent bytes of an answer beyond which its making waits for the socket.
const UNSENT: usize = 256 << 10;

/// Answers that a client may leave unacknowledged, for each request that it may have open.
const UNACKNOWLEDGED: usize = 8;

impl Session {
    /// Begins an answer; `None` where `most` are begun already, or the session has another connection by now, whose
    /// client sends the request again.
    pub(in crate::channel) fn begin(
        &self,
        epoch: u64,
        request: u32,
        most: usize,
    ) -> Option<CancellationToken> {
        let mut inner = lock(&self.inner);
        if inner.epoch != epoch || self.is_barred() {
            return None;
        }
        let running = inner.answers.values().filter(|answer| !answer.ended).count();
        if running >= most || inner.answers.len() >= most.saturating_mul(UNACKNOWLEDGED) {
            return None;
        }
        let cancel = self.ended.child_token();
        inner.answers.insert(request, Answer::new(cancel.clone()));
        Some(cancel)
    }

    /// Refuses a request: an answer that is an end and nothing more. False where so many answers are not acknowledged
    /// that there is no place to say even that.
    #[must_use]
    pub(in crate::channel) fn refuse(
        &self,
        epoch: u64,
        request: u32,
        fault: &WireFault,
        most: usize,
    ) -> bool {
        let mut inner = lock(&self.inner);
        if inner.epoch != epoch {
            return true;
        }
        if inner.answers.len() >= most.saturating_mul(UNACKNOWLEDGED).saturating_mul(2) {
            return false;
        }
        let answer = inner.answers.entry(request).or_insert_with(|| Answer::new(CancellationToken::new()));
        answer.push(Piece::error(&encode(fault)));
        drop(inner);
        self.wake.notify_waiters();
        true
    }

    /// Adds to an answer, all of it or nothing. Waits while the socket does not take what there is.
    pub(in crate::channel) async fn push(&self, request: u32, pieces: Vec<Piece>) {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            if self.has_room(request) {
                break;
            }
            room.await;
        }
        let mut inner = lock(&self.inner);
        inner.last_active = Instant::now();
        if let Some(answer) = inner.answers.get_mut(&request) {
            pieces.into_iter().for_each(|piece| answer.push(piece));
        }
        drop(inner);
        self.wake.notify_waiters();
    }

    /// Ends an answer, whether there is room or not: its end is small.
    pub(in crate::channel) fn end_answer(&self, request: u32, pieces: Vec<Piece>) {
        let mut inner = lock(&self.inner);
        if let Some(answer) = inner.answers.get_mut(&request) {
            pieces.into_iter().for_each(|piece| answer.push(piece));
        }
        drop(inner);
        self.wake.notify_waiters();
    }

    fn has_room(&self, request: u32) -> bool {
        let inner = lock(&self.inner);
        let Some(answer) = inner.answers.get(&request) else { return true };
        let kept: usize = inner.answers.values().map(Answer::bytes).sum();
        if inner.attached.is_some() { answer.unsent_bytes() < UNSENT } else { kept < KEPT }
    }

    pub(in crate::channel) fn cancel(&self, request: u32) {
        // Of an unknown answer, or one that has ended, there is nothing to cancel.
        if let Some(answer) = lock(&self.inner).answers.get(&request) {
            answer.cancel.cancel();
        }
    }

    pub(in crate::channel) fn cancel_all(&self) {
        lock(&self.inner).answers.values().for_each(|answer| answer.cancel.cancel());
    }

    pub(in crate::channel) fn drop_text(&self) {
        let mut inner = lock(&self.inner);
        inner.answers.values_mut().for_each(Answer::drop_text);
        if inner.attached.is_none() {
            self.account.stand(Standing::TicketOnly);
        }
        drop(inner);
        self.room.notify_waiters();
    }

    pub(in crate::channel) fn acknowledge(&self, received: &[Received]) {
        lock(&self.inner).acknowledge(received);
        self.room.notify_waiters();
    }
}
