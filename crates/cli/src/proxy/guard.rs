//! Who may ask: programs that know the token, by the name that the proxy listens under, and no page of another site.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{
        HeaderMap,
        header::{AUTHORIZATION, HOST, ORIGIN},
    },
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use zeroize::Zeroizing;

use super::{fault::Fault, messages::Refused};

const API_KEY: &str = "x-api-key";

pub(super) struct Guard {
    /// What a Host header may say.
    names: [String; 2],
    token: Option<Zeroizing<String>>,
}

impl Guard {
    pub(super) fn new(address: SocketAddr, token: Option<Zeroizing<String>>) -> Self {
        Self { names: [address.to_string(), format!("localhost:{}", address.port())], token }
    }

    /// By the name of this proxy, and no page of another site.
    fn admit_here(&self, headers: &HeaderMap) -> Result<(), Fault> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        // A page whose name was made to point here has its own name in Host (DNS rebinding).
        if !text(HOST).is_some_and(|host| self.names.iter().any(|name| name == host)) {
            return Err(Fault::forbidden("the Host header does not name this proxy"));
        }
        // A browser says whose page asks; other programs say nothing.
        if headers.contains_key(ORIGIN) {
            let own = |origin: &str| {
                self.names.iter().any(|name| origin.strip_prefix("http://") == Some(name.as_str()))
            };
            if !text(ORIGIN).is_some_and(own) {
                return Err(Fault::forbidden("pages of other sites may not ask here"));
            }
        }
        Ok(())
    }

    /// The same, with the token.
    fn admit(&self, headers: &HeaderMap) -> Result<(), Fault> {
        self.admit_here(headers)?;
        let Some(token) = &self.token else { return Ok(()) };
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        // OpenAI's clients show it the one way, Anthropic's the other.
        let bearer = text(AUTHORIZATION).and_then(|value| value.split_once(' '));
        // The scheme is a word in any case (RFC 9110, 11.1).
        let bearer =
            bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, shown)| shown);
        let key = headers.get(API_KEY).and_then(|value| value.to_str().ok());
        let same = |shown: &str| {
            aws_lc_rs::constant_time::verify_slices_are_equal(shown.as_bytes(), token.as_bytes()).is_ok()
        };
        if bearer.is_some_and(same) || key.is_some_and(same) { Ok(()) } else { Err(Fault::unauthorized()) }
    }
}

pub(super) async fn check(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    match guard.admit(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(fault) => in_shape(request.uri().path(), fault),
    }
}

/// A refusal in the shape of the API whose path this is.
pub(super) fn in_shape(path: &str, fault: Fault) -> Response {
    if path == "/v1/messages" || path.starts_with("/v1/messages/") {
        return Refused(fault).into_response();
    }
    fault.into_response()
}

/// For what needs no token: the page, and what it has sealed.
pub(super) async fn check_here(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    match guard.admit_here(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(fault) => fault.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(guard: &Guard, headers: &[(axum::http::HeaderName, &str)]) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(name, value.parse().unwrap());
        }
        guard.admit(&map).is_ok()
    }

    #[test]
    fn only_this_machines_programs_are_admitted_and_with_the_token() {
        let address = "127.0.0.1:8787".parse().unwrap();
        let guard = Guard::new(address, Some(Zeroizing::new("secret".to_owned())));
        let (host, bearer) = ((HOST, "127.0.0.1:8787"), (AUTHORIZATION, "Bearer secret"));
        assert!(admitted(&guard, &[host.clone(), bearer.clone()]));
        assert!(admitted(&guard, &[(HOST, "localhost:8787"), bearer.clone()]));
        assert!(admitted(&guard, &[host.clone(), (AUTHORIZATION, "bearer secret")]));
        let key = (axum::http::HeaderName::from_static(API_KEY), "secret");
        assert!(admitted(&guard, &[host.clone(), key.clone()]));
        assert!(admitted(&guard, &[host.clone(), key, (AUTHORIZATION, "Bearer of another server")]));
        assert!(admitted(&guard, &[host.clone(), bearer.clone(), (ORIGIN, "http://localhost:8787")]));
        for bad in [
            &[bearer.clone()][..],
            std::slice::from_ref(&host),
            &[host.clone(), (AUTHORIZATION, "Bearer secre")],
            &[host.clone(), (AUTHORIZATION, "secret")],
            &[(HOST, "evil.example:8787"), bearer.clone()],
            &[(HOST, "127.0.0.1"), bearer.clone()],
            &[host.clone(), bearer.clone(), (ORIGIN, "https://evil.example")],
            &[host.clone(), bearer.clone(), (ORIGIN, "null")],
        ] {
            assert!(!admitted(&guard, bad), "{bad:?}");
        }
        // Without a token the other doors stay shut.
        let open = Guard::new(address, None);
        assert!(admitted(&open, std::slice::from_ref(&host)));
        assert!(!admitted(&open, &[(HOST, "evil.example:8787")]));
        assert!(!admitted(&open, &[host, (ORIGIN, "https://evil.example")]));
    }
}
