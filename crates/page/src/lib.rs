//! The chat page, taken into the binary, with the headers that hold its script in.
//!
//! [`routes`] gives `/` and what it needs. Who serves it says at `/page.json` who that is and which node the page is to ask
//! ([`Served`]); the page itself speaks to `/v1/ws` of the same origin and to nothing else.

use axum::{
    Router,
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
    routing::get,
};

/// No inline script or style, nothing from elsewhere, and no string becomes script but through the sanitiser's policy.
/// Model output is untrusted, and this is its last wall.
pub const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
    trusted-types dompurify";

const HEADERS: [(HeaderName, &str); 7] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    // A binary of another day has another script.
    (header::CACHE_CONTROL, "no-cache"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (
        HeaderName::from_static("permissions-policy"),
        "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
    ),
];

/// Who serves the page, which decides what it can be trusted for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Served {
    /// The node itself: the page is as good as the TLS that brought it.
    ByNode,
    /// A proxy on the user's own machine, which knows who the node must be.
    ByProxy,
}

/// `/` and its files, and `/page.json` with the address of the node, where it has one: a node may come to have another.
pub fn routes<S: Clone + Send + Sync + 'static>(
    served: Served,
    node: impl Fn() -> Option<String> + Clone + Send + Sync + 'static,
) -> Router<S> {
    let by = match served {
        Served::ByNode => "node",
        Served::ByProxy => "proxy",
    };
    let about = move || {
        let node = node().map_or_else(|| "null".to_owned(), |address| format!("\"{address}\""));
        format!("{{\"served_by\":\"{by}\",\"node\":{node}}}")
    };
    Router::new()
        .route("/", get(async || file("text/html; charset=utf-8", INDEX)))
        .route("/app.js", get(async || file("text/javascript; charset=utf-8", SCRIPT)))
        .route("/style.css", get(async || file("text/css; charset=utf-8", STYLE)))
        .route("/icon.svg", get(async || file("image/svg+xml", ICON)))
        .route("/page.json", get(async move || file("application/json", about())))
}

static INDEX: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/index.html"));
static SCRIPT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/app.js"));
static STYLE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/style.css"));
static ICON: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/icon.svg"));

fn file(kind: &'static str, body: impl IntoResponse) -> Response {
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Request};
    use tower::ServiceExt as _;

    use super::*;

    async fn get_page(path: &str) -> Response {
        let routes: Router =
            routes(Served::ByNode, || Some("0x7e5f4552091a69125d5dfcb7b8c2659029395bdf".into()));
        routes.oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn everything_that_is_served_has_the_policy() {
        for path in ["/", "/app.js", "/style.css", "/icon.svg", "/page.json"] {
            let response = get_page(path).await;
            assert_eq!(response.status(), 200, "{path}");
            for (name, value) in HEADERS {
                assert_eq!(response.headers()[&name], value, "{path}");
            }
        }
    }

    #[test]
    fn nothing_inline_and_nothing_from_elsewhere_is_allowed() {
        assert!(POLICY.starts_with("default-src 'none';"));
        for word in ["unsafe-inline", "unsafe-eval", "http:", "https:", "data:", "*"] {
            assert!(!POLICY.contains(word), "{word}");
        }
    }

    #[tokio::test]
    async fn the_page_is_told_who_serves_it_and_which_node_to_ask() {
        let bytes = axum::body::to_bytes(get_page("/page.json").await.into_body(), 1000).await.unwrap();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        assert_eq!(text, r#"{"served_by":"node","node":"0x7e5f4552091a69125d5dfcb7b8c2659029395bdf"}"#);
    }
}
