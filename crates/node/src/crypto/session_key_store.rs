//! The registry of sessions. In memory only; every critical section is short and awaits nothing.
//!
//! A live key belongs to (connection, session id), a conversation to (verified address, session id), so a
//! stranger who names somebody's session id meets nothing but their own conversation.

mod held;
mod records;
mod refused;
mod running;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use fabstir_protocol::{
    error::ReplayError,
    id::SessionId,
    v1::{Established, InitMemory, InitMemoryLimits, Network, Owner, ProcessSecret, Session},
};
use rand_core::CryptoRng;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use held::SessionKeyMetrics;
pub use refused::OpenRefused;
pub use running::Running;

use self::{
    records::{ConversationKey, Holder, Record},
    refused::OpenFault,
};
use super::{LiveSession, lock};
use crate::{
    ledger::{Account, Client, EndReason, Ledger},
    limits::Limit,
    node::Clock,
};

/// One socket, for as long as the process runs.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct ConnectionId(pub u64);

/// The bounds of a [`SessionKeyStore`].
#[derive(Clone, Copy, Debug)]
pub struct StoreLimits {
    /// Conversations held at once, those in their grace included.
    pub sessions: usize,
    /// Sessions of one connection.
    pub per_connection: usize,
    /// How long a session may be idle.
    pub ttl: Duration,
    /// How long a conversation may last in all.
    pub session_max: Duration,
    /// How long a claimed conversation outlives its last connection.
    pub grace: Duration,
}

#[derive(Debug)]
struct Inner {
    live: HashMap<ConnectionId, HashMap<SessionId, Arc<LiveSession>>>,
    records: HashMap<ConversationKey, Record>,
    /// Every key that may still be in memory, superseded ones of running answers included.
    keys: Vec<Weak<LiveSession>>,
    memory: InitMemory,
    next_number: u64,
    expired: u64,
}

/// Session keys and conversations. Thread-safe, memory only, bounded, swept.
#[derive(Debug)]
pub struct SessionKeyStore {
    inner: Mutex<Inner>,
    limits: StoreLimits,
    clock: Clock,
    ledger: Arc<Ledger>,
}

impl SessionKeyStore {
    /// An empty store.
    pub fn new(limits: StoreLimits, clock: Clock, rng: &mut impl CryptoRng) -> Self {
        let memory =
            InitMemory::new(ProcessSecret::random(rng), InitMemoryLimits::standard(limits.ttl.as_secs()));
        let inner = Inner {
            live: HashMap::new(),
            records: HashMap::new(),
            keys: Vec::new(),
            memory,
            next_number: 0,
            expired: 0,
        };
        Self { inner: Mutex::new(inner), limits, clock, ledger: Arc::default() }
    }

    /// The same, with accounts in `ledger`.
    #[must_use]
    pub fn with_ledger(self, ledger: Arc<Ledger>) -> Self {
        Self { ledger, ..self }
    }

    /// Takes an authenticated init in: refuses a replay, continues the owner's conversation or begins one,
    /// replaces the key that the id had on this connection, and ends the same owner's session elsewhere.
    ///
    /// # Errors
    /// [`OpenRefused`]; nothing changes then.
    pub fn open(
        &self,
        established: Established,
        connection: ConnectionId,
        network: Network,
        now: Instant,
    ) -> Result<Arc<LiveSession>, OpenRefused> {
        let mut inner = lock(&self.inner);
        let owner = Some(established.owner);
        let (key, number) = self.place(&mut inner, owner, connection, &established.id, now)?;
        inner.memory.admit(&established, number, network, self.clock.unix(now))?;
        let Established { id, session, .. } = established;
        let live = self.insert(&mut inner, key, (connection, id, number), owner, Some(session), now);
        drop(inner);
        tracing::info!(event = "session_key", "Session key stored for session: {}", live.id);
        Ok(live)
    }

    /// Refuses an init that was seen. That it is new is for [`SessionKeyStore::open`] to say, in one step with taking it in.
    ///
    /// # Errors
    /// [`ReplayError`].
    pub fn refuse_seen(&self, established: &Established, now: Instant) -> Result<(), ReplayError> {
        lock(&self.inner).memory.refuse_seen(established, self.clock.unix(now))
    }

    /// Takes note of an init whose session ends as it begins. Refuses a replay.
    ///
    /// # Errors
    /// [`OpenRefused`]; nothing changes then.
    pub fn probe(
        &self,
        established: &Established,
        network: Network,
        now: Instant,
    ) -> Result<(), OpenRefused> {
        let mut inner = lock(&self.inner);
        let (number, unix) = (inner.next_number, self.clock.unix(now));
        inner.memory.admit(established, number, network, unix)?;
        inner.next_number = number.saturating_add(1);
        inner.memory.conversation_ended(number, unix);
        Ok(())
    }

    /// Opens a plaintext session.
    ///
    /// # Errors
    /// [`OpenRefused`]; nothing changes then.
    pub fn open_plaintext(
        &self,
        id: SessionId,
        connection: ConnectionId,
        now: Instant,
    ) -> Result<Arc<LiveSession>, OpenRefused> {
        let mut inner = lock(&self.inner);
        let (key, number) = self.place(&mut inner, None, connection, &id, now)?;
        Ok(self.insert(&mut inner, key, (connection, id, number), None, None, now))
    }

    /// Whether there is room and right for a session, and the number of its conversation.
    fn place(
        &self,
        inner: &mut Inner,
        owner: Option<Owner>,
        connection: ConnectionId,
        id: &SessionId,
        now: Instant,
    ) -> Result<(ConversationKey, u64), OpenRefused> {
        let key = ConversationKey::of(owner, connection, id);
        if let Some(record) = inner.records.get(&key).filter(|record| record.is_expired(&self.limits, now)) {
            if record.running > 0 && record.holder == Holder::Connection(connection) {
                // A running answer is not cut: it goes on under its key, and what comes now is another conversation.
                self.forget(inner, &key, now);
            } else {
                self.expire(inner, &key, now);
            }
        }
        let on_connection = inner.live.get(&connection);
        let held = on_connection.and_then(|sessions| sessions.get(id));
        if held.is_some_and(|live| live.owner != owner) {
            return Err(OpenRefused::Protocol(OpenFault::OtherOwner));
        }
        let crowded = held.is_none() && on_connection.map_or(0, HashMap::len) >= self.limits.per_connection;
        let record = inner.records.get(&key);
        if crowded {
            return Err(OpenRefused::Full(Limit::SessionsPerConnection));
        }
        if record.is_none() && inner.records.len() >= self.limits.sessions {
            return Err(OpenRefused::Full(Limit::Sessions));
        }
        Ok((key, record.map_or(inner.next_number, |record| record.number)))
    }

    fn insert(
        &self,
        inner: &mut Inner,
        key: ConversationKey,
        (connection, id, number): (ConnectionId, SessionId, u64),
        owner: Option<Owner>,
        session: Option<Session>,
        now: Instant,
    ) -> Arc<LiveSession> {
        inner.next_number = inner.next_number.max(number.saturating_add(1));
        let record = inner.records.entry(key).or_insert_with(|| Record {
            number,
            conversation: Arc::default(),
            holder: Holder::Connection(connection),
            first_init: now,
            last_active: now,
            running: 0,
        });
        record.last_active = now;
        let before = std::mem::replace(&mut record.holder, Holder::Connection(connection));
        let conversation = Arc::clone(&record.conversation);
        if let Holder::Connection(other) = before
            && other != connection
        {
            remove(&mut inner.live, other, &id, EndReason::Replaced);
        }
        let sessions = inner.live.entry(connection).or_default();
        // Running answers of the key that is replaced belong to the same conversation: they go on.
        let ended = sessions.get(&id).map_or_else(CancellationToken::new, |live| live.ended.clone());
        let key = session.map(Mutex::new);
        let account = Arc::new(Account::new(1, id.as_str(), client(owner)));
        self.ledger.open(&account);
        let live = Arc::new(LiveSession { id: id.clone(), owner, key, conversation, number, ended, account });
        if let Some(before) = sessions.insert(id, Arc::clone(&live)) {
            before.account.end(EndReason::Replaced);
        }
        if !live.is_plaintext() {
            inner.keys.push(Arc::downgrade(&live));
        }
        live
    }

    /// The session that this connection holds under `id`, unless it has expired.
    pub fn session(
        &self,
        connection: ConnectionId,
        id: &SessionId,
        now: Instant,
    ) -> Option<Arc<LiveSession>> {
        let mut inner = lock(&self.inner);
        let live = inner.live.get(&connection)?.get(id).map(Arc::clone)?;
        let key = ConversationKey::of(live.owner, connection, id);
        let record = inner.records.get(&key)?;
        if !record.is_expired(&self.limits, now) {
            return Some(live);
        }
        if record.running == 0 {
            self.expire(&mut inner, &key, now);
        }
        None
    }

    /// Whether an init of `owner` would go on with a conversation that there is.
    pub fn continues(
        &self,
        owner: Option<Owner>,
        connection: ConnectionId,
        id: &SessionId,
        now: Instant,
    ) -> bool {
        let inner = lock(&self.inner);
        let record = inner.records.get(&ConversationKey::of(owner, connection, id));
        record.is_some_and(|record| !record.is_expired(&self.limits, now))
    }

    /// The sessions of a connection.
    pub fn of_connection(&self, connection: ConnectionId) -> Vec<Arc<LiveSession>> {
        let inner = lock(&self.inner);
        inner.live.get(&connection).into_iter().flat_map(HashMap::values).map(Arc::clone).collect()
    }

    /// Ends a session and its conversation: its answers are cancelled, its key is wiped with the last of them.
    pub fn end(&self, connection: ConnectionId, id: &SessionId, now: Instant) {
        let mut inner = lock(&self.inner);
        if let Some(live) = remove(&mut inner.live, connection, id, EndReason::Denied) {
            self.forget(&mut inner, &ConversationKey::of(live.owner, connection, id), now);
        }
    }

    /// Wipes the keys of a connection that is gone. Claimed conversations stay for the grace.
    pub fn disconnect(&self, connection: ConnectionId, now: Instant) {
        self.disconnect_for(EndReason::Disconnect, connection, now);
    }

    /// The same, where there is another reason.
    pub fn disconnect_for(&self, reason: EndReason, connection: ConnectionId, now: Instant) {
        let mut inner = lock(&self.inner);
        for (id, live) in inner.live.remove(&connection).unwrap_or_default() {
            live.account.end(reason);
            live.ended.cancel();
            let key = ConversationKey::of(live.owner, connection, &id);
            let claimed = matches!(key, ConversationKey::Claimed(..)) && !self.limits.grace.is_zero();
            match inner.records.get_mut(&key) {
                Some(record) if claimed => record.holder = Holder::NobodySince(now),
                Some(_) => self.forget(&mut inner, &key, now),
                None => {}
            }
        }
    }

    /// Removes what has expired; a running answer is not cut. Returns how many conversations went.
    pub fn sweep(&self, now: Instant) -> usize {
        let mut inner = lock(&self.inner);
        let expired: Vec<_> = inner
            .records
            .iter()
            .filter(|(_, record)| record.running == 0 && record.is_expired(&self.limits, now))
            .map(|(key, _)| key.clone())
            .collect();
        for key in &expired {
            self.expire(&mut inner, key, now);
        }
        inner.keys.retain(|key| key.strong_count() > 0);
        inner.memory.forget_expired(self.clock.unix(now));
        expired.len()
    }

    /// Removes everything, at shutdown.
    pub fn wipe(&self) {
        let mut inner = lock(&self.inner);
        for live in inner.live.drain().flat_map(|(_, sessions)| sessions.into_values()) {
            live.account.end(EndReason::Drain);
            live.ended.cancel();
        }
        inner.records.clear();
    }

    /// Removes an expired conversation and the key that opened it last.
    fn expire(&self, inner: &mut Inner, key: &ConversationKey, now: Instant) {
        let holder = inner.records.get(key).map(|record| record.holder);
        if let Some(Holder::Connection(connection)) = holder
            && let Some(live) = remove(&mut inner.live, connection, key.session_id(), EndReason::Expired)
            && !live.is_plaintext()
        {
            inner.expired = inner.expired.saturating_add(1);
            tracing::info!(event = "session_key", "Session key expired for session: {}", live.id);
        }
        self.forget(inner, key, now);
    }

    fn forget(&self, inner: &mut Inner, key: &ConversationKey, now: Instant) {
        if let Some(record) = inner.records.remove(key) {
            inner.memory.conversation_ended(record.number, self.clock.unix(now));
        }
    }
}

fn client(owner: Option<Owner>) -> Client {
    match owner {
        Some(Owner::Verified(address)) => Client::Wallet(address),
        Some(Owner::Unclaimed(_)) => Client::Unclaimed,
        None => Client::Plaintext,
    }
}

fn remove(
    live: &mut HashMap<ConnectionId, HashMap<SessionId, Arc<LiveSession>>>,
    connection: ConnectionId,
    id: &SessionId,
    reason: EndReason,
) -> Option<Arc<LiveSession>> {
    let sessions = live.get_mut(&connection)?;
    let removed = sessions.remove(id);
    if sessions.is_empty() {
        live.remove(&connection);
    }
    if let Some(session) = &removed {
        session.account.end(reason);
        session.ended.cancel();
    }
    removed
}
