//! What went wrong, in the shape of OpenAI's errors.

use std::time::Duration;

use axum::{
    Json,
    extract::rejection::BytesRejection,
    http::{HeaderValue, StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use fabstir_client::Error;
use fabstir_protocol::Code;
use serde_json::{Value, json};

use super::MAX_BODY;
use crate::failure::{Exit, Failure};

#[derive(Clone, Debug)]
pub(super) struct Fault {
    status: StatusCode,
    /// A code of docs/protocol.md where the node refused, and one of OpenAI's where the proxy did.
    code: String,
    message: String,
    retry_after: Option<Duration>,
    /// Whether the same again is of no use, or may be computed twice.
    once: bool,
}

impl Fault {
    fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        Self { status, code: code.to_owned(), message: message.into(), retry_after: None, once: false }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", message)
    }

    pub(super) fn forbidden(message: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    pub(super) fn unauthorized() -> Self {
        let message = "the token is missing or wrong: eval \"$(fabstir proxy --env)\" sets it";
        Self::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message)
    }

    pub(super) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "the proxy serves nothing under this path")
    }

    pub(super) fn wrong_method() -> Self {
        let message = "this path is served by another method: the Allow header names it";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
    }

    pub(super) fn no_model() -> Self {
        Self::new(StatusCode::NOT_FOUND, Code::ModelNotFound.as_str(), "the model is not served here")
    }

    /// The JSON of it, as a body or as an event of a stream.
    pub(super) fn to_json(&self) -> Value {
        let kind = match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            429 => "rate_limit_error",
            400..500 => "invalid_request_error",
            _ => "server_error",
        };
        json!({"error": {"message": self.message, "type": kind, "param": null, "code": self.code}})
    }

    /// The same as Anthropic's API has it, which knows kinds and no codes: the code stands in the words.
    pub(super) fn to_anthropic_json(&self) -> Value {
        let kind = match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            400..500 => "invalid_request_error",
            503 => "overloaded_error",
            _ => "api_error",
        };
        let message = format!("{} ({})", self.message, self.code);
        json!({"type": "error", "error": {"type": kind, "message": message}})
    }

    /// The answer with this body.
    pub(super) fn respond(&self, body: Value) -> Response {
        let mut response = (self.status, Json(body)).into_response();
        if let Some(wait) = self.retry_after {
            let seconds = wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).max(1);
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.once {
            // OpenAI's and Anthropic's own clients send again what failed with 5xx, unless they are told so.
            response.headers_mut().insert("x-should-retry", HeaderValue::from_static("false"));
        }
        response
    }

    fn once(self) -> Self {
        Self { once: true, ..self }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::Refused { code, message, retry_after } => {
                let known = Code::ALL.iter().find(|known| known.as_str() == code);
                let status = known.and_then(|known| StatusCode::from_u16(known.http_status()).ok());
                let status = status.unwrap_or(StatusCode::BAD_GATEWAY);
                // The engine may have done the work, or most of it.
                let once =
                    matches!(known, Some(Code::EngineFailed | Code::InternalError | Code::SlowConsumer));
                Self { retry_after, once, ..Self::new(status, &code, message) }
            }
            Error::TooLarge { .. } => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, Code::RequestTooLarge.as_str(), message)
            }
            Error::Silent(_) => Self::new(StatusCode::GATEWAY_TIMEOUT, "node_silent", message).once(),
            Error::Truncated => Self::new(StatusCode::BAD_GATEWAY, "truncated", message).once(),
            Error::Identity(_) | Error::TooOld { .. } => {
                Self::new(StatusCode::BAD_GATEWAY, "node_identity", message).once()
            }
            Error::Address(_)
            | Error::Connect(_)
            | Error::Tls(_)
            | Error::Handshake
            | Error::DidNotOpen
            | Error::Protocol
            | Error::SessionLost
            | Error::Closed => Self::new(StatusCode::BAD_GATEWAY, "node_unreachable", message).once(),
        }
    }
}

/// The body did not come, or would not end.
impl From<BytesRejection> for Fault {
    fn from(rejection: BytesRejection) -> Self {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            let message = format!("the request is larger than the proxy reads: {MAX_BODY} bytes at most");
            return Self::new(rejection.status(), Code::RequestTooLarge.as_str(), message);
        }
        Self::invalid("the body did not come whole")
    }
}

/// There is no session with the node.
impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        // A node that refuses to open one says why, and when to come back.
        if let Some(error @ Error::Refused { .. }) = failure.cause() {
            return Self { message: failure.what().to_owned(), ..error.clone().into() };
        }
        let fault = |code| Self::new(StatusCode::BAD_GATEWAY, code, failure.what());
        match failure.exit() {
            Exit::Connect | Exit::Broken => fault("node_unreachable"),
            Exit::Identity => fault("node_identity").once(),
            Exit::Refused => fault("node_refused"),
            Exit::Ok | Exit::Usage | Exit::Interrupted => fault("proxy").once(),
        }
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        self.respond(self.to_json())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_node_that_opens_no_session_is_quoted_with_its_code_status_and_time() {
        let refused = Error::Refused {
            code: "DRAINING".into(),
            message: "the node is going away".into(),
            retry_after: Some(Duration::from_millis(1500)),
        };
        let fault = Fault::from(Failure::from(refused));
        assert_eq!(fault.to_json()["error"]["code"], "DRAINING");
        let response = fault.into_response();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "2");
        assert!(!response.headers().contains_key("x-should-retry"));
        // A code that this version does not know is the node's all the same.
        let refused = Error::Refused { code: "NEW".into(), message: "no".into(), retry_after: None };
        assert_eq!(Fault::from(Failure::from(refused)).into_response().status(), 502);
        let unreachable = Fault::from(Failure::from(Error::Connect("refused".into())));
        assert_eq!(unreachable.to_json()["error"]["code"], "node_unreachable");
    }
}
