//! A session as its connection holds it.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use fabstir_protocol::{
    Error,
    id::SessionId,
    seal::Plaintext,
    v1::{AnswerSealer, Owner, SealedPayload, Session},
};
use tokio_util::sync::CancellationToken;

use super::lock;
use crate::{conversation::Conversation, ledger::Account};

/// A session on a connection: its key, unless it is a plaintext one, and its conversation.
pub struct LiveSession {
    pub(super) id: SessionId,
    pub(super) owner: Option<Owner>,
    pub(super) key: Option<Mutex<Session>>,
    pub(super) conversation: Arc<Conversation>,
    pub(super) number: u64,
    pub(super) ended: CancellationToken,
    pub(super) account: Arc<Account>,
}

/// What seals the answer to a message that was opened.
pub type SealedMessage = AnswerSealer;

impl LiveSession {
    /// The session's name.
    pub fn id(&self) -> &SessionId {
        &self.id
    }

    /// The number of its conversation, which outlives its keys.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Who opened it; `None` for a plaintext session.
    pub fn owner(&self) -> Option<Owner> {
        self.owner
    }

    /// Whether it has no key.
    pub fn is_plaintext(&self) -> bool {
        self.key.is_none()
    }

    /// What was said in it.
    pub fn conversation(&self) -> &Conversation {
        &self.conversation
    }

    /// What it takes.
    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// Cancelled when the session ends before its connection does.
    pub fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    /// Opens a message, and makes what will seal its answer under the same key.
    ///
    /// # Errors
    /// See [`Session::open`]; nothing changes then.
    pub fn open(&self, payload: &SealedPayload) -> Result<(Plaintext, AnswerSealer), Error> {
        let Some(key) = &self.key else { return Err(fabstir_protocol::seal::OpenError.into()) };
        let mut session = lock(key);
        let plaintext = session.open(payload)?;
        Ok((plaintext, session.answer()))
    }

    pub(super) fn memory_usage(&self) -> usize {
        let key = self.key.as_ref().map_or(0, |session| lock(session).memory_usage());
        size_of::<Self>().saturating_add(self.id.as_str().len()).saturating_add(key)
    }
}

impl fmt::Debug for LiveSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveSession")
            .field("id", &self.id)
            .field("owner", &self.owner)
            .finish_non_exhaustive()
    }
}
