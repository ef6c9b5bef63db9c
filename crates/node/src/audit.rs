//! Who was not let in, and what the operator did: events for whoever watches over several nodes (docs/logging.md).

use std::net::IpAddr;

use fabstir_protocol::Code;

/// Takes note that somebody at `peer` was refused a session of this version, where the code says something of who they are.
pub(crate) fn refused(code: Code, version: u8, peer: IpAddr) {
    let is_of_them = matches!(
        code,
        Code::ClientNotAllowed | Code::InvalidSignature | Code::ReplayDetected | Code::CertificateInvalid
    );
    // Nothing was computed for most of these, and so nobody counts how many somebody sends.
    let is_anybodys = matches!(code, Code::HandshakeFailed | Code::ResumptionRefused);
    let code = code.as_str();
    if is_of_them {
        tracing::info!(event = "refused", code, version, %peer, "Client refused");
    } else if is_anybodys {
        tracing::debug!(event = "refused", code, version, %peer, "Client refused");
    }
}

/// The operator has asked for something that changes what the node does.
pub(crate) fn operator(what: &'static str) {
    tracing::info!(event = "admin", what, "The operator asks: {what}");
}

/// Somebody who is not the operator was turned away from ADMIN_SOCKET.
pub(crate) fn no_operator(user: Option<u32>) {
    tracing::warn!(
        event = "admin",
        what = "turned_away",
        user,
        "another user was turned away from ADMIN_SOCKET"
    );
}
