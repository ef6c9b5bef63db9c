//! A GGUF model on a thread of its own. Nothing else touches llama.cpp.
//!
//! The thread owns model and context; requests come to it by a bounded channel, answers leave it by one
//! bounded channel each. A second thread watches over it: a step that fails, a panic, or a step that does not
//! end costs the requests in flight, which are told so at once, and the engine starts anew.

mod config;
mod context;
mod embedder;

mod model;
mod prompt;
mod supervisor;
mod worker;

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
};

use sha2::{Digest, Sha256};
use tokio::sync::oneshot;

pub use self::config::{FlashAttention, KvType, LlamaConfig, Loading, MOST_SEQUENCES};
use self::{
    embedder::{Job, Place},
    supervisor::Supervised,
};
use crate::{
    EmbeddingRequest, Embeddings, Engine, Generation, InvalidTemplate, ModelInfo, Refused, Request, Status,
    in_flight::{InFlight, Outputs},
};

/// Why a model cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file is missing or cannot be read.
    #[error("{path}: {cause}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// The file is something else.
    #[error("{0} is not a GGUF file")]
    NotGguf(PathBuf),
    /// llama.cpp does not take the model.
    #[error(
        "llama.cpp cannot load {0}: the file is damaged, its architecture is not known, or memory is short"
    )]
    Model(PathBuf),
    /// The context does not fit.
    #[error(
        "there is not enough memory for {sequences} sequences of {context_tokens} tokens: lower MAX_SEQUENCES or CONTEXT_TOKENS"
    )]
    Context {
        /// Sequences asked for.
        sequences: u32,
        /// Tokens of each.
        context_tokens: u32,
    },
    /// See [`InvalidTemplate`].
    #[error(transparent)]
    Template(#[from] InvalidTemplate),
    /// The thread could not be started, or llama.cpp itself.
    #[error("the engine's thread could not be started")]
    Thread,
}

/// A failure made on purpose, for tests of what comes after one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum InjectedFault {
    /// The next step fails as llama.cpp's would.
    Step,
    /// The thread panics.
    Panic,
    /// The next step does not end.
    Hang,
    /// The next choice of tokens does not end.
    HangInChoice,
    /// The next step finds no room in the KV cache.
    NoRoom,
}

/// What the engine's thread is asked.
#[derive(Debug)]
enum Command {
    Generate(Box<Request>, Outputs),
    Embed(Box<Job>),
    Fail(InjectedFault),
    /// Something else has changed: look.
    Wake,
}

/// What all sides see.
#[derive(Debug, Default)]
struct Shared {
    running: AtomicUsize,
    slots: AtomicUsize,
    loaded: AtomicBool,
    restarts: AtomicU64,
    prefilled: AtomicU64,
    reused: AtomicU64,
    decoded: AtomicU64,
    prefix_cache_bytes: AtomicUsize,
    kv_tokens_used: AtomicUsize,
    kv_tokens: AtomicUsize,
    compute_micros: AtomicU64,
    choose_micros: AtomicU64,
    healthy: AtomicBool,
    stopping: AtomicBool,
    /// Sessions that have ended since the thread last looked. As many at most as there were sessions.
    forgotten: Mutex<Vec<u64>>,
    in_flight: InFlight,
    /// Requests for embeddings that are not done.
    embeddings: Arc<AtomicUsize>,
}

impl Shared {
    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    fn take_forgotten(&self) -> Vec<u64> {
        std::mem::take(&mut *self.forgotten.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A served GGUF model.
#[derive(Debug)]
pub struct LlamaEngine {
    models: [ModelInfo; 1],
    max_waiting: usize,
    commands: mpsc::SyncSender<Command>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl LlamaEngine {
    /// Loads the model and starts its thread; `progress` hears of it from 0 to 1. Blocks meanwhile.
    ///
    /// # Errors
    /// [`LoadError`], which says what to do.
    pub fn load(config: LlamaConfig, progress: impl FnMut(f32) + Send + 'static) -> Result<Self, LoadError> {
        let digest = digest(&config.path)?;
        let shared = Arc::new(Shared::default());
        let max_waiting = config.max_waiting;
        let name = config.name.clone();
        // Every command has a place: what waits for an answer or an embedding, a fault, the stop, and what left the
        // line and was not looked at yet.
        let places = max_waiting.saturating_mul(3).saturating_add(64);
        let (commands, inbox) = mpsc::sync_channel(places);
        let (ready, loaded) = mpsc::sync_channel(1);
        let supervised = Supervised {
            config: Arc::new(config),
            inbox: Arc::new(Mutex::new(inbox)),
            shared: Arc::clone(&shared),
        };
        let thread = thread::Builder::new()
            .name("engine".into())
            .spawn(move || supervised.run(&ready, Box::new(progress)))
            .map_err(|_| LoadError::Thread)?;
        let context_window = loaded.recv().map_err(|_| LoadError::Thread)??;
        let model = ModelInfo { name, digest, context_window, engine: "llama.cpp" };
        Ok(Self { models: [model], max_waiting, commands, shared, thread: Mutex::new(Some(thread)) })
    }

    /// Stops the thread and waits for it. Requests in flight end with an error.
    pub fn shut_down(&self) {
        self.shared.stopping.store(true, Ordering::Release);
        let _ = self.commands.try_send(Command::Wake);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }

    /// Whether requests for a model are taken.
    fn admits(&self, name: Option<&str>) -> Result<(), Refused> {
        let [model] = &self.models;
        if name.is_some_and(|name| name != model.name && name != "default") {
            return Err(Refused::ModelNotFound);
        }
        if self.shared.is_stopping() { Err(Refused::Stopping) } else { Ok(()) }
    }

    fn send(&self, command: Command) -> Result<(), Refused> {
        self.commands.try_send(command).map_err(|refused| match refused {
            mpsc::TrySendError::Full(_) => Refused::Busy,
            mpsc::TrySendError::Disconnected(_) => Refused::Stopping,
        })
    }

    /// Makes the engine fail.
    #[doc(hidden)]
    pub fn inject(&self, fault: InjectedFault) {
        let _ = self.commands.try_send(Command::Fail(fault));
    }
}

impl Engine for LlamaEngine {
    fn submit(&self, request: Request) -> Result<Generation, Refused> {
        self.admits(request.model.as_deref())?;
        let (outputs, generation) = Outputs::channel();
        let outputs =
            self.shared.in_flight.enter(outputs, request.client, self.max_waiting).ok_or(Refused::Busy)?;
        self.send(Command::Generate(Box::new(request), outputs))?;
        Ok(generation)
    }

    fn embed(&self, request: EmbeddingRequest) -> Result<Embeddings, Refused> {
        self.admits(request.model.as_deref())?;
        let place = Place::take(&self.shared.embeddings, self.max_waiting).ok_or(Refused::Busy)?;
        let (reply, result) = oneshot::channel();
        self.send(Command::Embed(Box::new(Job::new(request, reply, place))))?;
        Ok(Embeddings { result })
    }

    fn models(&self) -> &[ModelInfo] {
        &self.models
    }

    fn status(&self) -> Status {
        Status {
            waiting: self.shared.in_flight.waiting(),
            running: self.shared.running.load(Ordering::Relaxed),
            slots: self.shared.slots.load(Ordering::Relaxed),
            restarts: self.shared.restarts.load(Ordering::Relaxed),
            healthy: self.shared.healthy.load(Ordering::Relaxed),
            prefilled_tokens: self.shared.prefilled.load(Ordering::Relaxed),
            reused_tokens: self.shared.reused.load(Ordering::Relaxed),
            decoded_tokens: self.shared.decoded.load(Ordering::Relaxed),
            prefix_cache_bytes: self.shared.prefix_cache_bytes.load(Ordering::Relaxed),
            kv_tokens_used: self.shared.kv_tokens_used.load(Ordering::Relaxed),
            kv_tokens: self.shared.kv_tokens.load(Ordering::Relaxed),
            compute_micros: self.shared.compute_micros.load(Ordering::Relaxed),
            choose_micros: self.shared.choose_micros.load(Ordering::Relaxed),
        }
    }

    fn is_loaded(&self, _model: &str) -> bool {
        self.shared.loaded.load(Ordering::Relaxed)
    }

    fn forget(&self, session: u64) {
        self.shared.forgotten.lock().unwrap_or_else(PoisonError::into_inner).push(session);
        // Where there is no room for the word, the thread has other reasons to look.
        let _ = self.commands.try_send(Command::Wake);
    }
}

impl Drop for LlamaEngine {
    fn drop(&mut self) {
        self.shut_down();
    }
}

/// The SHA-256 of a GGUF file.
fn digest(path: &Path) -> Result<String, LoadError> {
    let failed = |cause| LoadError::File { path: path.to_owned(), cause };
    let mut file = File::open(path).map_err(failed)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut first = true;
    loop {
        let read = file.read(&mut buffer).map_err(failed)?;
        let bytes = buffer.get(..read).unwrap_or_default();
        if std::mem::take(&mut first) && !bytes.starts_with(b"GGUF") {
            return Err(LoadError::NotGguf(path.to_owned()));
        }
        if bytes.is_empty() {
            return Ok(const_hex::encode(<[u8; 32]>::from(hash.finalize())));
        }
        hash.update(bytes);
    }
}
