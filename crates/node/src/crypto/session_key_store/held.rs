//! What the store holds, as metrics and the operator are told it.

use std::{collections::HashMap, sync::Weak};

use tokio::time::Instant;

use super::{SessionKeyStore, records::Holder};
use crate::{crypto::lock, ledger::SessionLine};

/// What `/v1/metrics/session_keys` answers.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, schemars::JsonSchema, serde::Serialize)]
pub struct SessionKeyMetrics {
    /// (connection, id) pairs with a live key.
    pub active_sessions: usize,
    /// Keys in memory, superseded keys of running answers included.
    pub total_keys_stored: usize,
    /// What the store really holds for them, in bytes.
    pub memory_usage_estimate_bytes: usize,
    /// Keys that expired, since start.
    pub expired_keys_cleaned: u64,
}

impl SessionKeyStore {
    /// What is held now.
    pub fn metrics(&self) -> SessionKeyMetrics {
        let inner = lock(&self.inner);
        let keys: Vec<_> = inner.keys.iter().filter_map(Weak::upgrade).collect();
        SessionKeyMetrics {
            active_sessions: inner
                .live
                .values()
                .flat_map(HashMap::values)
                .filter(|live| !live.is_plaintext())
                .count(),
            total_keys_stored: keys.len(),
            memory_usage_estimate_bytes: keys.iter().map(|live| live.memory_usage()).sum(),
            expired_keys_cleaned: inner.expired,
        }
    }

    /// Conversations whose connection is gone, and whose owner may come back.
    pub fn in_grace(&self) -> usize {
        let inner = lock(&self.inner);
        inner.records.values().filter(|record| matches!(record.holder, Holder::NobodySince(_))).count()
    }

    /// The same as the operator is shown them, the oldest first.
    pub fn lines_in_grace(&self, now: Instant) -> Vec<SessionLine> {
        let inner = lock(&self.inner);
        let mut waiting: Vec<_> = inner.records.iter().collect();
        waiting.sort_by_key(|(_, record)| record.number);
        waiting.into_iter().filter_map(|(key, record)| record.line(key, now)).collect()
    }

    /// Inits that are remembered against replay.
    pub fn remembered_inits(&self) -> usize {
        lock(&self.inner).memory.len()
    }
}
