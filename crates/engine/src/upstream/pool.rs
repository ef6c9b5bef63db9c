//! The servers: which of them are well, and whose turn it is.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use reqwest::{Client, Url};
use serde::Deserialize;
use tokio::time::timeout;

use super::{UpstreamConfig, UpstreamError, base};

/// How long a server may take to name its models.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// Most bytes of a list of models.
const MAX_LIST: usize = 1 << 20;

/// All servers.
#[derive(Debug)]
pub(super) struct Pool {
    servers: Vec<Server>,
    turn: AtomicUsize,
}

/// One server.
#[derive(Debug)]
pub(super) struct Server {
    url: Url,
    well: AtomicBool,
    busy: AtomicUsize,
}

/// A request at a server, counted until it is dropped.
#[derive(Debug)]
pub(super) struct Lease<'a>(&'a Server);

/// A model as a server lists it.
#[derive(Debug, Deserialize)]
pub(super) struct Listed {
    pub(super) id: String,
    /// vLLM's and SGLang's word for the context.
    max_model_len: Option<u32>,
    meta: Option<Meta>,
}

/// What llama-server says of a model.
#[derive(Debug, Deserialize)]
struct Meta {
    n_ctx: Option<u32>,
}

impl Listed {
    pub(super) fn context_window(&self) -> Option<u32> {
        self.max_model_len.or_else(|| self.meta.as_ref()?.n_ctx)
    }
}

impl Pool {
    pub(super) fn new(urls: &[String]) -> Result<Self, UpstreamError> {
        let server = |(at, text): (usize, &String)| {
            let url = base(text).ok_or(UpstreamError::Url(at.saturating_add(1)))?;
            if url.scheme() == "http" && !is_loopback(&url) {
                tracing::warn!(
                    server = shown(&url),
                    "prompts go to this server in the clear: use https, or a network that is yours alone"
                );
            }
            Ok(Server { url, well: AtomicBool::new(true), busy: AtomicUsize::new(0) })
        };
        let servers = urls.iter().enumerate().map(server).collect::<Result<_, _>>()?;
        Ok(Self { servers, turn: AtomicUsize::new(0) })
    }

    /// Whether any of them is well.
    pub(super) fn is_healthy(&self) -> bool {
        self.servers.iter().any(Server::is_well)
    }

    /// The server with the least to do among those that are well, or failing that among the others, without the
    /// `tried` ones. Of equals, each in its turn.
    pub(super) fn choose(&self, tried: &[usize]) -> Option<(usize, Lease<'_>)> {
        let start = self.turn.fetch_add(1, Ordering::Relaxed);
        let all = self.servers.iter().enumerate();
        let left = all.filter(|(number, _)| !tried.contains(number));
        let place = |number: usize| number.wrapping_sub(start).checked_rem(self.servers.len()).unwrap_or(0);
        let order = |(number, server): &(usize, &Server)| (!server.is_well(), server.busy(), place(*number));
        let (number, server) = left.min_by_key(order)?;
        server.busy.fetch_add(1, Ordering::AcqRel);
        Some((number, Lease(server)))
    }

    /// Asks every server for its models, and takes note of who answers.
    pub(super) async fn check(&self, client: &Client, config: &UpstreamConfig) {
        // Side by side: one that does not answer must not keep the others from being found.
        let checks = self.servers.iter().map(async |server| {
            let well = server.list(client, config).await.is_some();
            server.take_note(well);
        });
        join_all(checks).await;
    }

    /// The models of the first server that names them.
    pub(super) async fn list_models(&self, client: &Client, config: &UpstreamConfig) -> Option<Vec<Listed>> {
        for server in &self.servers {
            if let Some(listed) = server.list(client, config).await {
                return Some(listed);
            }
        }
        None
    }
}

impl Server {
    fn is_well(&self) -> bool {
        self.well.load(Ordering::Acquire)
    }

    fn busy(&self) -> usize {
        self.busy.load(Ordering::Acquire)
    }

    fn take_note(&self, well: bool) {
        let before = self.well.swap(well, Ordering::AcqRel);
        match (before, well) {
            (true, false) => tracing::warn!(server = shown(&self.url), "the server does not answer"),
            (false, true) => tracing::info!(server = shown(&self.url), "the server answers again"),
            (true, true) | (false, false) => {}
        }
    }

    async fn list(&self, client: &Client, config: &UpstreamConfig) -> Option<Vec<Listed>> {
        #[derive(Deserialize)]
        struct List {
            data: Vec<Listed>,
        }
        let ask = async {
            let mut response = client.get(self.path("models")).send().await.ok()?.error_for_status().ok()?;
            let mut body = Vec::new();
            while let Some(more) = response.chunk().await.ok()? {
                body.extend_from_slice(&more);
                if body.len() > MAX_LIST {
                    return None;
                }
            }
            let list: List = serde_json::from_slice(&body).ok()?;
            Some(list.data)
        };
        timeout(CHECK_TIMEOUT.min(config.silence), ask).await.ok().flatten()
    }

    /// `base` and `path` behind it.
    fn path(&self, path: &str) -> String {
        format!("{}/{path}", self.url.as_str().trim_end_matches('/'))
    }
}

impl Lease<'_> {
    /// Where to send a request.
    pub(super) fn path(&self, path: &str) -> String {
        self.0.path(path)
    }

    /// Takes note that the server did not do what was asked.
    pub(super) fn failed(&self) {
        self.0.take_note(false);
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::AcqRel);
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// A server's name for the log.
fn shown(url: &Url) -> String {
    let port = url.port_or_known_default().unwrap_or_default();
    format!("{}:{port}", url.host_str().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(count: u16) -> Pool {
        let urls: Vec<String> =
            (0..count).map(|port| format!("http://127.0.0.1:{}/v1", 9000 + port)).collect();
        Pool::new(&urls).unwrap()
    }

    fn number(chosen: Option<(usize, Lease<'_>)>) -> Option<usize> {
        chosen.map(|(number, _)| number)
    }

    #[test]
    fn the_server_with_the_least_to_do_is_chosen() {
        let pool = pool(3);
        let (first, one) = pool.choose(&[]).unwrap();
        let (second, two) = pool.choose(&[]).unwrap();
        let (third, _three) = pool.choose(&[]).unwrap();
        let mut all = [first, second, third];
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2]);
        drop(two);
        assert_eq!(number(pool.choose(&[])), Some(second));
        drop(one);
    }

    #[test]
    fn who_is_not_well_comes_last_and_who_was_tried_not_at_all() {
        let pool = pool(2);
        pool.servers[0].take_note(false);
        assert_eq!(number(pool.choose(&[])), Some(1));
        assert_eq!(number(pool.choose(&[1])), Some(0), "better than nobody");
        assert_eq!(number(pool.choose(&[0, 1])), None);
        assert!(pool.is_healthy());
        pool.servers[1].take_note(false);
        assert!(!pool.is_healthy());
    }

    #[test]
    fn what_is_no_base_url_is_refused() {
        for text in ["", "ftp://a/v1", "a:80", "http://", "http://a/v1?key=b", "http://user:pass@a/v1"] {
            assert!(Pool::new(&[text.to_owned()]).is_err(), "{text}");
        }
        let pool = Pool::new(&["http://[::1]:80/v1/".to_owned()]).unwrap();
        assert_eq!(pool.servers[0].path("models"), "http://[::1]/v1/models");
    }
}
