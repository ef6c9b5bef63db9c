//! The smallest node: everything that the crate decides, and nothing else. One connection, no policy.

use std::{collections::HashMap, net::IpAddr};

use fabstir_protocol::{
    Code, Error,
    error::ReplayError,
    id::SessionId,
    identity::PrivateKey,
    request::PromptRequest,
    seal::Plaintext,
    v1::{
        ClientFrame, Established, Inbound, InitMemory, InitMemoryLimits, Network, NotRemembered, Owner,
        ProcessSecret, RawInit, Session,
    },
};

use super::Script;

pub(crate) struct Node {
    pub(crate) key: PrivateKey,
    pub(crate) sessions: HashMap<String, Session>,
    pub(crate) memory: InitMemory,
    /// The process start, where timestamps are required.
    pub(crate) require_timestamp_since: Option<u64>,
    conversations: u64,
}

/// What a frame led to.
#[derive(Debug)]
pub(crate) enum Outcome {
    Opened(Owner),
    Message(Plaintext),
    Other,
}

impl Node {
    pub(crate) fn new(key: PrivateKey) -> Self {
        let secret = ProcessSecret::random(&mut Script::seeded("process secret"));
        Self {
            key,
            sessions: HashMap::new(),
            memory: InitMemory::new(secret, InitMemoryLimits::standard(3600)),
            require_timestamp_since: None,
            conversations: 0,
        }
    }

    pub(crate) fn receive(&mut self, text: &str, now: u64) -> Result<Outcome, Code> {
        let inbound = Inbound::decode(text).map_err(|refusal| code(refusal.error))?;
        match inbound.frame {
            ClientFrame::SessionInit(id, raw) => self.session_init(id, raw, now).map(Outcome::Opened),
            ClientFrame::Message(id, raw) => {
                let session = self.sessions.get_mut(id.as_str()).ok_or(Code::SessionKeyNotFound)?;
                let payload = raw.read().map_err(code)?;
                session.open(&payload).map(Outcome::Message).map_err(code)
            }
            ClientFrame::Cancel(_)
            | ClientFrame::Ping
            | ClientFrame::PlainInit(..)
            | ClientFrame::PlainPrompt(..) => Ok(Outcome::Other),
        }
    }

    /// As `receive`, and reads the request that a message carries.
    pub(crate) fn serve(&mut self, text: &str, now: u64) -> Result<Outcome, Code> {
        let outcome = self.receive(text, now)?;
        if let Outcome::Message(plaintext) = &outcome {
            PromptRequest::read(plaintext.as_bytes()).map_err(code)?;
        }
        Ok(outcome)
    }

    pub(crate) fn established(&self, id: SessionId, raw: RawInit<'_>) -> Result<Established, Code> {
        let opened = raw.read(id).map_err(code)?.open(&self.key).map_err(code)?;
        opened.authenticate().map_err(code)
    }

    fn session_init(&mut self, id: SessionId, raw: RawInit<'_>, now: u64) -> Result<Owner, Code> {
        let established = self.established(id, raw)?;
        established.check_time(now, self.require_timestamp_since).map_err(code)?;
        self.conversations += 1;
        self.memory.admit(&established, self.conversations, here(), now).map_err(|error| match error {
            NotRemembered::Replay(replay) => code::<ReplayError>(replay),
            NotRemembered::Full(_) => Code::NodeBusy,
        })?;
        self.sessions.insert(established.id.as_str().to_owned(), established.session);
        Ok(established.owner)
    }

    /// Every conversation ends now.
    pub(crate) fn end_conversations(&mut self, now: u64) {
        (1..=self.conversations).for_each(|number| self.memory.conversation_ended(number, now));
        self.sessions.clear();
    }
}

pub(crate) fn code<E: Into<Error>>(error: E) -> Code {
    Code::from(&error.into())
}

pub(crate) fn here() -> Network {
    Network::from(IpAddr::from([127, 0, 0, 1]))
}
