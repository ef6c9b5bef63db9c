//! A hub of one model (HF_ENDPOINT), at its own pace, which sees from where a fetch goes on.

use std::{
    io::SeekFrom,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sha2::{Digest as _, Sha256};
use tokio::{
    fs::File,
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::AbortHandle,
    time::sleep,
};

/// What the hub's file is called, as MODEL has it.
pub(crate) const MODEL: &str = "hf:owner/repo/m.gguf";
/// Bytes of one write.
const PART: usize = 1 << 20;

/// The hub, on a port of its own on loopback.
#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) url: String,
    shared: Arc<Shared>,
    task: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    file: PathBuf,
    digest: String,
    /// After each MiB.
    pause: Duration,
    last_from: AtomicU64,
}

impl Hub {
    pub(crate) async fn start(file: &Path, pause: Duration) -> anyhow::Result<Self> {
        let mut hash = Sha256::new();
        let mut bytes = vec![0; PART];
        let mut open = File::open(file).await?;
        while let read @ 1.. = open.read(&mut bytes).await? {
            hash.update(bytes.get(..read).unwrap_or_default());
        }
        let digest = const_hex::encode(<[u8; 32]>::from(hash.finalize()));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let shared = Arc::new(Shared { file: file.to_owned(), digest, pause, last_from: 0.into() });
        let serving = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let serving = Arc::clone(&serving);
                // Who goes away in the middle of it is who is meant to.
                tokio::spawn(async move { serving.serve(BufReader::new(socket)).await.ok() });
            }
        });
        Ok(Self { url, shared, task: task.abort_handle() })
    }

    /// From which byte the last fetch went on.
    pub(crate) fn last_from(&self) -> u64 {
        self.shared.last_from.load(Ordering::Relaxed)
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    async fn serve(&self, mut socket: BufReader<TcpStream>) -> std::io::Result<()> {
        let (mut first, mut from) = (String::new(), 0);
        socket.read_line(&mut first).await?;
        loop {
            let mut line = String::new();
            socket.read_line(&mut line).await?;
            let lower = line.trim_end().to_ascii_lowercase();
            if let Some(range) = lower.strip_prefix("range: bytes=") {
                from = range.trim_end_matches('-').parse().unwrap_or(0);
            }
            if lower.is_empty() {
                break;
            }
        }
        let mut file = File::open(&self.file).await?;
        let length = file.metadata().await?.len().saturating_sub(from);
        let head = format!(
            "HTTP/1.1 206 Partial Content\r\nconnection: close\r\nx-linked-etag: \"{}\"\r\ncontent-length: {length}\r\n\r\n",
            self.digest
        );
        socket.get_mut().write_all(head.as_bytes()).await?;
        if first.starts_with("HEAD") {
            return Ok(());
        }
        self.last_from.store(from, Ordering::Relaxed);
        file.seek(SeekFrom::Start(from)).await?;
        let mut bytes = vec![0; PART];
        while let read @ 1.. = file.read(&mut bytes).await? {
            socket.get_mut().write_all(bytes.get(..read).unwrap_or_default()).await?;
            sleep(self.pause).await;
        }
        Ok(())
    }
}
