//! `POST /v1/auth/challenge`: proof that this node holds its key.

use axum::{
    extract::{Request, State},
    response::Response,
};
use fabstir_protocol::{Code, v1::Network};

use super::{
    Shared, body, json, refusal, refusal_after,
    says::{CONTEXT, Challenge, Proof},
};
use crate::{config::ChallengeMode, metrics, server::Peer};

/// A challenge is small; anything larger is not one.
const MAX_BODY: usize = 4096;

/// Signs a challenge, if its form is switched on.
pub(super) async fn answer(State(shared): State<Shared>, request: Request) -> Response {
    match sign(&shared, request).await {
        Ok(proof) => json(&proof),
        Err(refused) => refused,
    }
}

async fn sign(shared: &Shared, request: Request) -> Result<Proof, Response> {
    let key = shared.node.key.as_ref().ok_or_else(|| refusal(Code::EncryptionNotSupported))?;
    let mode = shared.node.config.challenge;
    if mode == ChallengeMode::Off {
        return Err(refusal(Code::ChallengeDisabled));
    }
    let Some(Peer(peer)) = request.extensions().get().copied() else {
        return Err(refusal(Code::InternalError));
    };
    if let Err(wait) = shared.node.challenges.check(Network::from(peer)) {
        return Err(refusal_after(Code::RateLimited, Some(wait)));
    }
    let bytes = body(request.into_body(), MAX_BODY).await?;
    // serde reads a struct from a list too.
    if !bytes.trim_ascii_start().starts_with(b"{") {
        return Err(refusal(Code::MalformedFrame));
    }
    let asked: Challenge = serde_json::from_slice(&bytes).map_err(|_| refusal(Code::MalformedFrame))?;
    let hex = asked.challenge.ok_or_else(|| refusal(Code::MissingPayloadFields))?;
    let challenge = const_hex::decode(hex).map_err(|_| refusal(Code::InvalidHexEncoding))?;
    let challenge: [u8; 32] = challenge.try_into().map_err(|_| refusal(Code::InvalidPayload))?;
    let (form, signature) = match asked.context.as_deref() {
        Some(CONTEXT) => ("context", key.answer_challenge(&challenge)),
        Some(_) => return Err(refusal(Code::InvalidPayload)),
        None if mode == ChallengeMode::Legacy => ("legacy", key.answer_legacy_challenge(&challenge)),
        None => return Err(refusal(Code::ChallengeDisabled)),
    };
    let bytes = signature.map_err(|_| refusal(Code::InternalError))?.to_bytes();
    metrics::key_operation("sign");
    metrics::challenge(form);
    let [rs @ .., recid] = bytes;
    Ok(Proof {
        signature: const_hex::encode(rs),
        recid,
        public_key: key.public().to_string(),
        address: key.address().to_string(),
    })
}
