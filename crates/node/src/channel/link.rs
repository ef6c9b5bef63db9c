//! The binary frames of one connection: a handshake, or a resumption, and then records.

use std::{net::IpAddr, sync::Arc};

use fabstir_protocol::{
    Code,
    ethereum::Address,
    seal::OpenError,
    v1::Network,
    v2::{
        AwaitingM3, AwsLc, CertificateError, Channel, Fault as WireFault, Flags, FromClient, Greeted,
        HandshakeError, Kind, M1, Opener, R1, RecordType, Sealer, Shape, Sid, SignedDelegation, Welcome,
        encode,
    },
};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    pump, run,
    session::{Client, Session, wire_fault, wire_hit},
};
use crate::{
    answer::Outgoing,
    ledger::EndReason,
    limits::{Hit, Limit, Party, Share},
    metrics,
    node::{self, Node},
};

/// Most bytes of a welcome in r2.
const MOST_IN_R2: usize = 4000;

/// Where a connection stands in version 2.
#[derive(Debug)]
enum Stage {
    /// Nothing of it yet.
    Fresh,
    /// Message 2 is out, by the channel key of this identity.
    Greeting(Box<AwaitingM3>, Address),
    /// Records.
    Open { session: Arc<Session>, opener: Box<Opener>, epoch: u64 },
    /// Ended. Nothing is taken any more.
    Over,
}

/// Why nothing more is taken from a connection.
#[derive(Debug)]
pub(crate) enum LinkError {
    /// To be told in a text frame: nothing is sealed yet.
    Clear(Hit),
    /// Not of version 2, and nothing of version 2 has begun: the connection goes on.
    NoFrame,
    /// Something did not open, or was out of place: the keys are wiped.
    Broken,
    /// The client was told in a sealed record, or said goodbye itself.
    Told,
}

impl From<HandshakeError> for LinkError {
    fn from(HandshakeError: HandshakeError) -> Self {
        Code::HandshakeFailed.into()
    }
}

impl From<Code> for LinkError {
    fn from(code: Code) -> Self {
        Self::Clear(code.into())
    }
}

impl From<OpenError> for LinkError {
    fn from(OpenError: OpenError) -> Self {
        Self::Broken
    }
}

/// A connection's side of version 2.
#[derive(Debug)]
pub(crate) struct Link {
    stage: Stage,
    peer: IpAddr,
    /// Cancelled once message 3 has come.
    greeted: CancellationToken,
    /// Room for the requests that are not whole yet, among those of all sessions.
    unfinished: Option<OwnedSemaphorePermit>,
}

impl Link {
    pub(crate) fn new(peer: IpAddr) -> Self {
        Self { stage: Stage::Fresh, peer, greeted: CancellationToken::new(), unfinished: None }
    }

    /// Whether text frames are of no meaning any more.
    pub(crate) fn has_begun(&self) -> bool {
        !matches!(self.stage, Stage::Fresh)
    }

    /// Whether answers are being made or sent.
    pub(crate) fn is_busy(&self) -> bool {
        match &self.stage {
            Stage::Open { session, .. } => session.is_busy(),
            Stage::Greeting(..) => true,
            Stage::Fresh | Stage::Over => false,
        }
    }

    /// The session at the other end, once there is one.
    pub(crate) fn session(&self) -> Option<Arc<Session>> {
        match &self.stage {
            Stage::Open { session, .. } => Some(Arc::clone(session)),
            Stage::Fresh | Stage::Greeting(..) | Stage::Over => None,
        }
    }

    /// Does what a binary frame asks.
    pub(crate) async fn receive(
        &mut self,
        node: &Arc<Node>,
        frame: &[u8],
        out: &mpsc::Sender<Outgoing>,
        gone: &CancellationToken,
    ) -> Result<(), LinkError> {
        let split = Kind::split(frame);
        if split.is_err() && !self.has_begun() {
            return Err(LinkError::NoFrame);
        }
        let stage = std::mem::replace(&mut self.stage, Stage::Over);
        let kind = split.map_err(|_| HandshakeError)?.0;
        self.stage = match (stage, kind) {
            (Stage::Fresh, Kind::M1) => self.greet(node, frame, out, gone).await?,
            (Stage::Fresh, Kind::R1) => self.resume(node, frame, out, gone).await?,
            (Stage::Greeting(waiting, identity), Kind::M3) => {
                let finished = node.on_pool({
                    let frame = frame.to_vec();
                    move || waiting.finish(&frame)
                });
                let greeted = finished.await.unwrap_or(Err(HandshakeError));
                if greeted.is_err() {
                    metrics::handshake(Some(Code::HandshakeFailed));
                }
                self.greeted.cancel();
                self.open(node, greeted?, identity, out, gone).await?
            }
            (Stage::Open { session, mut opener, epoch }, Kind::Record) => {
                session.account.received(frame.len());
                let led = opener.open(frame).and_then(|record| session.receive(epoch, record));
                match led {
                    Ok((led, unfinished)) => {
                        self.make_room(node, &session, unfinished);
                        act(node, &session, epoch, led)?;
                    }
                    Err(error) => {
                        // The keys are gone with the opener; the ticket, whose secret is another, stays.
                        node.channels_lost(&session, epoch);
                        return Err(error.into());
                    }
                }
                Stage::Open { session, opener, epoch }
            }
            (Stage::Open { session, epoch, .. }, _) => {
                node.channels_lost(&session, epoch);
                return Err(LinkError::Broken);
            }
            (Stage::Fresh | Stage::Greeting(..) | Stage::Over, _) => return Err(HandshakeError.into()),
        };
        Ok(())
    }

    /// Holds as much room as unfinished requests take. Where there is none, the client is told and the connection ends.
    fn make_room(&mut self, node: &Node, session: &Session, bytes: usize) {
        let needed = bytes.div_ceil(1024);
        let held = self.unfinished.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        if needed <= held {
            let spare = self.unfinished.as_mut().and_then(|room| room.split(held.saturating_sub(needed)));
            return drop(spare);
        }
        let more = u32::try_from(needed.saturating_sub(held)).unwrap_or(u32::MAX);
        match Arc::clone(&node.queued_kibibytes).try_acquire_many_owned(more) {
            Ok(more) => match &mut self.unfinished {
                Some(room) => room.merge(more),
                None => self.unfinished = Some(more),
            },
            Err(_) => session.say(RecordType::Error, Flags::LAST, &wire_fault(Code::NodeBusy, None)),
        }
    }

    /// Message 1: first what costs nothing, then one agreement, and only then what a handshake costs.
    async fn greet(
        &self,
        node: &Arc<Node>,
        frame: &[u8],
        out: &mpsc::Sender<Outgoing>,
        gone: &CancellationToken,
    ) -> Result<Stage, LinkError> {
        let Some(identities) = &node.identities else {
            return Err(Code::EncryptionNotSupported.into());
        };
        let hint = M1::read(frame)?.hint;
        if node.draining.is_cancelled() {
            return Err(Code::Draining.into());
        }
        self.admit(node)?;
        let found = identities.find(hint, Instant::now()).ok_or(HandshakeError);
        let (identity, key) = found.inspect_err(|_| metrics::handshake(Some(Code::HandshakeFailed)))?;
        let (frame, prologue) = (frame.to_vec(), identity.channel_keys.prologue().to_vec());
        let respond = move || {
            let opened = M1::read(&frame)?.open(key.private(), &prologue)?;
            opened.respond::<AwsLc>(&mut node::rng())
        };
        let responded = node.on_pool(respond).await.unwrap_or(Err(HandshakeError));
        let (m2, waiting) = responded.inspect_err(|_| metrics::handshake(Some(Code::HandshakeFailed)))?;
        send(out, m2).await;
        // Message 3 is due.
        let (greeted, gone, patience) =
            (self.greeted.clone(), gone.clone(), node.channels.limits().handshake);
        tokio::spawn(async move {
            tokio::select! {
                () = greeted.cancelled() => {}
                () = gone.cancelled() => {}
                () = tokio::time::sleep(patience) => {
                    metrics::handshake(Some(Code::HandshakeFailed));
                    gone.cancel();
                }
            }
        });
        Ok(Stage::Greeting(Box::new(waiting), identity.key.address()))
    }

    fn admit(&self, node: &Node) -> Result<(), LinkError> {
        node.limits.init(self.peer).map_err(|hit| {
            metrics::handshake(Some(hit.code));
            LinkError::Clear(hit)
        })
    }

    /// Message 3 has opened: who is there, and is it somebody who may be?
    async fn open(
        &self,
        node: &Arc<Node>,
        greeted: Greeted,
        identity: Address,
        out: &mpsc::Sender<Outgoing>,
        gone: &CancellationToken,
    ) -> Result<Stage, LinkError> {
        let Greeted { static_key, delegation, hello, channel } = greeted;
        let Channel { mut sealer, opener, sid, ticket } = channel;
        let judged = match (delegation, hello) {
            (Ok(delegation), Some(hello)) => self
                .judge(node, delegation.as_ref(), &static_key, identity)
                .await
                .map(|client| (client, hello)),
            (Err(error), _) => Err(refusal_of(error).into()),
            (_, None) => Err(Code::InvalidPayload.into()),
        };
        let (client, hello) = match judged {
            Ok(judged) => judged,
            Err(hit) => return Err(refuse(&mut sealer, hit, out).await),
        };
        let shape = node.shape(hello.shape);
        sealer.set_shape(shape);
        let claimed = hello.claim.as_ref().and_then(|claim| {
            let session = node.channels.claim(claim.session, &static_key)?;
            (session.client == client).then_some((session, claim))
        });
        let (session, received) = match claimed {
            Some((session, claim)) => (session, Some(claim.received.as_slice())),
            None => match self.begin(node, sid, client, static_key) {
                Ok(session) => (session, None),
                Err(hit) => return Err(refuse(&mut sealer, hit, out).await),
            },
        };
        tracing::info!(event = "channel_open", session_id = %session.name, "Encrypted channel opened");
        if let Client::Wallet(address) = client {
            tracing::info!(event = "channel_open", "Client address recovered: {address}");
        }
        metrics::handshake(None);
        let (epoch, known) = session.attach(gone.clone(), shape, received);
        session.welcome(&welcome(node, shape, hello.ticket, known));
        if hello.ticket {
            node.channels.issue(&session, ticket);
        }
        self.lend(node, &session, epoch, sealer, out, gone);
        Ok(Stage::Open { session, opener: Box::new(opener), epoch })
    }

    /// A session that was not there before.
    fn begin(
        &self,
        node: &Node,
        sid: Sid,
        client: Client,
        static_key: fabstir_protocol::identity::PublicKey,
    ) -> Result<Arc<Session>, Hit> {
        let numbers = match client {
            Client::Wallet(address) => {
                let number = node.client_number(address);
                (number, Some(number))
            }
            // Nobody vouches for a fresh key: in the line it stands for its network, and it shares nothing.
            Client::Anonymous => (node.client_number(Network::from(self.peer)), None),
        };
        let party = Party::of(client.address(), self.peer);
        let room = node.limits.session(party)?;
        let most = node.channels.limits().max_request_bytes;
        let session = Arc::new(Session::new(sid, client, static_key, numbers, party, most));
        session.conversation().occupy(Some(room));
        if !node.channels.open(&session) {
            return Err(Hit::room(Limit::Sessions));
        }
        node.ledger.open(&session.account);
        // The lists may have changed since they were asked.
        if !session.is_admitted(&node.access) {
            node.channels.end(&session, EndReason::Denied);
            return Err(Code::ClientNotAllowed.into());
        }
        Ok(session)
    }

    /// Who speaks, if they may.
    async fn judge(
        &self,
        node: &Arc<Node>,
        delegation: Option<&SignedDelegation>,
        static_key: &fabstir_protocol::identity::PublicKey,
        identity: Address,
    ) -> Result<Client, Hit> {
        let Some(delegation) = delegation else {
            return if node.access.admits_anonymous(static_key) {
                Ok(Client::Anonymous)
            } else {
                Err(Code::ClientNotAllowed.into())
            };
        };
        let now = node.clock.unix(Instant::now());
        delegation.check(static_key, identity, now).map_err(refusal_of)?;
        let wallet = delegation.delegation().wallet;
        // The lists first: who is not to come in costs no recovery.
        if !node.access.admits_delegate(&wallet, static_key) {
            return Err(Code::ClientNotAllowed.into());
        }
        if !node.channels.was_verified(delegation) {
            let (signed, key) = (delegation.clone(), *static_key);
            let verified = node.on_pool(move || signed.verify(&key, identity, now)).await;
            verified.ok_or(Code::InternalError)?.map_err(refusal_of)?;
            node.channels.remember_verified(delegation);
        }
        node.limits.init_of(wallet)?;
        Ok(Client::Wallet(wallet))
    }

    /// r1: new keys for a session that there is.
    async fn resume(
        &self,
        node: &Arc<Node>,
        frame: &[u8],
        out: &mpsc::Sender<Outgoing>,
        gone: &CancellationToken,
    ) -> Result<Stage, LinkError> {
        let r1 = R1::read(frame)?;
        self.admit(node)?;
        let redeemed = node.channels.redeem(&r1);
        metrics::resumption(redeemed.is_none().then_some(Code::ResumptionRefused));
        let Some((opened, session)) = redeemed else {
            return Err(Code::ResumptionRefused.into());
        };
        if !session.is_admitted(&node.access) {
            node.channels.end(&session, EndReason::Denied);
            return Err(Code::ClientNotAllowed.into());
        }
        let resume = opened.resume.clone().ok_or(HandshakeError)?;
        let shape = node.shape(resume.shape);
        let (epoch, known) = session.attach(gone.clone(), shape, Some(&resume.received));
        let mut welcome = welcome(node, shape, true, known);
        // r2 holds 4 KiB, and the client has the list of models from its first welcome.
        if encode(&welcome).len() > MOST_IN_R2 {
            welcome.models.clear();
        }
        let responded = node.on_pool(move || opened.respond(&welcome, &mut node::rng())).await;
        let Some(Ok((r2, channel))) = responded else {
            node.channels_lost(&session, epoch);
            return Err(HandshakeError.into());
        };
        let Channel { sealer, opener, ticket, .. } = channel;
        send(out, r2).await;
        node.channels.issue(&session, ticket);
        tracing::info!(event = "channel_resume", session_id = %session.name, "Encrypted channel resumed");
        self.lend(node, &session, epoch, sealer, out, gone);
        Ok(Stage::Open { session, opener: Box::new(opener), epoch })
    }

    /// What the session has to say goes out by this connection from here on.
    fn lend(
        &self,
        node: &Arc<Node>,
        session: &Arc<Session>,
        epoch: u64,
        sealer: Sealer,
        out: &mpsc::Sender<Outgoing>,
        gone: &CancellationToken,
    ) {
        let pump = pump::run(Arc::clone(node), Arc::clone(session), epoch, sealer, out.clone(), gone.clone());
        session.tasks.spawn(pump);
    }

    /// The connection is gone.
    pub(crate) fn end(&mut self, node: &Arc<Node>) {
        if let Stage::Open { session, epoch, .. } = std::mem::replace(&mut self.stage, Stage::Over) {
            node.channels_lost(&session, epoch);
        }
    }
}

fn act(node: &Arc<Node>, session: &Arc<Session>, epoch: u64, led: FromClient) -> Result<(), LinkError> {
    match led {
        FromClient::Request(request, body) => {
            let begun = place(node, session, body.len()).and_then(|place| {
                let begun = session.begin(epoch, request, node.channels.limits().max_requests);
                begun.map(|cancel| (cancel, place)).ok_or_else(|| Hit::room(Limit::QueuedMessages))
            });
            metrics::message(begun.as_ref().err().map(|hit| hit.code));
            match begun {
                Ok((cancel, place)) => {
                    let work = run::run(Arc::clone(node), Arc::clone(session), request, body, cancel);
                    session.tasks.spawn(async move {
                        work.await;
                        drop(place);
                    });
                }
                Err(hit) => refuse_request(node, session, epoch, request, hit),
            }
        }
        FromClient::TooLarge(request) => {
            metrics::message(Some(Code::RequestTooLarge));
            refuse_request(node, session, epoch, request, Code::RequestTooLarge.into());
        }
        FromClient::Cancel(request) => session.cancel(request),
        FromClient::Ack(received) => session.acknowledge(&received),
        FromClient::Goodbye => {
            node.channels.end(session, EndReason::Goodbye);
            return Err(LinkError::Told);
        }
        FromClient::Nothing => {}
    }
    Ok(())
}

/// A request's place among its client's, and its room among those of all sessions.
fn place(node: &Node, session: &Session, bytes: usize) -> Result<(Share<Party>, OwnedSemaphorePermit), Hit> {
    if node.draining.is_cancelled() {
        return Err(Code::Draining.into());
    }
    node.limits.message(node.client_number(("v2", session.name)), session.party)?;
    let of_client = node.limits.request(session.party)?;
    let kibibytes = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
    let of_all = Arc::clone(&node.queued_kibibytes).try_acquire_many_owned(kibibytes);
    Ok((of_client, of_all.map_err(|_| Hit::room(Limit::QueuedMemory))?))
}

/// Refuses a request. A client that acknowledges nothing is told that once more, and then nothing.
fn refuse_request(node: &Node, session: &Session, epoch: u64, request: u32, hit: Hit) {
    let most = node.channels.limits().max_requests;
    if !session.refuse(epoch, request, &wire_hit(hit), most) {
        session.say(RecordType::Error, Flags::LAST, &wire_fault(Code::NodeBusy, None));
    }
}

fn welcome(node: &Node, shape: Shape, ticket: bool, known: Option<Vec<u32>>) -> Welcome {
    Welcome {
        node: concat!("fabstir-llm-node/", env!("CARGO_PKG_VERSION")).to_owned(),
        shape,
        ticket,
        limits: node.channels.limits().to_wire(),
        models: node.models(),
        known,
    }
}

fn refusal_of(error: CertificateError) -> Code {
    match error {
        CertificateError::Malformed
        | CertificateError::Signature
        | CertificateError::Time
        | CertificateError::TooLong
        | CertificateError::OtherKey
        | CertificateError::OtherNode
        | CertificateError::Version => Code::CertificateInvalid,
    }
}

/// Refuses who is there, in a sealed record.
async fn refuse(sealer: &mut Sealer, hit: Hit, out: &mpsc::Sender<Outgoing>) -> LinkError {
    metrics::handshake(Some(hit.code));
    metrics::refused(hit.code);
    let fault: WireFault = wire_hit(hit);
    if let Ok(frame) = sealer.seal(RecordType::Error, Flags::LAST, 0, 0, &encode(&fault)) {
        send(out, frame).await;
    }
    LinkError::Told
}

async fn send(out: &mpsc::Sender<Outgoing>, frame: Vec<u8>) {
    // Fails only when the connection is ending, and then nobody is left to hear it.
    let _ = out.send(Outgoing::Record(frame)).await;
}

/// What the shape of a hello becomes.
pub(crate) fn granted(asked: Shape, least: Shape) -> Shape {
    if asked == Shape::Bucket || least == Shape::Bucket { Shape::Bucket } else { Shape::Off }
}
