//! From what was typed to an open session.

use fabstir_client::{Client, Config, Request, Turn};
use fabstir_protocol::identity::PrivateKey;

use crate::{
    args::{Asked, Connection},
    capture,
    failure::Failure,
    identity, keys,
};

/// All that there is to know before anything is sent.
pub(crate) struct Prepared {
    node: identity::Pinned,
    config: Config,
    client_key: PrivateKey,
}

impl Prepared {
    /// Finds the node's key, which may mean asking a person, and the client's.
    pub(crate) async fn from(connection: &Connection) -> Result<Self, Failure> {
        let node = identity::node_key(connection).await?;
        let client_key = keys::client_key(connection.key_file.as_deref())?;
        let mut config = Config::new(connection.node.as_str(), node.key);
        config.capture = connection.capture.as_deref().map(capture::to_file).transpose()?;
        Ok(Self { node, config, client_key })
    }

    /// Opens the session; `None` where Ctrl-C was pressed before it was open.
    pub(crate) async fn open(self) -> Result<Option<Client>, Failure> {
        tokio::select! {
            client = Client::connect(self.config, self.client_key) => match client {
                Ok(client) => Ok(Some(client)),
                Err(error) => Err(self.node.explain(error).await),
            },
            _ = tokio::signal::ctrl_c() => Ok(None),
        }
    }
}

impl Asked {
    /// The first question, or a next one where the node keeps the conversation.
    pub(crate) fn prompt(&self, words: &str) -> Request {
        self.with(Request::prompt(words))
    }

    /// A whole conversation, what the system is told first.
    pub(crate) fn conversation(&self, turns: &[Turn]) -> Request {
        let system = self.system.iter().map(|words| turn("system", words));
        self.with(Request::messages(system.chain(turns.iter().cloned()).collect()))
    }

    fn with(&self, request: Request) -> Request {
        Request {
            model: self.model.clone(),
            max_tokens: self.max_tokens,
            temperature: self.temperature,
            seed: self.seed,
            ..request
        }
    }
}

pub(crate) fn turn(role: &'static str, words: &str) -> Turn {
    Turn { role, content: words.to_owned() }
}
