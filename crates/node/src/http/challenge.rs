//! `POST /v1/auth/challenge`: proof that this node holds its key.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use fabstir_custody::KeyFailure;
use fabstir_protocol::{Code, identity::Signature};

use super::{
    Shared, body, json, refusal, refusal_after,
    says::{CONTEXT, Challenge, Proof},
};
use crate::{config::ChallengeMode, crypto::NodeKey, metrics, peer::Peer};

/// A challenge is small; anything larger is not one.
const MAX_BODY: usize = 4096;

/// How a challenge is answered.
type Answer = fn(&NodeKey, &[u8; 32]) -> Result<Signature, KeyFailure>;

/// Signs a challenge, if its form is switched on.
pub(super) async fn answer(State(shared): State<Shared>, request: Request) -> Response {
    match sign(&shared, request).await {
        Ok(proof) => json(&proof),
        Err(refused) => refused,
    }
}

async fn sign(shared: &Shared, request: Request) -> Result<Proof, Response> {
    let identity = shared.node.identity().ok_or_else(|| refusal(Code::EncryptionNotSupported))?;
    let mode = shared.node.config.challenge;
    if mode == ChallengeMode::Off {
        return Err(refusal(Code::ChallengeDisabled));
    }
    let Some(Peer(peer)) = request.extensions().get().copied() else {
        return Err(refusal(Code::InternalError));
    };
    shared.node.limits.challenge(peer).map_err(|hit| refusal_after(hit.code, hit.wait))?;
    let bytes = body(request.into_body(), MAX_BODY).await?;
    // serde reads a struct from a list too.
    if !bytes.trim_ascii_start().starts_with(b"{") {
        return Err(refusal(Code::MalformedFrame));
    }
    let asked: Challenge = serde_json::from_slice(&bytes).map_err(|_| refusal(Code::MalformedFrame))?;
    let hex = asked.challenge.ok_or_else(|| refusal(Code::MissingPayloadFields))?;
    let challenge = const_hex::decode(hex).map_err(|_| refusal(Code::InvalidHexEncoding))?;
    let challenge: [u8; 32] = challenge.try_into().map_err(|_| refusal(Code::InvalidPayload))?;
    let (form, answer): (_, Answer) = match asked.context.as_deref() {
        Some(CONTEXT) => ("context", NodeKey::answer_challenge),
        Some(_) => return Err(refusal(Code::InvalidPayload)),
        None if mode == ChallengeMode::Legacy => ("legacy", NodeKey::answer_legacy_challenge),
        None => return Err(refusal(Code::ChallengeDisabled)),
    };
    let signer = Arc::clone(&identity);
    let sign = move || answer(&signer.key, &challenge);
    let signed = shared.node.on_pool(sign).await.ok_or_else(|| refusal(Code::InternalError))?;
    let signature = signed.map_err(|error| {
        tracing::error!(event = "key_use", %error, "the identity key cannot be used: no challenge can be answered");
        refusal(Code::InternalError)
    })?;
    let bytes = signature.to_bytes();
    metrics::challenge(form);
    let [rs @ .., recid] = bytes;
    Ok(Proof {
        signature: const_hex::encode(rs),
        recid,
        public_key: identity.key.public().to_string(),
        address: identity.key.address().to_string(),
    })
}
