//! The proxy: a client connects to it, it connects to the node, and in between one thing is done.

mod elsewhere;
mod relay;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinHandle, JoinSet},
    time::{sleep, timeout},
};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use self::{elsewhere::elsewhere, relay::relay};
use crate::{
    step::Act,
    wire::{Frame, Place, Recording},
};

type Upstream = WebSocketStream<MaybeTlsStream<TcpStream>>;
type Downstream = WebSocketStream<TcpStream>;

/// How long the node may take to answer a frame that the attacker sends on a connection of its own.
const REPLY: Duration = Duration::from_millis(250);
/// How long connections get to end once the client is done.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Connections of one client that are carried.
const MOST_CONNECTIONS: usize = 12;

/// What the proxy is to do.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Acts, each at its place. The first that fits is done.
    pub acts: Vec<(Place, Act)>,
    /// Another client's session with the same node.
    pub other: Arc<Recording>,
}

/// What was seen and done.
#[derive(Debug, Default)]
pub struct Log {
    /// Frames as their senders sent them.
    pub seen: Recording,
    /// How often each act of the plan was done.
    pub done: Vec<usize>,
    /// What the node said on connections of the attacker's where it should have opened nothing.
    pub replies: Vec<Frame>,
    connections: usize,
}

/// A proxy on a port of its own on loopback. Dropping it ends its connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    url: String,
    plan: Plan,
    log: Mutex<Log>,
    /// What the attacker does on connections of its own.
    errands: Mutex<Vec<JoinHandle<()>>>,
    /// Connections that are being carried.
    open: AtomicUsize,
}

impl Shared {
    fn log(&self) -> MutexGuard<'_, Log> {
        lock(&self.log)
    }

    fn count(&self, act: usize) {
        if let Some(done) = self.log().done.get_mut(act) {
            *done = done.saturating_add(1);
        }
    }
}

impl Proxy {
    /// Listens, and carries to the node at `url`.
    ///
    /// # Errors
    /// Where there is no port.
    pub async fn start(url: &str, plan: Plan) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let log = Log { done: vec![0; plan.acts.len()], ..Log::default() };
        let shared = Arc::new(Shared {
            url: url.to_owned(),
            plan,
            log: Mutex::new(log),
            errands: Mutex::default(),
            open: AtomicUsize::new(0),
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&shared))).abort_handle();
        Ok(Self { address, shared, task })
    }

    /// Where clients connect.
    pub fn url(&self) -> String {
        format!("ws://{}/v1/ws", self.address)
    }

    /// Does what was left for when the client is done.
    pub async fn finish(&self) {
        // What the client said last is still on its way.
        let over = async {
            while self.shared.open.load(Ordering::Relaxed) > 0 {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = timeout(LAST_WORDS, over).await;
        let errands = std::mem::take(&mut *lock(&self.shared.errands));
        for errand in errands {
            let _ = errand.await;
        }
        let afterwards = self.shared.plan.acts.iter().enumerate();
        for (number, (_, act)) in afterwards {
            if let Act::Afterwards(again) = act {
                elsewhere(&self.shared, *again).await;
                self.shared.count(number);
            }
        }
    }

    /// What was seen and done.
    pub fn into_log(self) -> Log {
        std::mem::take(&mut *self.shared.log())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut relays = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((socket, _)) = accepted else { continue };
                let number = {
                    let mut log = shared.log();
                    log.connections = log.connections.saturating_add(1);
                    log.connections.saturating_sub(1)
                };
                // A client that is cut off each time comes back each time: the node is not to suffer for it.
                if number >= MOST_CONNECTIONS {
                    continue;
                }
                shared.open.fetch_add(1, Ordering::Relaxed);
                let shared = Arc::clone(&shared);
                relays.spawn(async move {
                    let _ = relay(socket, number, Arc::clone(&shared)).await;
                    shared.open.fetch_sub(1, Ordering::Relaxed);
                });
            }
            Some(_) = relays.join_next() => {}
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
