//! One answer after the other: the messages of a session that wait, and the one that is answered.

use std::sync::Arc;

use fabstir_protocol::{
    id::SessionId,
    request::PromptRequest,
    v1::{Echo, Network, Owner},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{Connection, told::Told};
use crate::{
    answer::{Channel, Job},
    crypto::LiveSession,
    limits::{Hit, Limit, Party, Share},
};

/// The answers of one session id: one runs, the others wait in order.
#[derive(Debug)]
pub(super) struct Lane {
    cancel: CancellationToken,
    last: Option<oneshot::Receiver<()>>,
    places: Arc<Semaphore>,
}

/// A message's place among those that wait or are being answered, given up on drop.
#[derive(Debug)]
pub(super) struct Place {
    _of_session: OwnedSemaphorePermit,
    _of_client: Share<Party>,
    _of_all: OwnedSemaphorePermit,
}

impl Lane {
    fn is_busy(&self) -> bool {
        Arc::strong_count(&self.places) > 1
    }
}

impl Connection {
    /// A place in the queue of a session's answers (the running one and MAX_QUEUED_MESSAGES behind it) and among its
    /// client's requests, and room for the request among those of all sessions.
    pub(super) fn place(&mut self, live: &LiveSession, bytes: usize) -> Result<Place, Told> {
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

    pub(super) fn start(
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
    pub(super) fn cancel(&mut self, id: &SessionId) {
        if let Some(lane) = self.lanes.get_mut(id) {
            let cancelled = std::mem::replace(&mut lane.cancel, self.gone.child_token());
            cancelled.cancel();
        }
    }
}
