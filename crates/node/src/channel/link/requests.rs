//! What a session's client asks, once its record is open.

use std::sync::Arc;

use fabstir_protocol::{
    Code,
    v2::{Flags, FromClient, RecordType},
};
use tokio::sync::OwnedSemaphorePermit;

use super::LinkError;
use crate::{
    channel::{
        run,
        session::{Session, wire_fault, wire_hit},
    },
    ledger::EndReason,
    limits::{Hit, Limit, Party, Share},
    metrics,
    node::Node,
};

pub(super) fn act(
    node: &Arc<Node>,
    session: &Arc<Session>,
    epoch: u64,
    led: FromClient,
) -> Result<(), LinkError> {
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
