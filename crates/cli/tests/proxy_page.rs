//! The chat page that the proxy serves, and the way to the node that it carries for it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test is meant to panic")]
#![cfg(unix)]

mod support;

use fabstir_client::{Config, Request, Session, anonymous};
use reqwest::{
    Response,
    header::{CONNECTION, HOST, ORIGIN, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE},
};
use support::{TestNode, User, proxy::Proxy};

struct Page {
    proxy: Proxy,
    place: String,
}

impl Page {
    fn of(node: &TestNode, user: &User) -> Self {
        let proxy = Proxy::start(user, node);
        let place = proxy.base.strip_prefix("http://").unwrap().strip_suffix("/v1").unwrap().to_owned();
        Self { proxy, place }
    }

    async fn get(&self, path: &str, headers: &[(reqwest::header::HeaderName, &str)]) -> Response {
        let mut request = self.proxy.http.get(format!("http://{}{path}", self.place));
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        request.send().await.unwrap()
    }
}

#[tokio::test]
async fn the_page_needs_no_token_and_is_told_which_node_was_pinned() {
    let (node, user) = (TestNode::start(&[]), User::new());
    let page = Page::of(&node, &user);
    let index = page.get("/", &[]).await;
    assert_eq!(index.status(), 200);
    assert!(
        index.headers()["content-security-policy"].to_str().unwrap().contains("require-trusted-types-for")
    );
    let about = page.get("/page.json", &[]).await.text().await.unwrap();
    assert_eq!(about, format!(r#"{{"served_by":"proxy","node":"{}"}}"#, node.identity));
    // The API beside it still asks for one.
    assert_eq!(page.get("/v1/models", &[]).await.status(), 401);
}

#[tokio::test]
async fn pages_of_other_sites_and_of_other_names_get_nothing() {
    let (node, user) = (TestNode::start(&[]), User::new());
    let page = Page::of(&node, &user);
    for path in ["/", "/page.json", "/v1/ws"] {
        assert_eq!(page.get(path, &[(HOST, "evil.example")]).await.status(), 403, "{path}");
        assert_eq!(page.get(path, &[(ORIGIN, "https://evil.example")]).await.status(), 403, "{path}");
    }
}

#[tokio::test]
async fn what_the_page_has_sealed_is_carried_to_the_node() {
    let (node, user) = (TestNode::start(&[]), User::new());
    let page = Page::of(&node, &user);
    let config = Config::new(format!("ws://{}/v1/ws", page.place), node.identity, anonymous());
    let session = Session::connect(config).await.unwrap();
    let (words, _) = session.ask(&Request::prompt("one two three")).await.unwrap().text().await.unwrap();
    assert_eq!(words.as_str(), "one two three");
    session.close().await;
    // Whoever asks for something else there hears what it is.
    let plain = page.get("/v1/ws", &[]).await;
    assert_eq!(plain.status(), 400);
    assert!(plain.text().await.unwrap().contains("WebSocket"));
    let other = [(UPGRADE, "h2c"), (CONNECTION, "upgrade"), (SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ==")];
    assert_eq!(page.get("/v1/ws", &other).await.status(), 400);
}

#[tokio::test]
async fn a_node_that_is_gone_is_said_to_be_so() {
    let (mut node, user) = (TestNode::start(&[]), User::new());
    let page = Page::of(&node, &user);
    node.kill();
    let upgrade = [
        (CONNECTION, "upgrade"),
        (UPGRADE, "websocket"),
        (SEC_WEBSOCKET_VERSION, "13"),
        (SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let answer = page.get("/v1/ws", &upgrade).await;
    assert_eq!(answer.status(), 502);
    assert!(answer.text().await.unwrap().contains("cannot connect to the node"));
}
