//! Watches over the thread that computes, and starts another one when it fails.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    },
    thread,
    time::{Duration, Instant},
};

use super::{Command, LoadError, Shared, worker};
use crate::LlamaConfig;

/// How often the thread at work is looked after.
const TICK: Duration = Duration::from_millis(100);
/// Pauses between attempts to start again: the first, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long a stop waits for the step at work.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// The thread that computes also compiles schemas, which are trees of a stranger's making: a bound on their length
/// (constraint.rs) and this bound how deep that goes. Only what is used of it takes memory.
const STACK: usize = 64 << 20;

/// Where requests come from: whoever is the thread at work holds it.
pub(super) type Inbox = Arc<Mutex<Receiver<Command>>>;
/// Hears how far the model is loaded.
pub(super) type Progress = Box<dyn FnMut(f32) + Send>;

/// One thread at work, as its supervisor sees it.
#[derive(Debug)]
pub(super) struct Life {
    born: Instant,
    /// Milliseconds from `born` to when what is at work began, and one; 0 at rest.
    at_work_since: AtomicU64,
    abandoned: AtomicBool,
}

impl Life {
    fn new() -> Self {
        Self { born: Instant::now(), at_work_since: AtomicU64::new(0), abandoned: AtomicBool::new(false) }
    }

    fn age(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// Takes note that something begins which is to end soon, and that what was before has ended: a step of the model, the
    /// choice of tokens, the preparation of a request. Whatever the thread does between two rests is watched.
    pub(super) fn work(&self) {
        self.at_work_since.store(self.age(), Ordering::Release);
    }

    /// Takes note that the thread waits for something to do.
    pub(super) fn rest(&self) {
        self.at_work_since.store(0, Ordering::Release);
    }

    /// Whether another thread does the work now.
    pub(super) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }

    fn is_hung(&self, limit: Duration) -> bool {
        let since = self.at_work_since.load(Ordering::Acquire);
        since > 0 && Duration::from_millis(self.age().saturating_sub(since)) > limit
    }
}

/// How a life ended.
#[derive(Debug)]
pub(super) enum Ended {
    Stopped,
    NotLoaded(LoadError),
    Panicked,
    Hung,
}

/// What every life is given.
#[derive(Clone, Debug)]
pub(super) struct Supervised {
    pub(super) config: Arc<LlamaConfig>,
    pub(super) inbox: Inbox,
    pub(super) shared: Arc<Shared>,
}

impl Supervised {
    /// Runs the engine until it is told to stop. Reports the first start to `ready`.
    pub(super) fn run(&self, ready: &SyncSender<Result<u32, LoadError>>, progress: Progress) {
        let mut ended = self.live(Some(ready.clone()), progress);
        let mut pause = FIRST_PAUSE;
        if let Ended::NotLoaded(error) = ended {
            return drop(ready.send(Err(error)));
        }
        loop {
            self.shared.healthy.store(false, Ordering::Release);
            self.shared.running.store(0, Ordering::Relaxed);
            // A panic has told them itself.
            if !matches!(ended, Ended::Panicked) {
                self.shared.in_flight.fail_all();
            }
            match &ended {
                Ended::Stopped => return,
                Ended::Panicked => tracing::error!("the engine panicked and is being started again"),
                Ended::Hung => tracing::error!(
                    seconds = self.config.step_timeout.as_secs(),
                    "the engine hangs: another one is being started, and the memory of this one is lost"
                ),
                Ended::NotLoaded(error) => tracing::error!(%error, "the model could not be loaded again"),
            }
            if matches!(ended, Ended::NotLoaded(_)) {
                self.sleep(pause);
                pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
            } else {
                pause = FIRST_PAUSE;
                self.shared.restarts.fetch_add(1, Ordering::Relaxed);
            }
            if self.shared.is_stopping() {
                return;
            }
            ended = self.live(None, Box::new(|_| {}));
        }
    }

    /// One thread's work, from its start to its end.
    fn live(&self, ready: Option<SyncSender<Result<u32, LoadError>>>, progress: Progress) -> Ended {
        let life = Arc::new(Life::new());
        let (sender, end) = mpsc::sync_channel(1);
        let (mine, theirs) = (self.clone(), Arc::clone(&life));
        let work = move || {
            let work = AssertUnwindSafe(|| worker::live(&mine, &theirs, ready, progress));
            let _ = sender.send(catch_unwind(work).unwrap_or(Ended::Panicked));
        };
        if thread::Builder::new().name("engine-model".into()).stack_size(STACK).spawn(work).is_err() {
            return Ended::NotLoaded(LoadError::Thread);
        }
        let mut stopping_since = None;
        loop {
            match end.recv_timeout(TICK) {
                Ok(ended) => return ended,
                Err(RecvTimeoutError::Disconnected) => return Ended::Panicked,
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.shared.is_stopping() {
                let since = stopping_since.get_or_insert_with(Instant::now);
                if since.elapsed() > STOP_TIMEOUT {
                    life.abandoned.store(true, Ordering::Release);
                    return Ended::Stopped;
                }
            } else if life.is_hung(self.config.step_timeout) {
                life.abandoned.store(true, Ordering::Release);
                return Ended::Hung;
            }
        }
    }

    fn sleep(&self, pause: Duration) {
        let until = Instant::now().checked_add(pause);
        while until.is_some_and(|until| Instant::now() < until) && !self.shared.is_stopping() {
            thread::sleep(TICK);
        }
    }
}

/// The inbox, whoever held it when it panicked.
pub(super) fn open(inbox: &Inbox) -> std::sync::MutexGuard<'_, Receiver<Command>> {
    inbox.lock().unwrap_or_else(PoisonError::into_inner)
}
