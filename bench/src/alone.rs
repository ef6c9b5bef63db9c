//! What the node costs by itself: sessions opened a second, memory of idle ones, what encryption adds, what travels.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use fabstir_client::{
    Direction, Event, Frame, Request,
    v1::{Client, Config},
};
use fabstir_protocol::{
    id::SessionId,
    identity::PublicKey,
    v1::{ClientHello, Dialect, InitContext},
};
use futures_util::{SinkExt as _, StreamExt as _};
use serde::{Deserialize, Serialize};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

use crate::server::{NodeSettings, Server};

/// Inits of one measurement.
const INITS: u32 = 1000;
/// Connections that send them side by side.
const SIDE_BY_SIDE: u32 = 8;
/// Questions asked each way, to find what encryption adds.
const QUESTIONS: usize = 400;

/// What was measured of the node alone.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Alone {
    /// Session inits a second, one after the other on one connection.
    pub(crate) inits_in_turn: f64,
    /// The same over several connections.
    pub(crate) inits_side_by_side: f64,
    /// Microseconds from a question to the first words, in the clear and sealed, from an engine that takes no time.
    pub(crate) clear: Vec<f64>,
    pub(crate) sealed: Vec<f64>,
    /// Bytes of frames to the client for each token of an answer.
    pub(crate) bytes_per_token: f64,
    /// Open, idle, encrypted sessions, and KiB of memory for each.
    pub(crate) idle_sessions: usize,
    pub(crate) kib_per_session: f64,
}

type Socket = WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>;

/// Measures the node with the echo engine: what is left is the node's own.
pub(crate) async fn measure(binary: &Path, idle_sessions: usize) -> anyhow::Result<Alone> {
    let server = start(binary, &[]).await?;
    let (inits_in_turn, inits_side_by_side) = inits(&server).await?;
    server.stop().await?;
    let server = start(binary, &[("ALLOW_PLAINTEXT", "true")]).await?;
    let (clear, sealed, bytes_per_token) = added_by_encryption(&server).await?;
    server.stop().await?;
    let most = idle_sessions.saturating_add(16).to_string();
    let server = start(binary, &[("MAX_SESSIONS", &most), ("MAX_CONNECTIONS", &most)]).await?;
    let kib_per_session = idle(&server, idle_sessions).await?;
    server.stop().await?;
    Ok(Alone {
        inits_in_turn,
        inits_side_by_side,
        clear,
        sealed,
        bytes_per_token,
        idle_sessions,
        kib_per_session,
    })
}

async fn start(binary: &Path, more: &[(&str, &str)]) -> anyhow::Result<Server> {
    // As many inits as the memory of them allows, for a TTL that outlasts what is measured.
    let mut settings = NodeSettings::new([
        ("ENGINE", "echo"),
        ("INITS_PER_MINUTE", "6000"),
        ("SESSION_KEY_TTL_SECONDS", "600"),
    ]);
    settings.extend(more);
    Server::start_node(binary, &settings).await
}

/// The text of an init, made before anything is measured.
fn init(node_key: &PublicKey, number: u32) -> anyhow::Result<String> {
    let hello = ClientHello {
        node_key,
        client_key: &fabstir_client::random_key(),
        id: SessionId::try_from(number.to_string().as_str())?,
        context: InitContext::default(),
        dialect: Dialect::Deployed,
        timestamp: None,
        claim: true,
    };
    let made = hello.start(&mut rand_core::UnwrapErr(getrandom::SysRng));
    Ok(made.ok().context("an init could not be made")?.0)
}

/// A connection that has been greeted.
async fn connect(url: &str) -> anyhow::Result<Socket> {
    let mut socket = connect_async(url).await?.0;
    read(&mut socket, "connected").await?;
    Ok(socket)
}

/// The next text frame that is of a type.
async fn read(socket: &mut Socket, kind: &str) -> anyhow::Result<()> {
    let wanted = format!("\"type\":\"{kind}\"");
    loop {
        let Message::Text(text) = socket.next().await.context("the node closed the connection")?? else {
            continue;
        };
        if text.contains(&wanted) {
            return Ok(());
        }
        if text.contains("\"type\":\"error\"") {
            bail!("the node refused: {text}");
        }
    }
}

async fn send_inits(mut socket: Socket, frames: Vec<String>) -> anyhow::Result<()> {
    for frame in frames {
        socket.send(Message::text(frame)).await?;
        read(&mut socket, "session_init_ack").await?;
    }
    Ok(())
}

async fn inits(server: &Server) -> anyhow::Result<(f64, f64)> {
    let (url, key) = server.node()?;
    let frames = |connection: u32, count: u32| -> anyhow::Result<Vec<String>> {
        (0..count)
            .map(|number| init(key, connection.saturating_mul(100_000).saturating_add(number)))
            .collect()
    };
    let rate = |count: u32, took: Duration| f64::from(count) / took.as_secs_f64();
    let mut in_turn = Duration::ZERO;
    // A connection holds 64 sessions: as many connections as that takes.
    for part in 0..INITS.div_ceil(50) {
        let (socket, frames) = (connect(url).await?, frames(part, 50)?);
        let start = Instant::now();
        send_inits(socket, frames).await?;
        in_turn = in_turn.saturating_add(start.elapsed());
    }
    let mut side_by_side = Duration::ZERO;
    for part in 0..INITS.div_ceil(50_u32.saturating_mul(SIDE_BY_SIDE)) {
        let mut ready = Vec::new();
        for connection in 0..SIDE_BY_SIDE {
            let number = part.saturating_mul(SIDE_BY_SIDE).saturating_add(connection).saturating_add(100);
            ready.push((connect(url).await?, frames(number, 50)?));
        }
        let start = Instant::now();
        let running: Vec<_> =
            ready.into_iter().map(|(socket, frames)| tokio::spawn(send_inits(socket, frames))).collect();
        for one in running {
            one.await??;
        }
        side_by_side = side_by_side.saturating_add(start.elapsed());
    }
    let all =
        INITS.div_ceil(50_u32.saturating_mul(SIDE_BY_SIDE)).saturating_mul(SIDE_BY_SIDE).saturating_mul(50);
    Ok((rate(INITS.div_ceil(50).saturating_mul(50), in_turn), rate(all, side_by_side)))
}

async fn added_by_encryption(server: &Server) -> anyhow::Result<(Vec<f64>, Vec<f64>, f64)> {
    let (url, key) = server.node()?;
    let mut plain = connect(url).await?;
    plain.send(Message::text(r#"{"type":"session_init","session_id":"clear"}"#)).await?;
    read(&mut plain, "session_init_ack").await?;
    let received = Arc::new(AtomicU64::new(0));
    let mut config = Config::new(url, *key);
    let counter = Arc::clone(&received);
    config.capture = Some(Box::new(move |direction, frame| {
        if let (Direction::Received, Frame::Text(frame)) = (direction, frame)
            && frame.contains("\"encrypted_chunk\"")
        {
            counter.fetch_add(u64::try_from(frame.len()).unwrap_or(0), Ordering::Relaxed);
        }
    }));
    let mut client = Client::connect(config, fabstir_client::random_key()).await?;
    let prompt = "word word word word word word word word";
    let request = serde_json::json!({"type": "inference", "session_id": "clear",
        "request": {"messages": [{"role": "user", "content": prompt}]}})
    .to_string();
    let turn = fabstir_client::Turn { role: "user", content: prompt.into() };
    let sealed_request = Request::messages(vec![turn]);
    let (mut clear, mut sealed, mut tokens) = (Vec::new(), Vec::new(), 0_u32);
    // In turns, so that both meet the same machine.
    for _ in 0..QUESTIONS {
        let start = Instant::now();
        plain.send(Message::text(request.clone())).await?;
        read(&mut plain, "stream_chunk").await?;
        clear.push(start.elapsed().as_secs_f64() * 1e6);
        read(&mut plain, "stream_end").await?;
        let start = Instant::now();
        let mut answer = client.ask(&sealed_request).await?;
        let mut first = None;
        while let Some(event) = answer.next().await? {
            match event {
                Event::Text(_) => drop(first.get_or_insert_with(|| start.elapsed())),
                Event::Object(_) => {}
                Event::End(end) => {
                    tokens = tokens.saturating_add(end.usage.map_or(0, |usage| usage.completion_tokens));
                }
            }
        }
        sealed.push(first.context("an answer had no text")?.as_secs_f64() * 1e6);
    }
    let bytes = u32::try_from(received.load(Ordering::Relaxed))?;
    Ok((clear, sealed, f64::from(bytes) / f64::from(tokens)))
}

async fn idle(server: &Server, count: usize) -> anyhow::Result<f64> {
    let (url, key) = server.node()?;
    // What the first sessions bring in is not theirs alone.
    let mut held = Vec::new();
    for number in 0..8 {
        held.push(open(url, key, number).await?);
    }
    let before = server.memory_kib()?;
    for number in 0..u32::try_from(count)? {
        held.push(open(url, key, number.saturating_add(8)).await?);
    }
    let after = server.memory_kib()?;
    drop(held);
    let grown = u32::try_from(after.saturating_sub(before))?;
    Ok(f64::from(grown) / f64::from(u32::try_from(count)?))
}

async fn open(url: &str, key: &PublicKey, number: u32) -> anyhow::Result<Socket> {
    let mut socket = connect(url).await?;
    socket.send(Message::text(init(key, number)?)).await?;
    read(&mut socket, "session_init_ack").await?;
    Ok(socket)
}

/// The resident memory of a process, in KiB.
pub(crate) fn resident_kib(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}
