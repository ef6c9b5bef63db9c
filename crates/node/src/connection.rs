//! One socket from its first frame to its last. It owns the sessions that it opened; when it ends, they end.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use fabstir_protocol::{
    Code, Error,
    error::Retry,
    id::SessionId,
    request::PromptRequest,
    seal::Words,
    v1::{ClientFrame, Echo, Inbound, NodeFrame, PlainRequest, RawSealed, Refusal},
};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    answer::{Channel, CloseReason, Outgoing, meaning},
    audit,
    channel::{Link, LinkError},
    crypto::{self, ConnectionId, LiveSession},
    ledger::EndReason,
    metrics,
    node::Node,
};

mod lanes;
mod opening;
mod patience;
mod socket;
mod standing;
mod told;

pub(crate) use socket::serve;

use lanes::Lane;
use told::Told;

/// Frames in a row that may fail to open before the connection is closed.
const MAX_FAILURES: u32 = 16;
/// Frames that wait for a slow socket. Small, so that back-pressure reaches the engine soon.
const OUTGOING: usize = 32;

/// What a connection does with the frames that it reads. Knows no socket: frames come in by
/// [`Connection::receive`], replies and answers go out by the channel.
#[derive(Debug)]
pub struct Connection {
    node: Arc<Node>,
    id: ConnectionId,
    peer: IpAddr,
    out: mpsc::Sender<Outgoing>,
    lanes: HashMap<SessionId, Lane>,
    answers: TaskTracker,
    gone: CancellationToken,
    failures: u32,
    warned_of_plaintext: bool,
    link: Link,
}

impl Connection {
    /// A connection from `peer` whose frames go out by the receiver.
    pub fn new(node: Arc<Node>, peer: IpAddr) -> (Self, mpsc::Receiver<Outgoing>) {
        let (out, outgoing) = mpsc::channel(OUTGOING);
        let connection = Self {
            id: node.next_connection(),
            gone: CancellationToken::new(),
            node,
            peer,
            out,
            lanes: HashMap::new(),
            answers: TaskTracker::new(),
            failures: 0,
            warned_of_plaintext: false,
            link: Link::new(peer),
        };
        (connection, outgoing)
    }

    /// What a client hears first.
    pub async fn greet(&self) {
        let message = concat!("fabstir-llm-node ", env!("CARGO_PKG_VERSION"));
        let advertisement = self.node.identities.as_ref().map(|identities| identities.advertisement());
        self.send(&NodeFrame::Connected { message, advertisement }).await;
    }

    /// Does what a text frame asks.
    pub async fn receive(&mut self, text: &str) {
        // Once version 2 has begun, nothing that is not sealed means anything.
        if self.link.has_begun() {
            return;
        }
        tracing::trace!(peer = %self.peer, bytes = text.len(), "frame received");
        match Inbound::decode(text) {
            Ok(Inbound { echo, frame }) => {
                let result = self.dispatch(&echo, frame, text.len()).await;
                if let Err(told) = result {
                    self.refuse(&echo, told).await;
                }
            }
            Err(Refusal { echo, error }) => self.refuse(&echo, Told::from(&Error::from(error))).await,
        }
        if self.failures >= MAX_FAILURES {
            tracing::debug!(peer = %self.peer, "closing: too many frames in a row did not open");
            let _ = self.out.send(Outgoing::Close(CloseReason::TooManyFailures)).await;
        }
    }

    /// Does what a binary frame asks: version 2.
    pub async fn receive_binary(&mut self, frame: &[u8]) {
        let Err(error) = self.link.receive(&self.node, frame, &self.out, &self.gone).await else { return };
        let reason = match error {
            LinkError::Clear(hit) => {
                audit::refused(hit.code, 2, self.peer);
                self.refuse(&Echo::default(), hit.into()).await;
                CloseReason::Handshake
            }
            LinkError::NoFrame => {
                return self.refuse(&Echo::default(), Code::MalformedFrame.into()).await;
            }
            LinkError::Broken => {
                metrics::message(Some(Code::DecryptionFailed));
                tracing::info!(event = "decryption", peer = %self.peer, "Decryption failed: a record did not open");
                CloseReason::Broken
            }
            LinkError::Told => CloseReason::Goodbye,
        };
        let _ = self.out.send(Outgoing::Close(reason)).await;
    }

    async fn dispatch(&mut self, echo: &Echo, frame: ClientFrame<'_>, bytes: usize) -> Result<(), Told> {
        match frame {
            ClientFrame::Ping => {
                self.send(&NodeFrame::Pong).await;
                Ok(())
            }
            ClientFrame::Cancel(id) => {
                self.cancel(&id);
                Ok(())
            }
            ClientFrame::SessionInit(id, raw) => {
                let opened = self.open_session(id, raw).await;
                let code = opened.as_ref().err().map(|told| told.code);
                metrics::session_init(code);
                if let Some(code) = code {
                    audit::refused(code, 1, self.peer);
                }
                self.acknowledge(opened?, echo).await;
                Ok(())
            }
            ClientFrame::Message(id, raw) => {
                let opened = self.open_message(&id, raw, echo, bytes);
                metrics::message(opened.as_ref().err().map(|told| told.code));
                opened
            }
            ClientFrame::PlainInit(id, context) => {
                let ack = self.open_plaintext(id, context)?;
                self.acknowledge(ack, echo).await;
                Ok(())
            }
            ClientFrame::PlainPrompt(id, request) => self.plain_prompt(&id, &request, echo, bytes),
        }
    }

    fn open_message(
        &mut self,
        id: &SessionId,
        raw: RawSealed<'_>,
        echo: &Echo,
        bytes: usize,
    ) -> Result<(), Told> {
        self.serves_version_1()?;
        let live = self.session(id).filter(|live| !live.is_plaintext()).ok_or(Code::SessionKeyNotFound)?;
        self.refuse_while_draining()?;
        // A place first, so that a message that cannot be queued spends neither index nor nonce.
        // In hex a byte is two.
        let place = self.place(&live, bytes / 2)?;
        let opened = crypto::open_message(&live, raw, self.peer);
        let (plaintext, sealer) = self.counted(opened)?;
        self.node.sessions.touch(&live, self.id, Instant::now());
        live.account().received(bytes);
        let request =
            PromptRequest::read(plaintext.as_bytes()).map_err(|error| Told::from(&Error::from(error)))?;
        self.start(live, request, Channel::Sealed(sealer), echo, place);
        Ok(())
    }

    fn plain_prompt(
        &mut self,
        id: &SessionId,
        request: &PlainRequest<'_>,
        echo: &Echo,
        bytes: usize,
    ) -> Result<(), Told> {
        self.admit_plaintext(id)?;
        let live = self.session(id).ok_or(Code::SessionKeyNotFound)?;
        self.refuse_while_draining()?;
        if !std::mem::replace(&mut self.warned_of_plaintext, true) {
            tracing::warn!(peer = %self.peer, "this connection sends prompts in plaintext");
        }
        let place = self.place(&live, bytes)?;
        live.account().received(bytes);
        let request = match request {
            PlainRequest::Prompt(words) => PromptRequest::bare(Words::from(words.as_ref())),
            PlainRequest::Object(json) => {
                PromptRequest::read(json.as_bytes()).map_err(|error| Told::from(&Error::from(error)))?
            }
        };
        self.start(live, request, Channel::Plain, echo, place);
        Ok(())
    }

    fn serves_version_1(&self) -> Result<(), Told> {
        if self.node.identities.is_none() {
            Err(Code::EncryptionNotSupported.into())
        } else if self.node.config.min_protocol > 1 {
            Err(Code::ProtocolTooOld.into())
        } else {
            Ok(())
        }
    }

    /// Whether a plaintext frame may name `id`.
    fn admit_plaintext(&self, id: &SessionId) -> Result<(), Told> {
        let held_encrypted = self.session(id).is_some_and(|live| !live.is_plaintext());
        if held_encrypted || !self.node.serves_plaintext() {
            return Err(Code::PlaintextDisabled.into());
        }
        Ok(())
    }

    fn session(&self, id: &SessionId) -> Option<Arc<LiveSession>> {
        self.node.sessions.session(self.id, id, Instant::now())
    }

    fn refuse_while_draining(&self) -> Result<(), Told> {
        if self.node.draining.is_cancelled() { Err(Code::Draining.into()) } else { Ok(()) }
    }

    /// Counts frames that do not open, in a row.
    fn counted<T>(&mut self, opened: Result<T, Error>) -> Result<T, Told> {
        match &opened {
            Ok(_) => self.failures = 0,
            Err(Error::Open(_)) => self.failures = self.failures.saturating_add(1),
            Err(_) => {}
        }
        opened.map_err(|error| Told::from(&error))
    }

    async fn refuse(&self, echo: &Echo, told: Told) {
        metrics::refused(told.code);
        tracing::debug!(code = told.code.as_str(), peer = %self.peer, "frame refused");
        let meaning = meaning(told.code, told.field);
        let message = match told.code.retry() {
            Retry::Init => format!("{meaning}; open the session anew"),
            Retry::Later => format!("{meaning}; try again later"),
            Retry::No => meaning,
        };
        let frame = NodeFrame::Error {
            code: told.code,
            message: &message,
            retry_after_ms: told.retry_after_ms,
            prompt_tokens: None,
            context_window_size: None,
            session_id: echo.session_id.as_ref().map(SessionId::as_str),
            id: echo.id.as_deref(),
        };
        self.send(&frame).await;
    }

    async fn send(&self, frame: &NodeFrame<'_>) {
        // Fails only when the connection is ending, and then nobody is left to hear it.
        let _ = self.out.send(Outgoing::Frame(frame.encode())).await;
    }

    /// Whether answers are running or queued.
    pub fn is_busy(&self) -> bool {
        !self.answers.is_empty() || self.link.is_busy()
    }

    /// Ends everything that this connection holds; returns when it is gone from memory.
    pub async fn end(self) {
        self.gone.cancel();
        self.answers.close();
        self.answers.wait().await;
    }
}

impl Drop for Connection {
    /// Whatever ended it, a panic included, nothing of it stays.
    fn drop(&mut self) {
        self.gone.cancel();
        self.link.end(&self.node);
        let reason = if self.node.draining.is_cancelled() {
            EndReason::Drain
        } else if self.failures >= MAX_FAILURES {
            EndReason::Error
        } else {
            EndReason::Disconnect
        };
        self.node.sessions.disconnect_for(reason, self.id, Instant::now());
    }
}
