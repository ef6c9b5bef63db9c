//! A session's account: what it took, and how it ended.

use std::{
    fmt,
    sync::{
        Arc, Mutex, OnceLock, Weak,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use fabstir_protocol::{ethereum::Address, v1::Usage};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Counts, Ledger};
use crate::crypto::lock;

/// Who a session belongs to, as far as somebody vouches for it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Client {
    /// A wallet that has signed for it.
    Wallet(Address),
    /// An address that was recovered and proves nothing: had for nothing, it gets no line of its own.
    Unclaimed,
    /// Nobody in particular.
    Anonymous,
    /// Whoever speaks in the clear.
    Plaintext,
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wallet(address) => address.fmt(f),
            Self::Unclaimed => f.write_str("unclaimed"),
            Self::Anonymous => f.write_str("anonymous"),
            Self::Plaintext => f.write_str("plaintext"),
        }
    }
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EndReason {
    /// The client said so.
    Goodbye,
    /// Its connection is gone, and nobody came back.
    Disconnect,
    /// It was idle for too long, or has lasted as long as one may.
    Expired,
    /// Its owner opened it anew.
    Replaced,
    /// Something broke.
    Error,
    /// The node stops.
    Drain,
    /// Its client may not be here any more.
    Denied,
}

impl EndReason {
    /// As the log has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Goodbye => "goodbye",
            Self::Disconnect => "disconnect",
            Self::Expired => "expired",
            Self::Replaced => "replaced",
            Self::Error => "error",
            Self::Drain => "drain",
            Self::Denied => "denied",
        }
    }
}

/// Whether a session has a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Standing {
    /// It has one.
    Attached = 0,
    /// It has lost it, and its answers go on or are kept.
    Lost = 1,
    /// Nothing is left of it but what resumes it.
    TicketOnly = 2,
}

/// A session as the operator sees it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SessionLine {
    /// Its name.
    pub session_id: String,
    /// The version of the protocol.
    pub version: u8,
    /// `live`, `grace` (version 1), `attached`, `lost`, `ticket` (version 2), or `ending`.
    pub state: String,
    /// The wallet's address, or `unclaimed`, `anonymous`, `plaintext`.
    pub client: String,
    /// Seconds since it was opened.
    pub age_seconds: u64,
    /// Seconds since it last said or heard something.
    pub idle_seconds: u64,
    /// What it took.
    #[serde(flatten)]
    pub counts: Counts,
    /// Bytes of frames that came in.
    pub bytes_in: u64,
    /// Bytes of frames that went out.
    pub bytes_out: u64,
}

/// The account of one session. Whoever lets go of it last closes it, which writes its `session_end`: once, whatever
/// happened.
#[derive(Debug)]
pub struct Account {
    version: u8,
    name: String,
    client: Client,
    opened: Instant,
    /// Milliseconds from `opened` to the last frame.
    active: AtomicU64,
    standing: AtomicU8,
    counts: Mutex<Counts>,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    end: OnceLock<(EndReason, Duration)>,
    /// Empty before the session is open.
    entered: OnceLock<(Weak<Ledger>, u64)>,
}

impl Account {
    /// The version of the protocol that its session speaks.
    pub(crate) fn version(&self) -> u8 {
        self.version
    }

    /// The account of a session that is about to be opened.
    pub fn new(version: u8, name: impl Into<String>, client: Client) -> Self {
        Self {
            version,
            name: name.into(),
            client,
            opened: Instant::now(),
            active: AtomicU64::new(0),
            standing: AtomicU8::new(Standing::Attached as u8),
            counts: Mutex::default(),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            end: OnceLock::new(),
            entered: OnceLock::new(),
        }
    }

    pub(super) fn enter(&self, ledger: &Arc<Ledger>, number: u64) {
        let _ = self.entered.set((Arc::downgrade(ledger), number));
    }

    /// A frame of `bytes` came in.
    pub fn received(&self, bytes: usize) {
        self.bytes_in.fetch_add(u64::try_from(bytes).unwrap_or(0), Ordering::Relaxed);
        self.touch();
    }

    /// A frame of `bytes` went out.
    pub fn sent(&self, bytes: usize) {
        self.bytes_out.fetch_add(u64::try_from(bytes).unwrap_or(0), Ordering::Relaxed);
        self.touch();
    }

    fn touch(&self) {
        let passed = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.active.fetch_max(passed, Ordering::Relaxed);
    }

    /// Takes note of an answer that has ended, here and in the usage of its client.
    pub fn answered(&self, usage: &Usage, cancelled: bool) {
        let counts = Counts {
            requests: 1,
            cancelled: u64::from(cancelled),
            prompt_tokens: u64::from(usage.prompt_tokens),
            completion_tokens: u64::from(usage.completion_tokens),
            reused_tokens: u64::from(usage.prompt_tokens_details.cached_tokens),
        };
        lock(&self.counts).add(&counts);
        if let Some(ledger) = self.entered.get().and_then(|(ledger, _)| ledger.upgrade()) {
            ledger.count(&self.client, &counts);
        }
    }

    /// Says whether the session has a connection.
    pub fn stand(&self, standing: Standing) {
        self.standing.store(standing as u8, Ordering::Relaxed);
    }

    /// Says why the session ends; the first to say so is believed.
    pub fn end(&self, reason: EndReason) {
        let _ = self.end.set((reason, self.opened.elapsed()));
    }

    /// What the operator is shown.
    pub fn line(&self) -> SessionLine {
        let age = self.opened.elapsed();
        let active = Duration::from_millis(self.active.load(Ordering::Relaxed));
        SessionLine {
            session_id: self.name.clone(),
            version: self.version,
            state: self.state().to_owned(),
            client: self.client.to_string(),
            age_seconds: age.as_secs(),
            idle_seconds: age.saturating_sub(active).as_secs(),
            counts: *lock(&self.counts),
            bytes_in: self.bytes_in.load(Ordering::Relaxed),
            bytes_out: self.bytes_out.load(Ordering::Relaxed),
        }
    }

    fn state(&self) -> &'static str {
        let standing = self.standing.load(Ordering::Relaxed);
        if self.end.get().is_some() {
            "ending"
        } else if self.version == 1 {
            "live"
        } else if standing == Standing::Attached as u8 {
            "attached"
        } else if standing == Standing::Lost as u8 {
            "lost"
        } else {
            "ticket"
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let Some((ledger, number)) = self.entered.get() else { return };
        // Nobody said why: a task of it panicked, most likely.
        let (reason, duration) =
            self.end.get().copied().unwrap_or_else(|| (EndReason::Error, self.opened.elapsed()));
        let counts = *lock(&self.counts);
        tracing::info!(
            event = "session_end",
            session_id = self.name,
            version = self.version,
            client = %self.client,
            reason = reason.as_str(),
            duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            requests = counts.requests,
            cancelled = counts.cancelled,
            prompt_tokens = counts.prompt_tokens,
            completion_tokens = counts.completion_tokens,
            reused_tokens = counts.reused_tokens,
            bytes_in = self.bytes_in.load(Ordering::Relaxed),
            bytes_out = self.bytes_out.load(Ordering::Relaxed),
            "Session ended"
        );
        // After the line: a node that waits until every account is closed says next that it has stopped.
        if let Some(ledger) = ledger.upgrade() {
            ledger.close(*number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_open_until_its_end_is_written() {
        let ledger = Arc::new(Ledger::default());
        let account = Arc::new(Account::new(1, "last", Client::Anonymous));
        ledger.open(&account);
        let open_when_said = Arc::new(Mutex::new(Vec::new()));
        let (asked, heard) = (Arc::clone(&ledger), Arc::clone(&open_when_said));
        let writer = move || {
            lock(&heard).push(!asked.is_settled());
            std::io::sink()
        };
        let log = tracing_subscriber::fmt().with_writer(writer).finish();
        tracing::subscriber::with_default(log, || drop(account));
        assert_eq!(*lock(&open_when_said), [true], "who waits for the last account has its line too");
        assert!(ledger.is_settled());
    }
}
