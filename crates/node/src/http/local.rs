//! What only this machine is told.

use std::net::IpAddr;

use axum::{
    extract::Request,
    http::{HeaderMap, header},
    middleware::Next,
    response::Response,
};
use fabstir_protocol::Code;

use super::refusal;
use crate::peer::Peer;

/// Headers by which a proxy says for whom it asks.
const FORWARDED: [&str; 3] = ["x-forwarded-for", "x-real-ip", "via"];

/// Answers others as if there were nothing.
pub(super) async fn only(request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().map(|Peer(peer)| *peer);
    if peer.is_some_and(|peer| is_local(peer, request.headers())) {
        next.run(request).await
    } else {
        refusal(Code::NotFound)
    }
}

/// Whether a request comes from this machine, and for nobody else: a proxy on this machine says for whom it asks.
fn is_local(peer: IpAddr, headers: &HeaderMap) -> bool {
    let forwarded =
        headers.contains_key(header::FORWARDED) || FORWARDED.iter().any(|name| headers.contains_key(*name));
    peer.to_canonical().is_loopback() && !forwarded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_itself_is_local_and_whoever_asks_through_a_proxy_is_not() {
        let none = HeaderMap::new();
        for local in ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"] {
            assert!(is_local(local.parse().unwrap(), &none), "{local}");
        }
        for other in ["192.0.2.1", "10.0.0.1", "::ffff:192.0.2.1", "2001:db8::1", "0.0.0.0"] {
            assert!(!is_local(other.parse().unwrap(), &none), "{other}");
        }
        for name in ["forwarded", "x-forwarded-for", "x-real-ip", "via"] {
            let mut headers = HeaderMap::new();
            headers.insert(name, "192.0.2.1".parse().unwrap());
            assert!(!is_local("127.0.0.1".parse().unwrap(), &headers), "{name}");
        }
    }
}
