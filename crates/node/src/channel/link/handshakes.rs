//! How a connection comes to have a session: a handshake, or a resumption.

use std::sync::Arc;

use fabstir_protocol::{
    Code,
    ethereum::Address,
    v1::Network,
    v2::{
        AwsLc, CertificateError, Channel, Fault as WireFault, Flags, Greeted, HandshakeError, M1, R1,
        RecordType, Sealer, Shape, Sid, SignedDelegation, Welcome, encode,
    },
};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{Link, LinkError, Stage};
use crate::{
    answer::Outgoing,
    audit,
    channel::{
        pump,
        session::{Client, Session, wire_hit},
    },
    ledger::EndReason,
    limits::{Hit, Limit, Party},
    metrics,
    node::{self, Node},
};

/// Most bytes of a welcome in r2.
const MOST_IN_R2: usize = 4000;

impl Link {
    /// Message 1: first what costs nothing, then one agreement, and only then what a handshake costs.
    pub(super) async fn greet(
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
    pub(super) async fn open(
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
            Err(hit) => return Err(self.refuse(&mut sealer, hit, out).await),
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
                Err(hit) => return Err(self.refuse(&mut sealer, hit, out).await),
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
    pub(super) async fn resume(
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

    /// Refuses who is there, in a sealed record.
    async fn refuse(&self, sealer: &mut Sealer, hit: Hit, out: &mpsc::Sender<Outgoing>) -> LinkError {
        metrics::handshake(Some(hit.code));
        metrics::refused(hit.code);
        audit::refused(hit.code, 2, self.peer);
        tracing::debug!(code = hit.code.as_str(), peer = %self.peer, "session refused");
        let fault: WireFault = wire_hit(hit);
        if let Ok(frame) = sealer.seal(RecordType::Error, Flags::LAST, 0, 0, &encode(&fault)) {
            send(out, frame).await;
        }
        LinkError::Told
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

async fn send(out: &mpsc::Sender<Outgoing>, frame: Vec<u8>) {
    // Fails only when the connection is ending, and then nobody is left to hear it.
    let _ = out.send(Outgoing::Record(frame)).await;
}

/// What the shape of a hello becomes.
pub(crate) fn granted(asked: Shape, least: Shape) -> Shape {
    if asked == Shape::Bucket || least == Shape::Bucket { Shape::Bucket } else { Shape::Off }
}
