//! How sessions of version 1 are opened, on a socket and in the one-frame probe.

use fabstir_protocol::{
    Code, Error,
    id::SessionId,
    v1::{ClientFrame, Echo, Established, Inbound, InitContext, Network, NodeFrame, Owner, RawInit, Refusal},
};
use tokio::time::Instant;

use super::{Connection, told::Told};
use crate::{
    crypto::{self, OpenRefused},
    limits::Hit,
    metrics,
};

const PLAINTEXT_WARNING: &str = "plaintext sessions are deprecated: anybody on the way can read them";

impl Connection {
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
            // Before it counts for its owner: anybody can send again what the owner sent.
            let new = self.node.sessions.refuse_seen(&established, Instant::now());
            new.map_err(|error| Told::from(&Error::from(error)))?;
            self.node.limits.init_of(address)?;
        }
        Ok(established)
    }

    pub(super) async fn open_session(&mut self, id: SessionId, raw: RawInit<'_>) -> Result<Ack, Told> {
        let established = self.authenticate(id, raw).await?;
        let ack = Ack::encrypted(&established);
        let room = self.room_for(Some(established.owner), &established.id)?;
        let network = Network::from(self.peer);
        let opened = self.node.sessions.open(established, self.id, network, Instant::now());
        let live = opened.map_err(|refused| told_of(&refused))?;
        live.conversation().occupy(room);
        Ok(ack)
    }

    pub(super) fn open_plaintext(&mut self, id: SessionId, context: InitContext) -> Result<Ack, Told> {
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

    pub(super) async fn acknowledge(&self, ack: Ack, echo: &Echo) {
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
}

/// What is told of a session that was opened; without an owner it is a plaintext one.
#[derive(Debug)]
pub(super) struct Ack {
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
