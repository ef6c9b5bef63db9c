//! A server behind the node (ENGINE_URL): says the prompt back at its own pace, for ever, or fails as it is told to. It
//! sees when the node lets go of a request.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::AbortHandle,
    time::sleep,
};

const END: &[u8] =
    b"data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";

/// What it does with a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Manner {
    /// Says the prompt's words back, one after each pause, again and again until it is let go.
    Drip(Duration),
    /// The same once, with an end.
    Once(Duration),
    /// Takes the request, and says nothing.
    Silent,
    /// A status of its own.
    Status(u16),
    /// An answer that is no HTTP.
    Noise,
    /// Events that are no JSON.
    NoJson,
    /// JSON that means something else.
    OtherJson,
    /// Some words, and the connection ends.
    Breaks,
    /// Some words, and silence.
    Stalls,
    /// A line without an end.
    Endless,
    /// Numbers that cannot be.
    Lies,
}

/// The server, on a port of its own on loopback.
#[derive(Debug)]
pub(crate) struct Behind {
    pub(crate) url: String,
    shared: Arc<Shared>,
    task: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    manner: Mutex<Manner>,
    /// Requests that are being answered.
    open: AtomicUsize,
    taken: AtomicUsize,
}

impl Behind {
    pub(crate) async fn start(manner: Manner) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/v1", listener.local_addr()?);
        let shared = Arc::new(Shared { manner: Mutex::new(manner), open: 0.into(), taken: 0.into() });
        let serving = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let _ = socket.set_nodelay(true);
                let serving = Arc::clone(&serving);
                // Who is not understood, or has gone, is not answered.
                tokio::spawn(async move { serving.serve(BufReader::new(socket)).await.ok() });
            }
        });
        Ok(Self { url, shared, task: task.abort_handle() })
    }

    /// What it does from now on.
    pub(crate) fn set(&self, manner: Manner) {
        *self.shared.manner.lock().unwrap_or_else(PoisonError::into_inner) = manner;
    }

    /// Requests that the node has not let go of.
    pub(crate) fn open(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }

    /// Requests that came.
    pub(crate) fn taken(&self) -> usize {
        self.shared.taken.load(Ordering::Relaxed)
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Counts itself while it is there.
struct Open<'a>(&'a AtomicUsize);

impl<'a> Open<'a> {
    fn count(open: &'a AtomicUsize) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(open)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    async fn serve(&self, mut socket: BufReader<TcpStream>) -> std::io::Result<()> {
        loop {
            let (mut line, mut length, mut first) = (String::new(), 0, String::new());
            while socket.read_line(&mut line).await? > 0 && line != "\r\n" {
                if first.is_empty() {
                    first.clone_from(&line);
                }
                let lower = line.to_ascii_lowercase();
                length = lower
                    .strip_prefix("content-length:")
                    .and_then(|value| value.trim().parse().ok())
                    .unwrap_or(length);
                line.clear();
            }
            if first.is_empty() {
                return Ok(());
            }
            let mut body = vec![0; length];
            socket.read_exact(&mut body).await?;
            if first.starts_with("GET") {
                let list = json!({"data": [{"id": "behind", "max_model_len": 100_000}]});
                say(&mut socket, 200, &list.to_string()).await?;
            } else {
                self.taken.fetch_add(1, Ordering::Relaxed);
                let _open = Open::count(&self.open);
                let words = last_words(&body);
                let (mut from, mut to) = socket.into_inner().into_split();
                // The node closes the connection when it wants no more: nothing else comes by it.
                let mut byte = [0];
                tokio::select! {
                    _ = from.read(&mut byte) => {}
                    _ = self.answer(&mut to, &words) => {}
                }
                return Ok(());
            }
        }
    }

    async fn answer(&self, to: &mut (impl AsyncWrite + Unpin), words: &str) -> std::io::Result<()> {
        let manner = *self.manner.lock().unwrap_or_else(PoisonError::into_inner);
        match manner {
            Manner::Drip(pause) => {
                stream(to).await?;
                for word in words.split_inclusive(' ').cycle() {
                    event(to, word).await?;
                    sleep(pause).await;
                }
                Ok(())
            }
            Manner::Once(pause) => {
                stream(to).await?;
                for word in words.split_inclusive(' ') {
                    event(to, word).await?;
                    sleep(pause).await;
                }
                to.write_all(END).await
            }
            Manner::Silent => std::future::pending().await,
            Manner::Status(status) => say(to, status, "{\"error\":{\"message\":\"no\"}}").await,
            Manner::Noise => to.write_all(&[0xFF; 512]).await,
            Manner::NoJson => {
                stream(to).await?;
                to.write_all(b"data: {{{ not json\n\ndata: \xff\xfe\n\n").await
            }
            Manner::OtherJson => {
                stream(to).await?;
                to.write_all(b"data: [1,2,3]\n\ndata: {\"choices\":7}\n\ndata: \"x\"\n\n").await
            }
            Manner::Breaks => {
                stream(to).await?;
                event(to, "some words ").await
            }
            Manner::Stalls => {
                stream(to).await?;
                event(to, "some words ").await?;
                std::future::pending().await
            }
            Manner::Endless => {
                stream(to).await?;
                to.write_all(b"data: {\"x\":\"").await?;
                loop {
                    to.write_all(&[b'a'; 8192]).await?;
                }
            }
            Manner::Lies => {
                stream(to).await?;
                to.write_all(b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":-1,\"completion_tokens\":1e300}}\n\ndata: [DONE]\n\n").await
            }
        }
    }
}

/// What the last message of a request says.
fn last_words(body: &[u8]) -> String {
    let request: Value = serde_json::from_slice(body).unwrap_or_default();
    let last = request.pointer("/messages").and_then(Value::as_array).and_then(|messages| messages.last());
    last.and_then(|message| message["content"].as_str()).unwrap_or("nothing ").to_owned() + " "
}

async fn say(to: &mut (impl AsyncWrite + Unpin), status: u16, body: &str) -> std::io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    to.write_all((head + body).as_bytes()).await
}

async fn stream(to: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<()> {
    to.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n").await
}

async fn event(to: &mut (impl AsyncWrite + Unpin), words: &str) -> std::io::Result<()> {
    let event = json!({"choices": [{"index": 0, "delta": {"content": words}, "finish_reason": null}]});
    to.write_all(format!("data: {event}\n\n").as_bytes()).await
}
