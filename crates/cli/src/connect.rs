//! From what was typed to an open session.

use std::{path::Path, sync::Arc};

use fabstir_client::{
    ClientIdentity, Config, Error, Event, InvalidCertificate, Request, Roots, Session, SessionDelegation,
    Shape, Turn, anonymous, v1,
};
use fabstir_protocol::identity::PrivateKey;

use crate::{
    args::{Access, Asked, Connection, ShapeName},
    capture, delegate,
    failure::{Exit, Failure},
    identity::{self, Pin},
    keys,
};

/// How long the delegate that is made for one call may speak for its wallet, in seconds.
const ONE_CALL: u64 = 24 * 60 * 60;

/// All that there is to know before anything is sent.
pub(crate) struct Prepared {
    node: identity::Pinned,
    how: How,
}

enum How {
    V1(v1::Config, PrivateKey),
    V2(Config),
}

/// An open session, of the version that was asked for.
pub(crate) enum Client {
    V1(Box<v1::Client>),
    V2(Session),
}

/// An answer of either version.
pub(crate) enum Answer<'a> {
    V1(v1::Answer<'a>),
    V2(fabstir_client::Answer),
}

impl Client {
    pub(crate) async fn ask(&mut self, request: &Request) -> Result<Answer<'_>, Error> {
        match self {
            Self::V1(client) => client.ask(request).await.map(Answer::V1),
            Self::V2(session) => session.ask(request).await.map(Answer::V2),
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        match self {
            Self::V1(client) => client.is_open(),
            Self::V2(session) => session.is_open(),
        }
    }

    /// Keeps the connection alive while there is nothing to ask; may return once it has ended.
    pub(crate) async fn idle(&mut self) {
        match self {
            Self::V1(client) => drop(client.idle().await),
            // Its driver does that.
            Self::V2(_) => std::future::pending().await,
        }
    }

    pub(crate) async fn close(self) {
        match self {
            Self::V1(client) => client.close().await,
            Self::V2(session) => session.close().await,
        }
    }
}

impl Answer<'_> {
    pub(crate) async fn next(&mut self) -> Result<Option<Event>, Error> {
        match self {
            Self::V1(answer) => answer.next().await,
            Self::V2(answer) => answer.next().await,
        }
    }

    /// Stops it, and waits until the node says so.
    pub(crate) async fn stop(&mut self) {
        match self {
            Self::V1(answer) => {
                let _ = answer.cancel().await;
            }
            Self::V2(answer) => {
                answer.cancel().await;
                while let Ok(Some(Event::Text(_) | Event::Object(_))) = answer.next().await {}
            }
        }
    }
}

impl Prepared {
    /// Finds the node's identity, which may mean asking a person, and the client's.
    pub(crate) async fn from(connection: &Connection) -> Result<Self, Failure> {
        let node = identity::node_key(connection).await?;
        let roots = roots(&connection.how)?;
        let capture = connection.how.capture.as_deref().map(capture::to_file).transpose()?;
        let how = if connection.how.protocol == 1 {
            let Pin::Key(key) = node.pin else {
                let what = "version 1 needs the node's public key, 33 bytes in hex: --node-key";
                return Err(Failure::new(Exit::Usage, what));
            };
            let mut config = v1::Config::new(connection.node.as_str(), key);
            config.capture = capture;
            config.roots = roots;
            How::V1(config, keys::client_key(connection.how.key_file.as_deref())?)
        } else {
            let address = node.pin.address();
            let identity = if connection.how.anonymous {
                anonymous()
            } else if let Some(file) = &connection.how.delegate {
                delegate::read(file)?
            } else {
                delegated(&keys::client_key(connection.how.key_file.as_deref())?, address)?
            };
            let mut config = Config::new(connection.node.as_str(), address, identity);
            config.capture = capture;
            config.roots = roots;
            config.shape = match connection.how.shape {
                ShapeName::Bucket => Shape::Bucket,
                ShapeName::Off => Shape::Off,
            };
            How::V2(config)
        };
        Ok(Self { node, how })
    }

    /// Opens the session; `None` where Ctrl-C was pressed before it was open.
    pub(crate) async fn open(self) -> Result<Option<Client>, Failure> {
        tokio::select! {
            client = self.connect() => client.map(Some),
            _ = tokio::signal::ctrl_c() => Ok(None),
        }
    }

    async fn connect(self) -> Result<Client, Failure> {
        let opened = match self.how {
            How::V1(config, key) => {
                v1::Client::connect(config, key).await.map(|client| Client::V1(Box::new(client)))
            }
            How::V2(config) => Session::connect(config).await.map(Client::V2),
        };
        match opened {
            Ok(client) => {
                if let Client::V2(session) = &client
                    && let Err(failure) = self.node.remember_least(session.least())
                {
                    // The session is good; what could not be remembered is said.
                    failure.report();
                }
                Ok(client)
            }
            Err(error) => Err(self.node.explain(error).await),
        }
    }

    /// Opens a session of version 2, which is what many requests side by side need.
    pub(crate) async fn session(self) -> Result<Session, Failure> {
        match self.connect().await? {
            Client::V2(session) => Ok(session),
            Client::V1(_) => Err(Failure::new(Exit::Usage, "this needs version 2: leave --protocol out")),
        }
    }
}

/// What TLS believes and shows.
pub(crate) fn roots(how: &Access) -> Result<Roots, Failure> {
    let read = |file: &Path| std::fs::read(file).map_err(|error| Failure::file(file, error));
    let roots = match &how.ca_file {
        None => Roots::default(),
        Some(file) => Roots::from_pem(&read(file)?).map_err(|error| Failure::file(file, error))?,
    };
    let Some(chain) = &how.client_cert_file else { return Ok(roots) };
    let key = how.client_key_file.as_ref().unwrap_or(chain);
    let certificates = read(chain)?;
    let secret = keys::read_private(key)?;
    let shown = roots.showing(&certificates, secret.as_bytes());
    shown.map_err(|error| match error {
        InvalidCertificate::NoCertificate => Failure::file(chain, error),
        InvalidCertificate::NoKey | InvalidCertificate::Unmatched => Failure::file(key, error),
    })
}

/// A fresh delegate of `wallet` for one node: the wallet's key signs once and speaks to nobody.
fn delegated(
    wallet: &PrivateKey,
    node: fabstir_protocol::ethereum::Address,
) -> Result<ClientIdentity, Failure> {
    let key = fabstir_client::random_key();
    let now = delegate::unix_now();
    let delegation = SessionDelegation {
        wallet: wallet.address(),
        delegate_key: key.public_key(),
        node: Some(node),
        not_before: now,
        not_after: now.saturating_add(ONE_CALL),
    };
    let signed = delegation.sign(wallet).map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
    Ok(ClientIdentity { key: Arc::new(key), delegation: Some(signed) })
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
