//! Takes what a session has to say, seals it and hands it to the socket, in one place and one order.

use std::sync::Arc;

use fabstir_protocol::v2::{RecordType, Sealer};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::session::{Next, Outbound, Session};
use crate::{
    answer::{CloseReason, Outgoing},
    ledger::EndReason,
    node::Node,
};

/// Runs until the connection is gone, the session is another connection's, or goodbye was said.
pub(super) async fn run(
    node: Arc<Node>,
    session: Arc<Session>,
    epoch: u64,
    mut sealer: Sealer,
    out: mpsc::Sender<Outgoing>,
    gone: CancellationToken,
) {
    loop {
        let woken = session.wake.notified();
        tokio::pin!(woken);
        // Before looking: what comes between looking and waiting must wake it.
        woken.as_mut().enable();
        let until = match session.next(epoch) {
            Next::Send(outbound) => {
                let Outbound { kind, flags, request, index, body } = outbound;
                let Ok(frame) = sealer.seal(kind, flags, request, index, &body) else {
                    // The counter is at its end, or the primitive failed: the next handshake begins anew.
                    gone.cancel();
                    break;
                };
                session.account.sent(frame.len());
                if out.send(Outgoing::Record(frame)).await.is_err() {
                    break;
                }
                if flags.last && request == 0 {
                    if session.is_barred() {
                        node.channels.end(&session, EndReason::Denied);
                    } else if kind == RecordType::Goodbye {
                        // Whoever said goodbye has said why.
                        node.channels.end(&session, EndReason::Goodbye);
                    }
                    let _ = out.send(Outgoing::Close(CloseReason::Goodbye)).await;
                    break;
                }
                continue;
            }
            Next::At(moment) => Some(moment),
            Next::Wait => None,
            Next::Over => break,
        };
        let tick = async {
            match until {
                Some(moment) => sleep_until(moment).await,
                None => std::future::pending::<()>().await,
            }
        };
        tokio::select! {
            () = gone.cancelled() => break,
            () = woken => {}
            () = tick => debug_assert!(until.is_none_or(|moment| moment <= Instant::now())),
        }
    }
}
