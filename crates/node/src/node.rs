//! What all connections share.

use std::{
    hash::{BuildHasher, RandomState},
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use fabstir_engine::{Engine, ModelInfo};
use fabstir_protocol::{
    ethereum::Address,
    v2::{ModelEntry, Shape, SignedRotation},
};
use rand_core::{CryptoRng, UnwrapErr};
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroize as _;

use crate::{
    access::{Access, InvalidList, Refreshed},
    channel::{Session, Sessions, granted},
    config::Config,
    crypto::{
        ConnectionId, Identities, Identity, IdentitySettings, Keys, NodeKey, RotationError, SessionKeyStore,
    },
    ledger::{EndReason, Ledger},
    limits::Limits,
    reload::Reloads,
};

/// Seconds since 1970 that only go forward: the clock at start, and what has passed since. Timestamps are judged
/// by it and the memory of inits expires by it: a clock that is set back makes nothing fresh again.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    unix_at_start: Duration,
    start: Instant,
}

impl Clock {
    /// The clock from now on.
    pub fn start() -> Self {
        let unix_at_start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { unix_at_start, start: Instant::now() }
    }

    /// Seconds by which the system's clock and this one have come apart since the start.
    pub fn drift(&self) -> u64 {
        let system = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        system.abs_diff(self.unix(Instant::now()))
    }

    /// `now` in unix seconds.
    pub fn unix(&self, now: Instant) -> u64 {
        self.unix_at_start.saturating_add(now.saturating_duration_since(self.start)).as_secs()
    }

    /// When the node started, in unix seconds.
    pub fn unix_at_start(&self) -> u64 {
        self.unix_at_start.as_secs()
    }

    /// How long it has been running.
    pub fn uptime(&self) -> Duration {
        self.start.elapsed()
    }
}

/// Seconds that the system's clock may go astray unremarked.
const MOST_DRIFT: u64 = 60;

/// The node, as its connections see it.
#[derive(Debug)]
pub struct Node {
    /// What it runs with.
    pub config: Config,
    /// Who it is; `None` is plaintext mode.
    pub identities: Option<Arc<Identities>>,
    /// Who answers.
    pub engine: Arc<dyn Engine>,
    /// Whose keys are live.
    pub sessions: Arc<SessionKeyStore>,
    /// The sessions of version 2.
    pub channels: Sessions,
    /// Who uses it, and how much.
    pub ledger: Arc<Ledger>,
    /// What can be read again.
    pub reloads: Reloads,
    /// Since when.
    pub clock: Clock,
    /// Cancelled when no new work is taken any more.
    pub draining: CancellationToken,
    /// Cancelled when everything ends, running answers included.
    pub stopping: CancellationToken,
    /// What one client or one network may have.
    pub limits: Arc<Limits>,
    /// Who may come.
    pub access: Arc<Access>,
    /// Sockets that are open.
    pub connections: AtomicUsize,
    /// Places for public-key work, which is kept off the threads that serve sockets.
    handshakes: Semaphore,
    /// Room for the requests that wait or are being answered, all sessions together.
    pub queued_kibibytes: Arc<Semaphore>,
    key_work: AtomicU64,
    next_connection: AtomicU64,
    next_session: AtomicU64,
    hasher: RandomState,
}

/// Whether a node does all that it offers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NodeStanding {
    /// It does.
    Serving,
    /// It takes no new sessions.
    Draining,
    /// Its engine starts again.
    EngineNotReady,
    /// Its identity key does not answer.
    KeyNotReady,
}

impl Node {
    /// A node that serves `engine` under `config`.
    ///
    /// # Errors
    /// [`RotationError`]: the keys cannot be used, or do not belong together.
    pub fn new(
        config: Config,
        keys: Option<impl Into<Keys>>,
        engine: Arc<dyn Engine>,
    ) -> Result<Arc<Self>, RotationError> {
        Self::with_ledger(config, keys, engine, Arc::default())
    }

    /// The same, with the usage of earlier processes.
    ///
    /// # Errors
    /// As [`Node::new`].
    pub fn with_ledger(
        config: Config,
        keys: Option<impl Into<Keys>>,
        engine: Arc<dyn Engine>,
        ledger: Arc<Ledger>,
    ) -> Result<Arc<Self>, RotationError> {
        let clock = Clock::start();
        let now = Instant::now();
        let settings = IdentitySettings {
            chain_id: config.chain_id.unwrap_or(0),
            min_protocol: config.min_protocol,
            channel_keys: config.channel_key_times,
            overlap: config.key_overlap,
        };
        let identities = keys.map(|keys| Identities::new(keys, settings, clock.unix(now), now, &mut rng()));
        Ok(Arc::new(Self {
            channels: Sessions::new(config.channels),
            identities: identities.transpose()?.map(Arc::new),
            sessions: Arc::new(
                SessionKeyStore::new(config.store, clock, &mut rng()).with_ledger(Arc::clone(&ledger)),
            ),
            ledger,
            reloads: Reloads::default(),
            limits: Arc::new(Limits::new(&config)),
            access: Arc::new(Access::new(&config)),
            clock,
            engine,
            draining: CancellationToken::new(),
            stopping: CancellationToken::new(),
            connections: AtomicUsize::new(0),
            handshakes: Semaphore::new(places()),
            queued_kibibytes: Arc::new(Semaphore::new(config.max_queued_kibibytes)),
            key_work: AtomicU64::new(0),
            next_connection: AtomicU64::new(0),
            next_session: AtomicU64::new(0),
            hasher: RandomState::new(),
            config,
        }))
    }

    /// Who the node is; `None` in plaintext mode.
    pub fn identity(&self) -> Option<Arc<Identity>> {
        self.identities.as_ref().map(|identities| identities.current())
    }

    /// A name for a new socket.
    pub fn next_connection(&self) -> ConnectionId {
        ConnectionId(self.next_connection.fetch_add(1, Ordering::Relaxed))
    }

    /// A number for a conversation, as the engine knows it.
    pub fn next_session(&self) -> u64 {
        self.next_session.fetch_add(1, Ordering::Relaxed)
    }

    /// The number under which the engine knows a client; says nothing outside of this process.
    pub fn client_number(&self, client: impl std::hash::Hash) -> u64 {
        self.hasher.hash_one(client)
    }

    /// Does public-key work on a thread of its own, on one core less than there are. `None` where there is no
    /// thread.
    pub async fn on_pool<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let _place = self.handshakes.acquire().await.ok()?;
        self.key_work.fetch_add(1, Ordering::Relaxed);
        let leaves_nothing = move || {
            let done = work();
            wipe_stack();
            done
        };
        tokio::task::spawn_blocking(leaves_nothing).await.ok()
    }

    /// Makes `next` the node's identity; see [`Identities::rotate`].
    ///
    /// # Errors
    /// [`RotationError`]; nothing changes then.
    pub fn rotate_identity(
        &self,
        next: NodeKey,
        signed: Option<SignedRotation>,
    ) -> Result<Address, RotationError> {
        let Some(identities) = &self.identities else { return Err(RotationError::NoIdentity) };
        let now = Instant::now();
        identities.rotate(next, signed, self.clock.unix(now), now, &mut rng())
    }

    /// How often public-key work was begun: a handshake takes two or three, an init one, and what is refused before that none.
    pub fn key_work(&self) -> u64 {
        self.key_work.load(Ordering::Relaxed)
    }

    /// A session of version 2 has lost the connection that it had by the lending of `epoch`: its answers go on for a
    /// while.
    pub(crate) fn channels_lost(self: &Arc<Self>, session: &Arc<Session>, epoch: u64) {
        if !session.detach(epoch) || session.is_over() {
            return;
        }
        // Handshakes that are left behind must not fill the room for sessions, and who was shown out does not come back.
        if session.is_barred() {
            return self.channels.end(session, EndReason::Denied);
        }
        if session.is_untouched() {
            return self.channels.end(session, EndReason::Disconnect);
        }
        let (node, session) = (Arc::clone(self), Arc::clone(session));
        tokio::spawn(async move {
            let follow = node.channels.follow_lost(session, epoch);
            node.stopping.run_until_cancelled(follow).await;
        });
    }

    /// How lengths are hidden for who asked for `shape`.
    pub fn shape(&self, shape: Shape) -> Shape {
        granted(shape, self.config.min_shape)
    }

    /// What may be asked of.
    pub fn models(&self) -> Vec<ModelEntry> {
        let entry = |info: &ModelInfo| ModelEntry {
            id: info.name.clone(),
            sha256: info.digest.clone(),
            context_window: info.context_window,
        };
        self.engine.models().iter().map(entry).collect()
    }

    /// Replaces channel keys when it is time, off the threads that serve sockets: a token may take a while to sign.
    fn sweep_identities(&self) {
        let Some(identities) = self.identities.as_ref().map(Arc::clone) else { return };
        let now = Instant::now();
        let unix = self.clock.unix(now);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = identities.sweep(unix, now, &mut rng()) {
                tracing::error!(event = "key_use", %error, "an identity key does not answer: no session of version 1 opens under it, and its channel key is not renewed");
            }
        });
    }

    /// Whether it does all that it offers, and if not, why.
    pub fn standing(&self) -> NodeStanding {
        let away = || self.identity().is_some_and(|identity| identity.key.is_away());
        if self.draining.is_cancelled() {
            NodeStanding::Draining
        } else if !self.engine.status().healthy {
            NodeStanding::EngineNotReady
        } else if away() {
            NodeStanding::KeyNotReady
        } else {
            NodeStanding::Serving
        }
    }

    /// Whether plaintext frames are served.
    pub fn serves_plaintext(&self) -> bool {
        self.identities.is_none() || self.config.allow_plaintext
    }

    /// Removes expired sessions until the node stops.
    pub async fn sweep(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(self.config.sweep_interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut told = false;
        while self.stopping.run_until_cancelled(ticks.tick()).await.is_some() {
            let drift = self.clock.drift();
            if drift > MOST_DRIFT && !std::mem::replace(&mut told, true) {
                tracing::warn!(
                    seconds = drift,
                    "the system's clock was set: timestamps of session inits are judged by the clock at start, \
                     restart the node to follow the new one"
                );
            }
            self.sessions.sweep(Instant::now());
            self.channels.sweep(Instant::now());
            self.sweep_identities();
            self.limits.shrink();
            for fault in self.look_at_lists(Access::look).await {
                tracing::warn!(
                    event = "config",
                    what = "lists of clients",
                    "The list stays as it was: {fault}"
                );
            }
        }
    }

    /// Reads the files of clients again, whether they seem to have changed or not: for SIGHUP. Those that cannot be used.
    pub async fn reload_lists(&self) -> Vec<InvalidList> {
        self.look_at_lists(Access::reload).await
    }

    /// Sessions of version 2 that may no longer be are told so; those of version 1 are by their connections.
    async fn look_at_lists(&self, look: fn(&Access) -> Refreshed) -> Vec<InvalidList> {
        if !self.access.has_files() {
            return Vec::new();
        }
        let access = Arc::clone(&self.access);
        let Refreshed { changed, faults } =
            tokio::task::spawn_blocking(move || look(&access)).await.unwrap_or_default();
        if changed {
            self.channels.judge(&self.access);
        }
        faults
    }
}

/// So many at once: one less than there are cores, or one. A flood of handshakes that are all in order leaves a core to the
/// answers that run, and to the threads that serve sockets.
fn places() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get).saturating_sub(1).max(1)
}

/// Where nonces come from: a generator of this thread, seeded by the operating system's, and again every 64 KiB. One is
/// drawn for every token, and a system call would be a third of the cost.
pub fn nonces() -> impl CryptoRng {
    rand::rng()
}

/// The operating system's generator. A machine without one cannot run this program.
pub fn rng() -> impl CryptoRng {
    UnwrapErr(getrandom::SysRng)
}

/// Overwrites what ended calls of this thread left on its stack. Hashes and ciphers of libraries keep blocks there that keys were made
/// of, and such a thread may wait, or be gone with its stack still mapped, long after the session.
#[inline(never)]
#[expect(clippy::large_stack_arrays, reason = "that is the point")]
fn wipe_stack() {
    // Words and not bytes: each is written, and none of the writes is left out.
    let mut below = [0_u64; 8192];
    below.zeroize();
}
