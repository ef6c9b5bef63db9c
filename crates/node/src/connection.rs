//! One socket from its first frame to its last. It owns the sessions that it opened; when it ends, they end.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::SystemTime};

use fabstir_protocol::{
    Code, Error,
    error::{RequestError, Retry},
    id::SessionId,
    request::PromptRequest,
    seal::Words,
    v1::{
        ClientFrame, Echo, Inbound, InitContext, Network, NodeFrame, Owner, PlainRequest, RawInit, RawSealed,
        Refusal,
    },
};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    answer::{Channel, CloseReason, Job, Outgoing, meaning},
    crypto::{self, ConnectionId, LiveSession, OpenRefused},
    metrics,
    node::Node,
};

mod socket;

pub(crate) use socket::serve;

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
}

/// The answers of one session id: one runs, the others wait in order.
#[derive(Debug)]
struct Lane {
    cancel: CancellationToken,
    last: Option<oneshot::Receiver<()>>,
    places: Arc<tokio::sync::Semaphore>,
}

/// A refusal as it is told.
#[derive(Debug)]
struct Told {
    code: Code,
    retry_after_ms: Option<u64>,
    /// The field of a request that is to blame.
    field: Option<&'static str>,
}

impl From<Code> for Told {
    fn from(code: Code) -> Self {
        Self { code, retry_after_ms: None, field: None }
    }
}

impl From<&Error> for Told {
    fn from(error: &Error) -> Self {
        let field =
            if let Error::Request(RequestError::Invalid(field) | RequestError::Unsupported(field)) = error {
                Some(*field)
            } else {
                None
            };
        Self { field, ..Self::from(Code::from(error)) }
    }
}

impl Connection {
    /// A connection from `peer` whose frames go out by the receiver.
    pub fn new(node: Arc<Node>, peer: IpAddr) -> (Self, mpsc::Receiver<Outgoing>) {
        let (out, outgoing) = mpsc::channel(OUTGOING);
        let connection = Self {
            id: node.next_connection(),
            gone: node.stopping.child_token(),
            node,
            peer,
            out,
            lanes: HashMap::new(),
            answers: TaskTracker::new(),
            failures: 0,
            warned_of_plaintext: false,
        };
        (connection, outgoing)
    }

    /// What a client hears first.
    pub async fn greet(&self) {
        let message = concat!("fabstir-llm-node ", env!("CARGO_PKG_VERSION"));
        self.send(&NodeFrame::Connected { message }).await;
    }

    /// Does what a text frame asks.
    pub async fn receive(&mut self, text: &str) {
        tracing::trace!(peer = %self.peer, bytes = text.len(), "frame received");
        match Inbound::decode(text) {
            Ok(Inbound { echo, frame }) => {
                let result = self.dispatch(&echo, frame).await;
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

    /// Answers a binary frame, which version 1 does not have.
    pub async fn receive_binary(&self) {
        self.refuse(&Echo::default(), Code::MalformedFrame.into()).await;
    }

    async fn dispatch(&mut self, echo: &Echo, frame: ClientFrame<'_>) -> Result<(), Told> {
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
                let opened = self.open_session(id, raw);
                metrics::session_init(opened.as_ref().err().map(|told| told.code));
                self.acknowledge(opened?, echo).await;
                Ok(())
            }
            ClientFrame::Message(id, raw) => {
                let opened = self.open_message(&id, raw, echo);
                metrics::message(opened.as_ref().err().map(|told| told.code));
                opened
            }
            ClientFrame::PlainInit(id, context) => self.open_plaintext(id, context, echo).await,
            ClientFrame::PlainPrompt(id, request) => self.plain_prompt(&id, &request, echo),
        }
    }

    fn open_session(&mut self, id: SessionId, raw: RawInit<'_>) -> Result<Opened, Told> {
        let key = self.node.key.as_ref().ok_or(Code::EncryptionNotSupported)?;
        self.refuse_while_draining()?;
        let network = Network::from(self.peer);
        self.node.inits.check(network).map_err(|wait| Told {
            code: Code::RateLimited,
            retry_after_ms: Some(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1)),
            field: None,
        })?;
        let established = self.counted(crypto::open_init(key.private(), id, raw, self.peer))?;
        let not_before = self.node.config.require_init_timestamp.then(|| self.node.clock.unix_at_start());
        established.check_time(unix_now(), not_before).map_err(|error| Told::from(&Error::from(error)))?;
        let owner = established.owner;
        if let Some(allowed) = &self.node.config.allowed_clients
            && !allowed.contains(&owner.address())
        {
            return Err(Code::ClientNotAllowed.into());
        }
        let context = established.context.clone();
        let live = self
            .node
            .sessions
            .open(established, self.id, network, Instant::now())
            .map_err(|refused| told_of(&refused))?;
        Ok(Opened { live, context, warning: None })
    }

    async fn open_plaintext(&mut self, id: SessionId, context: InitContext, echo: &Echo) -> Result<(), Told> {
        self.admit_plaintext(&id)?;
        self.refuse_while_draining()?;
        let warning = "plaintext sessions are deprecated: anybody on the way can read them";
        let opened = self.node.sessions.open_plaintext(id, self.id, Instant::now());
        let live = opened.map_err(|refused| told_of(&refused))?;
        self.acknowledge(Opened { live, context, warning: Some(warning) }, echo).await;
        Ok(())
    }

    async fn acknowledge(&self, opened: Opened, echo: &Echo) {
        let Opened { live, context, warning } = opened;
        let chain_id = context.chain_id.or_else(|| self.node.config.chain_id.map(serde_json::Number::from));
        let frame = NodeFrame::SessionInitAck {
            status: "success",
            session_id: live.id().as_str(),
            job_id: context.job_id,
            chain_id,
            client_address: live.owner().map(|owner| owner.address().to_string()),
            message: if live.is_plaintext() {
                "plaintext session opened"
            } else {
                "encrypted session opened"
            },
            warning,
            id: echo.id.as_deref(),
        };
        self.send(&frame).await;
    }

    fn open_message(&mut self, id: &SessionId, raw: RawSealed<'_>, echo: &Echo) -> Result<(), Told> {
        if self.node.key.is_none() {
            return Err(Code::EncryptionNotSupported.into());
        }
        let live = self.session(id).filter(|live| !live.is_plaintext()).ok_or(Code::SessionKeyNotFound)?;
        self.refuse_while_draining()?;
        // A place first, so that a message that cannot be queued spends neither index nor nonce.
        let place = self.place(id)?;
        let opened = crypto::open_message(&live, raw, self.peer);
        let (plaintext, sealer) = self.counted(opened)?;
        let request =
            PromptRequest::read(plaintext.as_bytes()).map_err(|error| Told::from(&Error::from(error)))?;
        self.start(live, request, Channel::Sealed(sealer), echo, place);
        Ok(())
    }

    fn plain_prompt(&mut self, id: &SessionId, request: &PlainRequest<'_>, echo: &Echo) -> Result<(), Told> {
        self.admit_plaintext(id)?;
        let live = self.session(id).ok_or(Code::SessionKeyNotFound)?;
        self.refuse_while_draining()?;
        if !std::mem::replace(&mut self.warned_of_plaintext, true) {
            tracing::warn!(peer = %self.peer, "this connection sends prompts in plaintext");
        }
        let place = self.place(id)?;
        let request = match request {
            PlainRequest::Prompt(words) => PromptRequest::bare(Words::from(words.as_ref())),
            PlainRequest::Object(json) => {
                PromptRequest::read(json.as_bytes()).map_err(|error| Told::from(&Error::from(error)))?
            }
        };
        self.start(live, request, Channel::Plain, echo, place);
        Ok(())
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

    /// A place in the queue of a session's answers: the running one and MAX_QUEUED_MESSAGES behind it.
    fn place(&mut self, id: &SessionId) -> Result<tokio::sync::OwnedSemaphorePermit, Told> {
        self.lanes.retain(|_, lane| lane.is_busy());
        let places = self.node.config.max_queued_messages.saturating_add(1);
        let gone = &self.gone;
        let lane = self.lanes.entry(id.clone()).or_insert_with(|| Lane {
            cancel: gone.child_token(),
            last: None,
            places: Arc::new(tokio::sync::Semaphore::new(places)),
        });
        Arc::clone(&lane.places).try_acquire_owned().map_err(|_| Code::NodeBusy.into())
    }

    fn start(
        &mut self,
        live: Arc<LiveSession>,
        request: PromptRequest,
        channel: Channel,
        echo: &Echo,
        place: tokio::sync::OwnedSemaphorePermit,
    ) {
        let Some(lane) = self.lanes.get_mut(live.id()) else { return };
        let (done, next) = oneshot::channel();
        let client = match live.owner() {
            Some(Owner::Verified(address)) => self.node.client_number(address),
            // An address that nobody vouches for is had for nothing, and would be another turn in the line.
            Some(Owner::Unclaimed(_)) | None => self.node.client_number(Network::from(self.peer)),
        };
        let (lane_cancel, ended) = (lane.cancel.clone(), live.ended().clone());
        let cancel = lane_cancel.child_token();
        let job = Job {
            running: self.node.sessions.begin(live, self.id, Instant::now()),
            node: Arc::clone(&self.node),
            echo: echo.clone(),
            request,
            channel,
            out: self.out.clone(),
            cancel: cancel.clone(),
            before: lane.last.replace(next),
            client,
        };
        let gone = self.gone.clone();
        self.answers.spawn(async move {
            let watch = async {
                ended.cancelled().await;
                cancel.cancel();
                std::future::pending::<()>().await;
            };
            tokio::select! {
                biased;
                () = gone.cancelled() => {}
                () = job.run() => {}
                () = watch => {}
            }
            drop(place);
            drop(done);
        });
    }

    /// Ends the running and the queued answers of a session.
    fn cancel(&mut self, id: &SessionId) {
        if let Some(lane) = self.lanes.get_mut(id) {
            let cancelled = std::mem::replace(&mut lane.cancel, self.gone.child_token());
            cancelled.cancel();
        }
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
        !self.answers.is_empty()
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
        self.node.sessions.disconnect(self.id, Instant::now());
    }
}

impl Lane {
    fn is_busy(&self) -> bool {
        Arc::strong_count(&self.places) > 1
    }
}

/// A session that was opened and is to be acknowledged.
#[derive(Debug)]
struct Opened {
    live: Arc<LiveSession>,
    context: InitContext,
    warning: Option<&'static str>,
}

fn told_of(refused: &OpenRefused) -> Told {
    match refused {
        OpenRefused::Protocol(fault) => Told::from(&Error::from(*fault)),
        OpenRefused::Full => Code::NodeBusy.into(),
    }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
