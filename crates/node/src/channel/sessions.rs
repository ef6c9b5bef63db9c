//! All sessions of version 2, by their names and by their tickets.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use fabstir_protocol::{
    identity::PublicKey,
    v2::{Limits, OpenedR1, R1, Sid, SignedDelegation, Ticket},
};
use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep};

use super::session::Session;
use crate::{access::Access, crypto::lock, ledger::EndReason};

/// The bounds of channels.
#[derive(Clone, Copy, Debug)]
pub struct ChannelLimits {
    /// Sessions held at once.
    pub sessions: usize,
    /// Most bytes of a request.
    pub max_request_bytes: usize,
    /// Most requests of one session at once.
    pub max_requests: usize,
    /// How long message 3 may take after message 2.
    pub handshake: Duration,
    /// How long answers go on being made without a connection.
    pub grace: Duration,
    /// How long they are kept without one.
    pub keep: Duration,
    /// How long a ticket lasts without one.
    pub ticket: Duration,
    /// How long a session may be idle.
    pub idle: Duration,
    /// How long a session may last in all, once nothing is being answered.
    pub longest: Duration,
}

impl ChannelLimits {
    /// As clients are told of them.
    pub(super) fn to_wire(self) -> Limits {
        Limits {
            max_request_bytes: u64::try_from(self.max_request_bytes).unwrap_or(u64::MAX),
            max_requests: u32::try_from(self.max_requests).unwrap_or(u32::MAX),
            grace_seconds: self.grace.as_secs(),
            keep_seconds: self.keep.as_secs(),
            ticket_seconds: self.ticket.as_secs(),
        }
    }
}

/// Delegations whose signature was verified are remembered, so many.
const VERIFIED: usize = 4096;

#[derive(Debug, Default)]
struct Inner {
    by_name: HashMap<Sid, Arc<Session>>,
    tickets: HashMap<[u8; 32], (Ticket, Sid)>,
    /// Whose ticket is which, so that a session has one at most.
    ticket_of: HashMap<Sid, [u8; 32]>,
    verified: HashMap<[u8; 32], ()>,
}

impl Inner {
    fn burn(&mut self, name: Sid) -> Option<Ticket> {
        let id = self.ticket_of.remove(&name)?;
        self.tickets.remove(&id).map(|(ticket, _)| ticket)
    }
}

/// The sessions, in memory only.
#[derive(Debug)]
pub struct Sessions {
    inner: Mutex<Inner>,
    limits: ChannelLimits,
}

impl Sessions {
    /// None yet.
    pub fn new(limits: ChannelLimits) -> Self {
        Self { inner: Mutex::default(), limits }
    }

    /// The bounds.
    pub fn limits(&self) -> &ChannelLimits {
        &self.limits
    }

    /// How many there are, and how many tickets.
    pub fn count(&self) -> (usize, usize) {
        let inner = lock(&self.inner);
        (inner.by_name.len(), inner.tickets.len())
    }

    /// Takes a session in. False where there is no room.
    pub(super) fn open(&self, session: &Arc<Session>) -> bool {
        let mut inner = lock(&self.inner);
        if inner.by_name.len() >= self.limits.sessions {
            return false;
        }
        inner.by_name.insert(session.name, Arc::clone(session));
        true
    }

    /// Puts the session's next ticket in the place of the one before.
    pub(super) fn issue(&self, session: &Session, ticket: Ticket) {
        let mut inner = lock(&self.inner);
        inner.burn(session.name);
        if inner.by_name.contains_key(&session.name) {
            inner.ticket_of.insert(session.name, *ticket.id());
            inner.tickets.insert(*ticket.id(), (ticket, session.name));
        }
    }

    /// The session that an r1 resumes. Its ticket is burnt, if the r1 opens under it and only then.
    pub(super) fn redeem(&self, r1: &R1<'_>) -> Option<(OpenedR1, Arc<Session>)> {
        let mut inner = lock(&self.inner);
        let (ticket, name) = inner.tickets.get(r1.ticket)?;
        let (opened, name) = (r1.open(ticket).ok()?, *name);
        inner.burn(name);
        let session = inner.by_name.get(&name)?;
        Some((opened, Arc::clone(session)))
    }

    /// The session of a claim, if the claimant's key is the one that opened it. Its ticket is burnt.
    pub(super) fn claim(&self, name: Sid, key: &PublicKey) -> Option<Arc<Session>> {
        let mut inner = lock(&self.inner);
        let session = inner
            .by_name
            .get(&name)
            .filter(|session| session.static_key == *key && !session.is_barred())
            .map(Arc::clone)?;
        inner.burn(name);
        Some(session)
    }

    /// Ends a session: its keys, its ticket and its words are gone.
    pub(crate) fn end(&self, session: &Session, reason: EndReason) {
        let mut inner = lock(&self.inner);
        inner.burn(session.name);
        inner.by_name.remove(&session.name);
        drop(inner);
        session.end(reason);
    }

    fn has_ticket(&self, session: &Session) -> bool {
        lock(&self.inner).ticket_of.contains_key(&session.name)
    }

    /// Follows a session that has lost its connection until it has another one, or is over.
    pub(crate) async fn follow_lost(&self, session: Arc<Session>, epoch: u64) {
        let steps = [
            (self.limits.grace, Session::cancel_all as fn(&Session)),
            (self.limits.keep, Session::drop_text),
            (self.limits.ticket, |_| {}),
        ];
        // Without a ticket there is nothing but a claim to come back by, and not for long.
        let steps = if self.has_ticket(&session) { &steps[..] } else { steps.get(..2).unwrap_or_default() };
        let mut before = Duration::ZERO;
        for (after, act) in steps.iter().copied() {
            sleep(after.saturating_sub(before)).await;
            before = before.max(after);
            if !session.is_lost_since(epoch) {
                return;
            }
            act(&session);
        }
        self.end(&session, EndReason::Disconnect);
    }

    /// Says goodbye to sessions that were idle for too long, or are too old.
    pub(crate) fn sweep(&self, now: Instant) {
        let over: Vec<Arc<Session>> = lock(&self.inner)
            .by_name
            .values()
            .filter(|session| {
                let old = now.saturating_duration_since(session.opened) >= self.limits.longest;
                (old || session.idle(now) >= self.limits.idle) && !session.is_busy()
            })
            .map(Arc::clone)
            .collect();
        for session in over {
            session.say_goodbye("the session has expired", EndReason::Expired);
        }
    }

    /// Shows out whoever is no longer admitted. Nobody comes back by a ticket that they had before.
    pub(crate) fn judge(&self, access: &Access) {
        let out: Vec<Arc<Session>> = {
            let mut inner = lock(&self.inner);
            let out: Vec<_> = inner
                .by_name
                .values()
                .filter(|session| !session.is_admitted(access))
                .map(Arc::clone)
                .collect();
            for session in &out {
                inner.burn(session.name);
            }
            out
        };
        for session in out {
            tracing::info!(session_id = %session.name, "channel ended: its client is no longer allowed");
            if !session.bar() {
                self.end(&session, EndReason::Denied);
            }
        }
    }

    /// Ends everything.
    pub fn wipe(&self) {
        let sessions: Vec<_> = std::mem::take(&mut *lock(&self.inner)).by_name.into_values().collect();
        for session in sessions {
            session.end(EndReason::Drain);
        }
    }

    /// Whether a delegation's signature was verified before; its times and its node are judged anew each time.
    pub(super) fn was_verified(&self, delegation: &SignedDelegation) -> bool {
        lock(&self.inner).verified.contains_key(&fingerprint(delegation))
    }

    pub(super) fn remember_verified(&self, delegation: &SignedDelegation) {
        let mut inner = lock(&self.inner);
        if inner.verified.len() >= VERIFIED {
            // To verify again costs a recovery: nothing is lost that matters.
            inner.verified.clear();
        }
        inner.verified.insert(fingerprint(delegation), ());
    }
}

fn fingerprint(delegation: &SignedDelegation) -> [u8; 32] {
    Sha256::digest(delegation.to_bytes()).into()
}
