//! The binary frames of one connection: a handshake, or a resumption, and then records.

use std::{net::IpAddr, sync::Arc};

use fabstir_protocol::{
    Code,
    ethereum::Address,
    seal::OpenError,
    v2::{AwaitingM3, Flags, HandshakeError, Kind, Opener, RecordType},
};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;

use super::session::{Session, wire_fault};
use crate::{answer::Outgoing, limits::Hit, metrics, node::Node};

mod handshakes;
mod requests;

pub(crate) use handshakes::granted;

use requests::act;

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

    /// The connection is gone.
    pub(crate) fn end(&mut self, node: &Arc<Node>) {
        if let Stage::Open { session, epoch, .. } = std::mem::replace(&mut self.stage, Stage::Over) {
            node.channels_lost(&session, epoch);
        }
    }
}
