//! The way to a node: passes bytes on, and falls at both ends when it is cut.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Mutex, watch},
    task::AbortHandle,
};

/// Where a connection falls: after so many bytes in a direction. `None` lets it be.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cut {
    pub(crate) up: Option<usize>,
    pub(crate) down: Option<usize>,
}

/// A proxy on a port of its own on loopback.
#[derive(Debug)]
pub(crate) struct Way {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    task: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    node: SocketAddr,
    /// For the next connections, in their order; then they are left alone.
    cuts: Mutex<Vec<Cut>>,
    made: AtomicUsize,
    fallen: AtomicUsize,
    down: AtomicUsize,
    cut: watch::Sender<u32>,
}

impl Way {
    /// Carries to `node`. The first connection falls at the first of `cuts`, and so on.
    pub(crate) async fn to(node: SocketAddr, mut cuts: Vec<Cut>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        cuts.reverse();
        let (made, fallen) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let down = AtomicUsize::new(0);
        let cut = watch::Sender::new(0);
        let shared = Arc::new(Shared { node, cuts: Mutex::new(cuts), made, fallen, down, cut });
        let task = tokio::spawn(accept(listener, Arc::clone(&shared))).abort_handle();
        Ok(Self { address, shared, task })
    }

    pub(crate) fn url(&self) -> String {
        format!("ws://{}/v1/ws", self.address)
    }

    /// Cuts all connections that there are.
    pub(crate) fn cut_all(&self) {
        self.shared.cut.send_modify(|cuts| *cuts = cuts.saturating_add(1));
    }

    /// Connections that fell where they were told to.
    pub(crate) fn fallen(&self) -> usize {
        self.shared.fallen.load(Ordering::Relaxed)
    }

    /// Bytes that went to clients.
    pub(crate) fn carried_down(&self) -> usize {
        self.shared.down.load(Ordering::Relaxed)
    }

    /// Connections that were made.
    pub(crate) fn made(&self) -> usize {
        self.shared.made.load(Ordering::Relaxed)
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let cut = shared.cuts.lock().await.pop().unwrap_or_default();
        let Ok(node) = TcpStream::connect(shared.node).await else { continue };
        let _ = (client.set_nodelay(true), node.set_nodelay(true));
        shared.made.fetch_add(1, Ordering::Relaxed);
        let shared = Arc::clone(&shared);
        let mut all = shared.cut.subscribe();
        tokio::spawn(async move {
            let (from_client, to_client) = client.into_split();
            let (from_node, to_node) = node.into_split();
            // Who returns first takes the other along: both sockets fall together.
            let fell = tokio::select! {
                fell = carry(from_client, to_node, cut.up, None) => fell,
                fell = carry(from_node, to_client, cut.down, Some(&shared.down)) => fell,
                cut = all.changed() => cut.is_ok(),
            };
            shared.fallen.fetch_add(usize::from(fell), Ordering::Relaxed);
        });
    }
}

/// Carries until the end, or until as many bytes as are let through; whether it was cut.
async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut left: Option<usize>,
    counter: Option<&AtomicUsize>,
) -> bool {
    let mut bytes = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        let most = left.map_or(read, |left| left.min(read));
        let Some(through) = bytes.get(..most) else { return false };
        if to.write_all(through).await.is_err() {
            return false;
        }
        if let Some(counter) = counter {
            counter.fetch_add(through.len(), Ordering::Relaxed);
        }
        if let Some(left) = &mut left {
            *left = left.saturating_sub(read);
            if *left == 0 {
                return true;
            }
        }
    }
    false
}
