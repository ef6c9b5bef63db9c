//! What a channel of version 2 costs beside its words: opening it, resuming it, and what travels for each token.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use anyhow::Context as _;
use fabstir_client::{Config, Direction, Event, Frame, Request, Session, Shape, anonymous};
use serde::{Deserialize, Serialize};

use crate::server::{NodeSettings, Server};

/// Channels opened, and resumed, one after the other.
const TIMES: usize = 200;
/// Tokens of the answer whose frames are counted.
const TOKENS: u32 = 200;

/// What was measured.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Channels {
    /// Milliseconds from nothing to an open session: TCP, the upgrade, the handshake, both sides on this machine.
    pub(crate) opening: Vec<f64>,
    /// Milliseconds from the loss of a connection to the answer's next words, by ticket.
    pub(crate) resuming: Vec<f64>,
    /// Bytes on the wire to the client for each token of a real model's answer, and its records, by shape.
    pub(crate) off: Wire,
    pub(crate) bucket: Wire,
}

/// What one answer took.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Wire {
    pub(crate) bytes: u64,
    pub(crate) records: u64,
    pub(crate) tokens: u32,
    pub(crate) tokens_per_second: f64,
}

pub(crate) async fn measure(binary: &Path, model: &Path) -> anyhow::Result<Channels> {
    let server = Server::start_node(
        binary,
        &NodeSettings::new([
            ("ENGINE", "echo"),
            ("INITS_PER_MINUTE", "6000"),
            ("SESSION_KEY_TTL_SECONDS", "600"),
        ]),
    )
    .await?;
    let (opening, resuming) = (opening(&server).await?, resuming(&server).await?);
    server.stop().await?;
    let model = model.to_string_lossy();
    let server = Server::start_node(binary, &NodeSettings::new([("MODEL_PATH", model.as_ref())])).await?;
    let (off, bucket) = (wire(&server, Shape::Off).await?, wire(&server, Shape::Bucket).await?);
    server.stop().await?;
    Ok(Channels { opening, resuming, off, bucket })
}

fn config(server: &Server) -> anyhow::Result<Config> {
    let (url, key) = server.node()?;
    Ok(Config::new(url, key.address(), anonymous()))
}

async fn opening(server: &Server) -> anyhow::Result<Vec<f64>> {
    let mut took = Vec::new();
    for _ in 0..TIMES {
        let start = Instant::now();
        let session = Session::connect(config(server)?).await?;
        took.push(start.elapsed().as_secs_f64() * 1e3);
        session.close().await;
    }
    Ok(took)
}

async fn resuming(server: &Server) -> anyhow::Result<Vec<f64>> {
    let session = Session::connect(config(server)?).await?;
    let mut took = Vec::new();
    for _ in 0..TIMES {
        let start = Instant::now();
        session.lose_connection();
        let mut answer = session.ask(&Request::prompt("word")).await?;
        answer.next().await?.context("no words")?;
        took.push(start.elapsed().as_secs_f64() * 1e3);
        while answer.next().await?.is_some() {}
    }
    session.close().await;
    Ok(took)
}

/// A frame on plain WebSocket, from server to client: 2 bytes around it, 4 from 126 bytes on (RFC 6455, 5.2).
fn on_the_wire(frame: &[u8]) -> u64 {
    let around = if frame.len() < 126 { 2 } else { 4 };
    u64::try_from(frame.len()).unwrap_or(0).saturating_add(around)
}

async fn wire(server: &Server, shape: Shape) -> anyhow::Result<Wire> {
    let counts = Arc::new((AtomicU64::new(0), AtomicU64::new(0)));
    let counted = Arc::clone(&counts);
    let capture = move |direction: Direction, frame: Frame<'_>| {
        if let (Direction::Received, Frame::Binary(frame)) = (direction, frame) {
            counted.0.fetch_add(on_the_wire(frame), Ordering::Relaxed);
            counted.1.fetch_add(1, Ordering::Relaxed);
        }
    };
    let config = Config { shape, capture: Some(Box::new(capture)), ..config(server)? };
    let session = Session::connect(config).await?;
    let before = (counts.0.load(Ordering::Relaxed), counts.1.load(Ordering::Relaxed));
    let request = Request {
        max_tokens: Some(TOKENS),
        temperature: Some(0.0),
        ..Request::prompt("Tell me a long story about a lighthouse.")
    };
    let start = Instant::now();
    let mut answer = session.ask(&request).await?;
    let mut tokens = 0;
    while let Some(event) = answer.next().await? {
        if let Event::End(end) = event {
            tokens = end.usage.map_or(0, |usage| usage.completion_tokens);
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    session.close().await;
    Ok(Wire {
        bytes: counts.0.load(Ordering::Relaxed).saturating_sub(before.0),
        records: counts.1.load(Ordering::Relaxed).saturating_sub(before.1),
        tokens,
        tokens_per_second: f64::from(tokens) / seconds,
    })
}
