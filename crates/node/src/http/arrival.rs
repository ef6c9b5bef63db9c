//! What a request holds of its sender's share while it is served.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};

use super::{Shared, refusal};
use crate::{
    limits::{Party, Share},
    peer::Peer,
    server::OpenConnection,
};

/// The sender's share of connections, for as long as somebody holds it.
pub(super) type Held = Arc<Share<Party>>;

/// Counts a request that a trusted proxy brings as a connection of who sent it: the socket itself is everybody's.
pub(super) async fn admit(State(shared): State<Shared>, mut request: Request, next: Next) -> Response {
    let sender = request.extensions().get().copied();
    let counted = request.extensions().get::<Arc<OpenConnection>>().is_none_or(|open| open.is_counted());
    let (false, Some(Peer(sender))) = (counted, sender) else { return next.run(request).await };
    match shared.node.limits.connection(sender) {
        Ok(share) => {
            let held: Held = Arc::new(share);
            request.extensions_mut().insert(Arc::clone(&held));
            let response = next.run(request).await;
            drop(held);
            response
        }
        Err(hit) => refusal(hit.code),
    }
}
