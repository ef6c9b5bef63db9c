//! Connections of the attacker's own.

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::time::timeout;
use tokio_tungstenite::connect_async;

use super::{REPLY, Shared, Upstream, relay::at};
use crate::{
    step::Again,
    tamper,
    wire::{Frame, Kind, Place, Recording, Way, find},
};

/// Frames that an attacker sends on one connection of its own.
const MOST_AGAIN: usize = 64;

/// Sends what was recorded on a connection of the attacker's; what the node says to it is kept.
pub(super) async fn elsewhere(shared: &Shared, again: Again) {
    let replies = exchange(&shared.url, recorded(shared, again)).await;
    shared.log().replies.extend(replies.unwrap_or_default());
}

/// What a node says to frames that are sent one after the other, each once the node is silent.
pub(super) async fn exchange(url: &str, frames: Vec<Frame>) -> Option<Vec<Frame>> {
    let (mut socket, _): (Upstream, _) = connect_async(url).await.ok()?;
    let mut replies = Vec::new();
    for frame in frames.into_iter().take(MOST_AGAIN) {
        if socket.send(frame.into()).await.is_err() {
            break;
        }
        while let Ok(Some(Ok(message))) = timeout(REPLY, socket.next()).await {
            let Some(reply) = Frame::of(message) else { continue };
            let kind = reply.kind();
            replies.push(reply);
            // What is due now is the next message of the handshake.
            if kind == Kind::M2 {
                break;
            }
        }
    }
    let _ = timeout(REPLY, socket.close(None)).await;
    Some(replies)
}

fn recorded(shared: &Shared, again: Again) -> Vec<Frame> {
    let log = shared.log();
    let of = |recording: &Recording, places: &[Place]| -> Vec<Frame> {
        places.iter().filter_map(|place| find(recording, *place)).collect()
    };
    match again {
        Again::Recorded(places) => of(&log.seen, places),
        Again::OfOther(places) => of(&shared.plan.other, places),
        Again::Everything(connection) => {
            let sent = log
                .seen
                .iter()
                .filter(|seen| seen.place.connection == connection && seen.place.way == Way::ToNode);
            sent.map(|seen| seen.frame.clone()).collect()
        }
        Again::Forged(place) => {
            let r1 = find(&log.seen, place);
            r1.and_then(|r1| tamper::with_forged_secret(&r1)).into_iter().collect()
        }
        Again::Spoilt(place, byte) => {
            let r1 = find(&log.seen, place);
            r1.map(|r1| r1.flipped(at(&r1, byte), 0)).into_iter().collect()
        }
    }
}
