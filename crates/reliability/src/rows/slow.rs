//! Peers that take their time: headers and bodies that come byte by byte, readers that do not read. Each is closed in time,
//! and others are served meanwhile as if they were not there.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use futures_util::SinkExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};

use crate::{
    behind::{Behind, Manner},
    context::{Context, Form, until},
    node::{Http, Node},
    outcome::{Goal, Outcome},
    peer::{Peer, Version, question, tcp},
    statistics::{float, milliseconds, percentile},
};

const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// Seconds that headers and bodies may take, and a little.
const CLOSED: f64 = 10.0 + 2.0;
/// Seconds that a reader may leave its answer unread, by the node's setting.
const UNREAD: &str = "3";
/// Milliseconds in which others are answered.
const QUICK: f64 = 50.0;
/// How often slow peers say something.
const DRIP: Duration = Duration::from_millis(500);

pub(crate) async fn run(context: &Context) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    let behind = Behind::start(Manner::Drip(Duration::ZERO)).await?;
    let settings = [("ENGINE_URL", behind.url.as_str()), ("SEND_TIMEOUT_SECONDS", UNREAD)];
    let node = Arc::new(Node::start(&context.binary, &settings).await?);
    let well = Peer::open(&node, Version::Two, HERE).await?;
    let (health, watching) = Health::watch(&node);
    let peers: usize = context.form.of(400, 100);
    context.show(format!(
        "slow: {peers} headers and {peers} bodies that come byte by byte, and readers that do not read"
    ));
    let (headers, bodies, readers) = tokio::try_join!(
        drips(node.address, "GET /health HTTP/1.1\r\nhost: node\r\nx-slow: ", peers),
        drips(node.address, "POST /v1/ws HTTP/1.1\r\nhost: node\r\ncontent-length: 9999\r\n\r\n", peers),
        readers(context, &node, &behind)
    )?;
    for (what, closed) in [("headers", headers), ("bodies", bodies)] {
        outcome.all(format!("slow {what} that were closed"), closed.len(), peers);
        let goal = Goal::AtMost(context.form.of(CLOSED, 2.0 * CLOSED));
        outcome.figure(format!("slow {what} closed after, longest"), percentile(&closed, 1.0), "s", goal);
    }
    outcome = outcome.and(readers);
    let took = health.take();
    watching.abort();
    outcome.said(format!("GET /health meanwhile, p50 of {}", took.len()), percentile(&took, 0.5), "ms");
    outcome.figure(
        "GET /health meanwhile, p99",
        percentile(&took, 0.99),
        "ms",
        Goal::AtMost(context.form.time(QUICK)),
    );
    controls(context, &node, well, &mut outcome).await?;
    if context.form == Form::Long {
        slowhttptest(context, &node, &mut outcome).await?;
    }
    Arc::into_inner(node).context("somebody still uses the node")?.stop().await?;
    Ok(outcome)
}

/// How long `GET /health` takes, each time on a new connection, over and over.
#[derive(Clone, Debug, Default)]
struct Health(Arc<std::sync::Mutex<Vec<f64>>>);

impl Health {
    fn watch(node: &Node) -> (Self, AbortHandle) {
        let health = Self::default();
        let (mine, address) = (health.clone(), node.address);
        let task = tokio::spawn(async move {
            loop {
                let start = Instant::now();
                let answer = async { Http::connect(address).await?.get("/health").await };
                // What is not answered took for ever.
                let took = match answer.await {
                    Ok((200, _)) => milliseconds(start.elapsed()),
                    Ok(_) | Err(_) => f64::INFINITY,
                };
                mine.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(took);
                sleep(Duration::from_millis(20)).await;
            }
        });
        (health, task.abort_handle())
    }

    fn take(&self) -> Vec<f64> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

/// Peers that begin a request and go on byte by byte; after how many seconds the node closed each.
async fn drips(node: SocketAddr, begin: &'static str, peers: usize) -> anyhow::Result<Vec<f64>> {
    let mut tasks = JoinSet::new();
    for _ in 0..peers {
        tasks.spawn(async move {
            let mut socket = tcp(node, HERE).await?;
            socket.write_all(begin.as_bytes()).await?;
            let start = Instant::now();
            let mut said = [0; 1024];
            while start.elapsed() < Duration::from_secs(60) {
                // Nobody goes on after a request timed out: whatever is said is followed by the end.
                match timeout(DRIP, socket.read(&mut said)).await {
                    Ok(Ok(1..)) => {}
                    Ok(Ok(0) | Err(_)) => return Ok(Some(start.elapsed().as_secs_f64())),
                    Err(_) if socket.write_all(b"x").await.is_err() => {
                        return Ok(Some(start.elapsed().as_secs_f64()));
                    }
                    Err(_) => {}
                }
            }
            anyhow::Ok(None)
        });
    }
    let mut closed = Vec::new();
    while let Some(one) = tasks.join_next().await {
        closed.extend(one??);
    }
    Ok(closed)
}

/// Clients that ask for an answer without end, and do not read it.
async fn readers(context: &Context, node: &Node, behind: &Behind) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    let readers: usize = context.form.of(50, 10);
    let before = node.metric("fabstir_slow_consumers_total").await?;
    let mut peers = Vec::new();
    for number in 0..readers {
        let version = if number.is_multiple_of(2) { Version::One } else { Version::Two };
        let mut peer = Peer::open(node, version, HERE).await?;
        // Long words fill what lies between sooner.
        peer.say(&question(&"w".repeat(2000), 1_000_000)).await?;
        peers.push(peer);
    }
    let begun = until(Duration::from_secs(20), DRIP, async || Ok(behind.taken() >= readers));
    begun.await?.context("the readers' requests do not begin")?;
    // A reader of version 2 is closed for it, and its session waits for the grace: 15 s.
    let patience = Duration::from_secs(60);
    let freed = until(patience, Duration::from_millis(50), async || Ok(behind.open() == 0)).await?;
    let freed = freed.map_or(f64::NAN, |freed| freed.as_secs_f64());
    outcome.figure(
        "readers that do not read: all of their places are free after",
        freed,
        "s",
        Goal::AtMost(40.0),
    );
    let closed =
        async || -> anyhow::Result<f64> { Ok(node.metric("fabstir_slow_consumers_total").await? - before) };
    until(Duration::from_secs(20), DRIP, async || Ok(closed().await? >= float(readers))).await?;
    outcome.figure("closed as slow consumers", closed().await?, "", Goal::Exactly(float(readers)));
    Ok(outcome)
}

async fn controls(
    context: &Context,
    node: &Arc<Node>,
    well: Peer,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    // A session that was quiet all the time, and answers its pings, is none of those that are closed.
    let mut socket = well.into_socket();
    let open = socket.flush().await.is_ok() && node.metric("fabstir_connections").await? >= 1.5;
    outcome.control("a session that is only quiet is not closed", open);
    let (health, watching) = Health::watch(node);
    for _ in 0..4 {
        node.signal("STOP").await?;
        sleep(Duration::from_secs_f64(context.form.time(QUICK) * 1.5 / 1000.0)).await;
        node.signal("CONT").await?;
        sleep(Duration::from_millis(50)).await;
    }
    watching.abort();
    let slow = percentile(&health.take(), 0.99) > context.form.time(QUICK);
    outcome.control("a node that is stopped in between is seen to answer late", slow);
    Ok(())
}

/// Somebody else's slow client.
async fn slowhttptest(context: &Context, node: &Arc<Node>, outcome: &mut Outcome) -> anyhow::Result<()> {
    let url = format!("http://{}/health", node.address);
    for (what, mode) in [("headers", "-H"), ("bodies", "-B"), ("reading", "-X")] {
        context.show(format!("slow: slowhttptest, {what}"));
        let (health, watching) = Health::watch(node);
        let arguments = [mode, "-c", "400", "-r", "100", "-i", "2", "-l", "25", "-u", &url];
        let run = Command::new("slowhttptest").args(arguments).output().await;
        watching.abort();
        if run.is_err() {
            outcome.note("slowhttptest is not installed: left out.");
            return Ok(());
        }
        let late = percentile(&health.take(), 0.99);
        let goal = Goal::AtMost(context.form.time(QUICK));
        outcome.figure(format!("GET /health while slowhttptest is slow in {what}, p99"), late, "ms", goal);
    }
    Ok(())
}
