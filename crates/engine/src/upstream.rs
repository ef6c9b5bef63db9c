//! A server behind the node that speaks OpenAI's API: vLLM, SGLang, llama-server, Ray Serve, NVIDIA Dynamo.
//!
//! Several of them may serve the same models: a request goes to the healthy one with the least to do, and to
//! another one if that fails before its first word; after the first word a failure is told. Dropping a
//! generation closes its connection, which such servers take for a cancel. The hop to them is the operator's to
//! protect: what they get is plaintext.

mod body;
mod events;
mod pool;
mod run;

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use reqwest::{
    Certificate, Client, ClientBuilder, Identity, Url,
    header::{AUTHORIZATION, HeaderMap, HeaderValue},
    redirect,
};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use zeroize::Zeroizing;

use self::pool::Pool;
use crate::{
    Embedding, EmbeddingRequest, Embeddings, Engine, Failure, Generation, ModelInfo, Output, Refused,
    Request, Status,
    fields::{Unknown, unserved},
    scheduler::{Waiting, has_room},
};

/// Outputs that wait for a slow reader.
const OUTPUTS: usize = 32;
/// How long a server may take to name its models when the engine starts.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Where the servers are, and how to talk to them.
#[derive(Clone, Debug)]
pub struct UpstreamConfig {
    /// Base URLs, each ending in what comes before `/chat/completions`: `http://127.0.0.1:8000/v1`.
    pub urls: Vec<String>,
    /// The models to serve; empty asks the servers.
    pub models: Vec<String>,
    /// Sent as a bearer token.
    pub api_key: Option<ApiKey>,
    /// PEM certificates to trust instead of the public ones.
    pub trust: Option<Vec<u8>>,
    /// PEM certificate and private key to show to a server that asks: mutual TLS.
    pub identity: Option<ApiKey>,
    /// Tokens of the context, where a server does not say.
    pub context_window: u32,
    /// Requests at the servers at once; others wait, in turns of their clients.
    pub max_running: usize,
    /// Requests that may wait.
    pub max_waiting: usize,
    /// How long a connection may take.
    pub connect_timeout: Duration,
    /// How long a server may take to its first word, and between any two.
    pub silence: Duration,
    /// How long a reader may leave no room.
    pub stalled_reader: Duration,
    /// How often the servers are looked after.
    pub health_interval: Duration,
}

impl UpstreamConfig {
    /// The defaults for servers at `urls`.
    pub fn new(urls: Vec<String>) -> Self {
        Self {
            urls,
            models: Vec::new(),
            api_key: None,
            trust: None,
            identity: None,
            context_window: 2048,
            max_running: 256,
            max_waiting: 256,
            connect_timeout: Duration::from_secs(5),
            silence: Duration::from_secs(120),
            stalled_reader: Duration::from_secs(30),
            health_interval: Duration::from_secs(2),
        }
    }
}

/// A secret for a server: wiped on drop, never printed.
#[derive(Clone)]
pub struct ApiKey(Zeroizing<String>);

impl From<&str> for ApiKey {
    fn from(text: &str) -> Self {
        Self(Zeroizing::new(text.to_owned()))
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(..)")
    }
}

/// Why the servers cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// Not a base URL: which of those that were given. It may hold a password, and is not repeated.
    #[error(
        "URL {0} is not a base URL like http://127.0.0.1:8000/v1, without user, password or query (a key for the servers goes \
         into a file)"
    )]
    Url(usize),
    /// The certificates or the key cannot be read.
    #[error("the certificates cannot be used: {0}")]
    Tls(reqwest::Error),
    /// The key holds what no header can.
    #[error("the API key holds characters that no header may")]
    ApiKey,
    /// None answers.
    #[error("none of the servers answers at /models: start one, or name the models to be served")]
    Unreachable,
    /// They serve nothing.
    #[error("the servers name no models")]
    NoModels,
    /// Two models of one name, or none.
    #[error("there is no tokio runtime to work in")]
    NoRuntime,
}

/// Requests passed on to servers.
#[derive(Debug)]
pub struct UpstreamEngine {
    models: Vec<ModelInfo>,
    shared: Arc<Shared>,
    health: JoinHandle<()>,
}

/// What the requests in flight share.
#[derive(Debug)]
struct Shared {
    client: Client,
    pool: Pool,
    config: UpstreamConfig,
    runtime: Handle,
    line: Mutex<Line>,
    prefilled: AtomicU64,
    reused: AtomicU64,
    decoded: AtomicU64,
}

/// Requests at the servers, and those that wait.
#[derive(Debug)]
struct Line {
    running: usize,
    waiting: Waiting<Job>,
}

/// What one request waits for.
#[derive(Debug)]
enum Job {
    Answer(Box<Request>, mpsc::Sender<Output>),
    Embed(EmbeddingRequest, oneshot::Sender<Result<Vec<Embedding>, Failure>>),
}

impl Job {
    fn client(&self) -> u64 {
        match self {
            Self::Answer(request, _) => request.client,
            Self::Embed(request, _) => request.client,
        }
    }

    fn is_gone(&self) -> bool {
        match self {
            Self::Answer(_, reader) => reader.is_closed(),
            Self::Embed(_, reader) => reader.is_closed(),
        }
    }
}

impl UpstreamEngine {
    /// Asks the servers what they serve, unless the settings say it, and looks after them from then on.
    ///
    /// # Errors
    /// [`UpstreamError`], which says what to do.
    pub async fn connect(config: UpstreamConfig) -> Result<Self, UpstreamError> {
        let runtime = Handle::try_current().map_err(|_| UpstreamError::NoRuntime)?;
        let pool = Pool::new(&config.urls)?;
        let client = client(&config)?;
        let shared = Arc::new(Shared {
            client,
            pool,
            runtime,
            line: Mutex::new(Line { running: 0, waiting: Waiting::new() }),
            prefilled: AtomicU64::new(0),
            reused: AtomicU64::new(0),
            decoded: AtomicU64::new(0),
            config,
        });
        let models = shared.models().await?;
        let health = tokio::spawn(Arc::clone(&shared).look_after());
        Ok(Self { models, shared, health })
    }

    /// Whether `config` can be connected with, but for the servers.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub fn check(config: &UpstreamConfig) -> Result<(), UpstreamError> {
        Pool::new(&config.urls)?;
        client(config).map(drop)
    }

    /// Queues a job, or refuses it.
    fn push(&self, model: Option<&str>, job: Job) -> Result<(), Refused> {
        let known = |name: &str| name == "default" || self.models.iter().any(|model| model.name == name);
        if model.is_some_and(|name| !known(name)) {
            return Err(Refused::ModelNotFound);
        }
        let mut line = self.shared.line();
        line.waiting.reap(Job::is_gone);
        let full = line.running >= self.shared.config.max_running;
        let waiting = (line.waiting.of(job.client()), line.waiting.len());
        if full && !has_room(waiting.0, waiting.1, self.shared.config.max_waiting) {
            return Err(Refused::Busy);
        }
        line.waiting.push(job.client(), job);
        drop(line);
        self.shared.start_waiting();
        Ok(())
    }

    /// The name by which the servers know a model.
    fn server_name(&self, asked: Option<&str>) -> Option<String> {
        let default = || self.models.first().map(|model| model.name.clone());
        asked.filter(|name| *name != "default").map(str::to_owned).or_else(default)
    }
}

impl Engine for UpstreamEngine {
    fn submit(&self, mut request: Request) -> Result<Generation, Refused> {
        let asked = request.model.take();
        request.model = self.server_name(asked.as_deref());
        let (sender, outputs) = mpsc::channel(OUTPUTS);
        let extra = request.extra.as_ref().and_then(|extra| unserved(extra.as_str(), Unknown::PassedOn));
        if let Some(field) = extra {
            let _ = sender.try_send(Output::Failed(Failure::Unsupported(field)));
            return Ok(Generation { outputs });
        }
        self.push(asked.as_deref(), Job::Answer(Box::new(request), sender))?;
        Ok(Generation { outputs })
    }

    fn embed(&self, mut request: EmbeddingRequest) -> Result<Embeddings, Refused> {
        let asked = request.model.take();
        request.model = self.server_name(asked.as_deref());
        let (reply, result) = oneshot::channel();
        self.push(asked.as_deref(), Job::Embed(request, reply))?;
        Ok(Embeddings { result })
    }

    fn models(&self) -> &[ModelInfo] {
        &self.models
    }

    fn status(&self) -> Status {
        let line = self.shared.line();
        Status {
            waiting: line.waiting.len(),
            running: line.running,
            slots: self.shared.config.max_running,
            healthy: self.shared.pool.is_healthy(),
            prefilled_tokens: self.shared.prefilled.load(Ordering::Relaxed),
            reused_tokens: self.shared.reused.load(Ordering::Relaxed),
            decoded_tokens: self.shared.decoded.load(Ordering::Relaxed),
            ..Status::default()
        }
    }
}

impl Drop for UpstreamEngine {
    fn drop(&mut self) {
        self.health.abort();
    }
}

impl Shared {
    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts those whose turn it is.
    fn start_waiting(self: &Arc<Self>) {
        loop {
            let mut line = self.line();
            if line.running >= self.config.max_running {
                return;
            }
            let Some(job) = line.waiting.pop() else { return };
            line.running = line.running.saturating_add(1);
            drop(line);
            let place = Place(Arc::clone(self));
            self.runtime.spawn(async move {
                run::run(&place.0, job).await;
                drop(place);
            });
        }
    }

    async fn models(&self) -> Result<Vec<ModelInfo>, UpstreamError> {
        if !self.config.models.is_empty() {
            let named = self.config.models.iter();
            return Ok(named.map(|name| self.info(name, None)).collect());
        }
        let ask = async {
            loop {
                if let Some(listed) = self.pool.list_models(&self.client, &self.config).await {
                    return listed;
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        };
        let listed =
            tokio::time::timeout(START_TIMEOUT, ask).await.map_err(|_| UpstreamError::Unreachable)?;
        if listed.is_empty() {
            return Err(UpstreamError::NoModels);
        }
        Ok(listed.iter().map(|model| self.info(&model.id, model.context_window())).collect())
    }

    fn info(&self, name: &str, context_window: Option<u32>) -> ModelInfo {
        ModelInfo {
            name: name.to_owned(),
            // The file is on another machine: whoever names its digest there is not vouched for here.
            digest: String::new(),
            context_window: context_window.unwrap_or(self.config.context_window),
            engine: "upstream",
        }
    }

    async fn look_after(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(self.config.health_interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.pool.check(&self.client, &self.config).await;
        }
    }
}

/// A place at the servers, given to the next on drop.
struct Place(Arc<Shared>);

impl Drop for Place {
    fn drop(&mut self) {
        let mut line = self.0.line();
        line.running = line.running.saturating_sub(1);
        drop(line);
        self.0.start_waiting();
    }
}

fn client(config: &UpstreamConfig) -> Result<Client, UpstreamError> {
    let mut headers = HeaderMap::new();
    if let Some(key) = &config.api_key {
        let bearer = Zeroizing::new(format!("Bearer {}", key.0.trim()));
        let mut value = HeaderValue::from_str(&bearer).map_err(|_| UpstreamError::ApiKey)?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    // A redirect would take prompts to where nobody sent them, a proxy of the environment too.
    let mut builder: ClientBuilder = Client::builder()
        .default_headers(headers)
        .redirect(redirect::Policy::none())
        .no_proxy()
        .tcp_nodelay(true)
        .connect_timeout(config.connect_timeout);
    if let Some(pem) = &config.trust {
        builder = builder.tls_certs_only(Certificate::from_pem_bundle(pem).map_err(UpstreamError::Tls)?);
    }
    if let Some(pem) = &config.identity {
        builder = builder.identity(Identity::from_pem(pem.0.as_bytes()).map_err(UpstreamError::Tls)?);
    }
    builder.build().map_err(UpstreamError::Tls)
}

/// Reads a base URL.
fn base(text: &str) -> Option<Url> {
    let url = Url::parse(text.trim_end_matches('/')).ok()?;
    let nobodys = url.username().is_empty() && url.password().is_none();
    let plain = nobodys && url.query().is_none() && url.fragment().is_none();
    (matches!(url.scheme(), "http" | "https") && url.has_host() && plain).then_some(url)
}
