//! One socket from its first frame to its last. It owns the sessions that it opened; when it ends, they end.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use fabstir_protocol::{
    Code, Error,
    error::{RequestError, Retry},
    id::SessionId,
    request::PromptRequest,
    seal::Words,
    v1::{
        ClientFrame, Echo, Established, Inbound, InitContext, Network, NodeFrame, Owner, PlainRequest,
        RawInit, RawSealed, Refusal,
    },
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    answer::{Channel, CloseReason, Job, Outgoing, meaning},
    channel::{Link, LinkError},
    crypto::{self, ConnectionId, LiveSession, OpenRefused},
    ledger::EndReason,
    limits::{Hit, Limit, Party, Share, milliseconds},
    metrics,
    node::Node,
};

mod patience;
mod socket;
mod standing;

pub(crate) use socket::serve;

/// Frames in a row that may fail to open before the connection is closed.
const MAX_FAILURES: u32 = 16;
const PLAINTEXT_WARNING: &str = "plaintext sessions are deprecated: anybody on the way can read them";
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

/// The answers of one session id: one runs, the others wait in order.
#[derive(Debug)]
struct Lane {
    cancel: CancellationToken,
    last: Option<oneshot::Receiver<()>>,
    places: Arc<Semaphore>,
}

/// A message's place among those that wait or are being answered, given up on drop.
#[derive(Debug)]
struct Place {
    _of_session: OwnedSemaphorePermit,
    _of_client: Share<Party>,
    _of_all: OwnedSemaphorePermit,
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

impl From<Hit> for Told {
    fn from(Hit { code, wait }: Hit) -> Self {
        Self { retry_after_ms: wait.map(milliseconds), ..Self::from(code) }
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
                metrics::session_init(opened.as_ref().err().map(|told| told.code));
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

    /// Whoever sent an init, if they may open a session.
    async fn authenticate(&mut self, id: SessionId, raw: RawInit<'_>) -> Result<Established, Told> {
        self.serves_version_1()?;
        self.refuse_while_draining()?;
        // What its form gives away costs nothing; what is to be computed for is counted first.
        let formed = self.counted(crypto::read_init(raw, id, self.peer))?;
        self.node.limits.init(self.peer)?;
        let opened = crypto::open_init(&self.node, formed, self.peer).await;
        let established = self.counted(opened.ok_or(Code::InternalError)?)?;
        let clock = &self.node.clock;
        let not_before = self.node.config.require_init_timestamp.then(|| clock.unix_at_start());
        let in_time = established.check_time(clock.unix(Instant::now()), not_before);
        in_time.map_err(|error| Told::from(&Error::from(error)))?;
        if !self.node.access.admits_owner(&established.owner) {
            return Err(Code::ClientNotAllowed.into());
        }
        if let Owner::Verified(address) = established.owner {
            self.node.limits.init_of(address)?;
        }
        Ok(established)
    }

    async fn open_session(&mut self, id: SessionId, raw: RawInit<'_>) -> Result<Ack, Told> {
        let established = self.authenticate(id, raw).await?;
        let ack = Ack::encrypted(&established);
        let room = self.room_for(Some(established.owner), &established.id)?;
        let network = Network::from(self.peer);
        let opened = self.node.sessions.open(established, self.id, network, Instant::now());
        let live = opened.map_err(|refused| told_of(&refused))?;
        live.conversation().occupy(room);
        Ok(ack)
    }

    fn open_plaintext(&mut self, id: SessionId, context: InitContext) -> Result<Ack, Told> {
        let ack = self.admit_plaintext_init(&id, context)?;
        let room = self.room_for(None, &id)?;
        let opened = self.node.sessions.open_plaintext(id, self.id, Instant::now());
        let live = opened.map_err(|refused| told_of(&refused))?;
        live.conversation().occupy(room);
        Ok(ack)
    }

    fn admit_plaintext_init(&self, id: &SessionId, context: InitContext) -> Result<Ack, Told> {
        self.admit_plaintext(id)?;
        self.refuse_while_draining()?;
        Ok(Ack { id: id.clone(), owner: None, context })
    }

    /// Answers a session init as on a socket, and opens nothing: `POST /v1/ws`. The init counts as seen.
    pub async fn probe(&mut self, text: &str) {
        let (echo, outcome) = match Inbound::decode(text) {
            Err(Refusal { echo, error }) => (echo, Err(Told::from(&Error::from(error)))),
            Ok(Inbound { echo, frame: ClientFrame::SessionInit(id, raw) }) => {
                let outcome = self.probe_session(id, raw).await;
                metrics::session_init(outcome.as_ref().err().map(|told| told.code));
                (echo, outcome)
            }
            Ok(Inbound { echo, frame: ClientFrame::PlainInit(id, context) }) => {
                (echo, self.admit_plaintext_init(&id, context))
            }
            Ok(Inbound { echo, .. }) => (echo, Err(Code::UnknownMessageType.into())),
        };
        match outcome {
            Ok(ack) => self.acknowledge(ack, &echo).await,
            Err(told) => self.refuse(&echo, told).await,
        }
    }

    async fn probe_session(&mut self, id: SessionId, raw: RawInit<'_>) -> Result<Ack, Told> {
        let established = self.authenticate(id, raw).await?;
        let network = Network::from(self.peer);
        let seen = self.node.sessions.probe(&established, network, Instant::now());
        seen.map(|()| Ack::encrypted(&established)).map_err(|refused| told_of(&refused))
    }

    async fn acknowledge(&self, ack: Ack, echo: &Echo) {
        let Ack { id, owner, context } = ack;
        let chain_id = context.chain_id.or_else(|| self.node.config.chain_id.map(serde_json::Number::from));
        let frame = NodeFrame::SessionInitAck {
            status: "success",
            session_id: id.as_str(),
            job_id: context.job_id,
            chain_id,
            client_address: owner.map(|owner| owner.address().to_string()),
            message: if owner.is_some() { "encrypted session opened" } else { "plaintext session opened" },
            warning: owner.is_none().then_some(PLAINTEXT_WARNING),
            id: echo.id.as_deref(),
        };
        self.send(&frame).await;
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

    /// A place in the queue of a session's answers (the running one and MAX_QUEUED_MESSAGES behind it) and among its
    /// client's requests, and room for the request among those of all sessions.
    fn place(&mut self, live: &LiveSession, bytes: usize) -> Result<Place, Told> {
        let party = self.party(live.owner());
        self.node.limits.message(self.node.client_number(("v1", live.number())), party)?;
        self.lanes.retain(|_, lane| lane.is_busy());
        let places = self.node.config.max_queued_messages.saturating_add(1);
        let gone = &self.gone;
        let lane = self.lanes.entry(live.id().clone()).or_insert_with(|| Lane {
            cancel: gone.child_token(),
            last: None,
            places: Arc::new(Semaphore::new(places)),
        });
        let full = |limit| move |_| Told::from(Hit::room(limit));
        let of_session = Arc::clone(&lane.places).try_acquire_owned().map_err(full(Limit::QueuedMessages))?;
        let of_client = self.node.limits.request(party)?;
        let kibibytes = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        let of_all = Arc::clone(&self.node.queued_kibibytes)
            .try_acquire_many_owned(kibibytes)
            .map_err(full(Limit::QueuedMemory))?;
        Ok(Place { _of_session: of_session, _of_client: of_client, _of_all: of_all })
    }

    fn start(
        &mut self,
        live: Arc<LiveSession>,
        request: PromptRequest,
        channel: Channel,
        echo: &Echo,
        place: Place,
    ) {
        let party = self.party(live.owner());
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
            party,
        };
        let (gone, stopping) = (self.gone.clone(), self.node.stopping.clone());
        self.answers.spawn(async move {
            let watch = async {
                tokio::select! {
                    () = ended.cancelled() => {}
                    () = stopping.cancelled() => {}
                }
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

impl Lane {
    fn is_busy(&self) -> bool {
        Arc::strong_count(&self.places) > 1
    }
}

/// What is told of a session that was opened; without an owner it is a plaintext one.
#[derive(Debug)]
struct Ack {
    id: SessionId,
    owner: Option<Owner>,
    context: InitContext,
}

impl Ack {
    fn encrypted(established: &Established) -> Self {
        let Established { id, owner, context, .. } = established;
        Self { id: id.clone(), owner: Some(*owner), context: context.clone() }
    }
}

fn told_of(refused: &OpenRefused) -> Told {
    match refused {
        OpenRefused::Protocol(fault) => Told::from(&Error::from(*fault)),
        OpenRefused::Full(limit) => Hit::room(*limit).into(),
    }
}
