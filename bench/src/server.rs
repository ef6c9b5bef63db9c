//! A server under test: started on a free port, asked, stopped.

use std::{
    fmt,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use fabstir_client::{
    Event, Request,
    v1::{Client, Config},
};
use fabstir_protocol::identity::PublicKey;
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    time::timeout,
};

use crate::alone::resident_kib;

/// What both put before every conversation: the node by its operator's setting, the peer because it is sent.
const SYSTEM: &str = "You are a helpful assistant.";
/// Tokens that each sequence may hold.
const CONTEXT: usize = 1024;
const PATIENCE: Duration = Duration::from_secs(60);

/// Which server.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Who {
    /// This project's node, with encryption on.
    Node,
    /// llama-server, in the clear.
    Peer,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Node => "fabstir-llm-node",
            Self::Peer => "llama-server",
        })
    }
}

/// What a node is started with, beside its key and its address.
#[derive(Clone, Debug)]
pub(crate) struct NodeSettings(Vec<(String, String)>);

impl NodeSettings {
    pub(crate) fn new<const COUNT: usize>(settings: [(&str, &str); COUNT]) -> Self {
        let mut all = Self(Vec::new());
        all.extend(&settings);
        all
    }

    pub(crate) fn extend(&mut self, more: &[(&str, &str)]) {
        self.0.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    }
}

/// One message of a conversation.
pub(crate) type Message = (&'static str, String);

/// One answer, as its reader saw it.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) asked: Instant,
    /// When each piece came.
    pub(crate) pieces: Vec<Instant>,
    pub(crate) tokens: u32,
    pub(crate) text: String,
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    way: Way,
}

#[derive(Debug)]
enum Way {
    Node { url: String, key: PublicKey },
    Peer { url: String, http: reqwest::Client },
}

/// A way to ask, ready: connected, and with its session open.
#[derive(Debug)]
pub(crate) enum Asker {
    Node(Box<Client>),
    Peer { url: String, http: reqwest::Client },
}

impl Server {
    pub(crate) async fn start(
        who: Who,
        binary: &Path,
        model: &Path,
        slots: usize,
        threads: u32,
    ) -> anyhow::Result<Self> {
        match who {
            Who::Node => {
                let model = model.to_string_lossy();
                let settings = NodeSettings::new([
                    ("MODEL_PATH", model.as_ref()),
                    ("MAX_SEQUENCES", &slots.to_string()),
                    ("CONTEXT_TOKENS", &CONTEXT.to_string()),
                    ("THREADS", &threads.to_string()),
                    ("DEFAULT_SYSTEM_PROMPT", SYSTEM),
                ]);
                Self::start_node(binary, &settings).await
            }
            Who::Peer => Self::start_peer(binary, model, slots, threads).await,
        }
    }

    /// Starts the node with a fresh key.
    pub(crate) async fn start_node(binary: &Path, settings: &NodeSettings) -> anyhow::Result<Self> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)?;
        let mut child = Command::new(binary)
            .env_clear()
            .env("HOST_PRIVATE_KEY", const_hex::encode(seed))
            .env("LISTEN_ADDR", "127.0.0.1:0")
            .envs(settings.0.iter().map(|(name, value)| (name, value)))
            .current_dir(std::env::temp_dir())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} cannot be started", binary.display()))?;
        let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        let (mut key, mut address) = (None, None);
        while let Some(line) =
            timeout(PATIENCE, lines.next_line()).await.context("the node does not start")??
        {
            let field = |name: &str| line.split_once(name).and_then(|(_, rest)| rest.split(' ').next());
            key = key.or_else(|| field("public_key=")?.parse().ok());
            if line.contains(" listening") {
                address = field("address=").map(str::to_owned);
                break;
            }
        }
        // Whatever else it says is read, so that it never waits for its reader.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let (key, address) = key.zip(address).context("the node named no key or no address")?;
        let way = Way::Node { url: format!("ws://{address}/v1/ws"), key };
        Ok(Self { child, way })
    }

    async fn start_peer(binary: &Path, model: &Path, slots: usize, threads: u32) -> anyhow::Result<Self> {
        // Two may race for a port; then the second does not start, and says so.
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let child = Command::new(binary)
            .arg("--model")
            .arg(model)
            .args(["--host", "127.0.0.1", "--port", &port.to_string()])
            .args(["--parallel", &slots.to_string(), "--no-kv-unified"])
            .args(["--ctx-size", &slots.saturating_mul(CONTEXT).to_string()])
            .args(["--threads", &threads.to_string(), "--threads-batch", &threads.to_string()])
            .args(["--jinja", "--log-disable"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} cannot be started", binary.display()))?;
        // llama-server closes idle connections, so each request has its own: 0.1 ms on the loopback.
        let http = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build()?;
        let url = format!("http://127.0.0.1:{port}");
        let start = Instant::now();
        loop {
            let health = http.get(format!("{url}/health")).send().await;
            if health.is_ok_and(|reply| reply.status().is_success()) {
                return Ok(Self { child, way: Way::Peer { url, http } });
            }
            if start.elapsed() > PATIENCE {
                bail!("llama-server does not start");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Connects, and opens a session where there are sessions.
    pub(crate) async fn asker(&self) -> anyhow::Result<Asker> {
        Ok(match &self.way {
            Way::Node { url, key } => {
                let (config, wallet) = (Config::new(url.clone(), *key), fabstir_client::random_key());
                Asker::Node(Box::new(Client::connect(config, wallet).await?))
            }
            Way::Peer { url, http } => Asker::Peer { url: url.clone(), http: http.clone() },
        })
    }

    /// The address and key of a node.
    pub(crate) fn node(&self) -> anyhow::Result<(&str, &PublicKey)> {
        match &self.way {
            Way::Node { url, key } => Ok((url, key)),
            Way::Peer { .. } => bail!("this is no node"),
        }
    }

    /// Its resident memory.
    pub(crate) fn memory_kib(&self) -> anyhow::Result<u64> {
        resident_kib(self.child.id().context("it has ended")?)
    }

    /// Stops it and waits until it is gone.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        self.child.start_kill()?;
        self.child.wait().await?;
        Ok(())
    }
}

impl Asker {
    pub(crate) async fn ask(&mut self, messages: &[Message], max_tokens: u32) -> anyhow::Result<Heard> {
        match self {
            Self::Node(client) => ask_node(client, messages, max_tokens).await,
            Self::Peer { url, http } => ask_peer(http, url, messages, max_tokens).await,
        }
    }
}

async fn ask_node(client: &mut Client, messages: &[Message], max_tokens: u32) -> anyhow::Result<Heard> {
    let turns = messages.iter().map(|(role, words)| fabstir_client::Turn { role, content: words.clone() });
    let mut request = Request::messages(turns.collect());
    request.max_tokens = Some(max_tokens);
    request.temperature = Some(0.0);
    let mut heard = Heard { asked: Instant::now(), pieces: Vec::new(), tokens: 0, text: String::new() };
    let mut answer = client.ask(&request).await?;
    while let Some(event) = answer.next().await? {
        match event {
            Event::Text(words) => {
                heard.pieces.push(Instant::now());
                heard.text.push_str(words.as_str());
            }
            Event::Object(_) => {}
            Event::End(end) => heard.tokens = end.usage.map_or(0, |usage| usage.completion_tokens),
        }
    }
    Ok(heard)
}

async fn ask_peer(
    http: &reqwest::Client,
    url: &str,
    messages: &[Message],
    max_tokens: u32,
) -> anyhow::Result<Heard> {
    let system = json!({"role": "system", "content": SYSTEM});
    let said = messages.iter().map(|(role, words)| json!({"role": role, "content": words}));
    let turns: Vec<Value> = std::iter::once(system).chain(said).collect();
    let body = json!({
        "messages": turns, "max_tokens": max_tokens, "temperature": 0.0, "stream": true,
        "stream_options": {"include_usage": true},
    });
    let mut heard = Heard { asked: Instant::now(), pieces: Vec::new(), tokens: 0, text: String::new() };
    let reply = http
        .post(format!("{url}/v1/chat/completions"))
        .header("content-type", "application/json")
        .body(body.to_string())
        .send()
        .await?
        .error_for_status()?;
    let mut bytes = reply.bytes_stream();
    let mut buffer = Vec::new();
    while let Some(chunk) = bytes.next().await {
        buffer.extend_from_slice(&chunk?);
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            let Some(data) = line.strip_prefix(b"data: ") else { continue };
            let Ok(event) = serde_json::from_slice::<Value>(data) else { continue };
            if let Some(words) = event.pointer("/choices/0/delta/content").and_then(Value::as_str)
                && !words.is_empty()
            {
                heard.pieces.push(Instant::now());
                heard.text.push_str(words);
            }
            if let Some(tokens) = event.pointer("/usage/completion_tokens").and_then(Value::as_u64) {
                heard.tokens = u32::try_from(tokens)?;
            }
        }
    }
    Ok(heard)
}
