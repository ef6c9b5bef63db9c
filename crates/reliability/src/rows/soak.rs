//! Sessions come and go: they ask, leave in the middle, lose their connections. Memory, descriptors and threads stay as
//! they are.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::{task::JoinSet, time::sleep};

use crate::{
    context::Context,
    node::Node,
    outcome::{Goal, Outcome},
    peer::{Peer, Version, question, source},
    statistics::{float, percentile, slope},
};

/// Who come and go.
const WORKERS: usize = 8;
/// Between two sessions of one of them.
const PAUSE: Duration = Duration::from_millis(200);
/// KiB a minute by which memory may grow once what is remembered for ten minutes is full; and before that, when each
/// init and each ticket adds itself.
const GROWS: (f64, f64) = (64.0, 8192.0);
/// Of so many sessions one of each version is lost, and some give their answer up.
const LOST: usize = 32;
/// Bytes that may stay of an answer: few, since memory comes in pages and settles.
const UNWATCHED: f64 = 20.0;
/// Between two looks at the process.
const LOOK: Duration = Duration::from_secs(1);

pub(crate) async fn run(context: &Context) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    // Inits are remembered as long as a session may be idle, ten minutes at least: an hour of them would be the slope.
    let settings =
        [("MAX_SESSIONS", "50000"), ("MAX_CONNECTIONS", "4096"), ("SESSION_KEY_TTL_SECONDS", "600")];
    let node = Arc::new(context.echo(&settings).await?);
    let seconds: u64 = context.form.of(60 * 60, 105);
    // Answers of lost connections are kept for a minute, tickets and inits for ten: what grows after that stays.
    let settled: u64 = context.form.of(20 * 60, 75);
    let (over, sessions) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let failed = Arc::new(Mutex::new(Vec::new()));
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        let (node, over) = (Arc::clone(&node), Arc::clone(&over));
        let (sessions, failed) = (Arc::clone(&sessions), Arc::clone(&failed));
        workers.spawn(async move {
            let mut number = worker;
            while !over.load(Ordering::Relaxed) {
                if let Err(error) = churn(&node, source(worker, 1), number).await {
                    failed.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{error:#}"));
                }
                sessions.fetch_add(1, Ordering::Relaxed);
                number = number.wrapping_add(1);
                sleep(PAUSE).await;
            }
        });
    }
    let looks = watch(context, &node, seconds, settled).await?;
    over.store(true, Ordering::Relaxed);
    while workers.join_next().await.is_some() {}
    let count = sessions.load(Ordering::Relaxed);
    outcome.figure(
        format!("sessions that came and went in {seconds} s"),
        float(count),
        "",
        Goal::AtLeast(float(WORKERS.saturating_mul(10))),
    );
    let failed = std::mem::take(&mut *failed.lock().unwrap_or_else(PoisonError::into_inner));
    outcome.none("of them not served as they should be", failed.len());
    for why in failed.iter().take(3) {
        outcome.note(format!("Not served: {why}."));
    }
    looks.judge(context, &mut outcome);
    unwatched(context, &mut outcome).await?;
    control(context, &node, &mut outcome).await?;
    Arc::into_inner(node).context("somebody still uses the node")?.stop().await?;
    Ok(outcome)
}

/// One session: asks twice, and goes in one of four ways.
async fn churn(node: &Node, from: Ipv4Addr, number: usize) -> anyhow::Result<()> {
    let version = if number.is_multiple_of(2) { Version::One } else { Version::Two };
    let mut peer = Peer::open(node, version, from).await?;
    for turn in 0..2 {
        let words = format!("words {number} {turn}");
        anyhow::ensure!(peer.ask(&question(&words, 16)).await? == words, "another answer");
    }
    match number % LOST {
        // In the middle of an answer, without a word. Of version 2 that is kept for a while.
        0 | 1 => peer.say(&question(&"word ".repeat(1500), 1600)).await,
        // The answer is given up.
        2..8 => {
            peer.say(&question(&"word ".repeat(1500), 1600)).await?;
            peer.cancel().await?;
            peer.rest().await?;
            peer.close().await
        }
        _ => peer.close().await,
    }
}

/// What the kernel says of the process, over time.
#[derive(Debug, Default)]
struct Looks {
    /// Minutes, and KiB.
    memory: Vec<(f64, f64)>,
    descriptors: Vec<f64>,
    threads: Vec<f64>,
}

async fn watch(context: &Context, node: &Node, seconds: u64, settled: u64) -> anyhow::Result<Looks> {
    let mut looks = Looks::default();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(seconds) {
        sleep(LOOK).await;
        context.show(format!("soak: {} of {seconds} s", start.elapsed().as_secs()));
        if start.elapsed() >= Duration::from_secs(settled) {
            looks.memory.push((start.elapsed().as_secs_f64() / 60.0, node.resident()?));
            looks.descriptors.push(node.descriptors()?);
            looks.threads.push(node.threads()?);
        }
    }
    Ok(looks)
}

impl Looks {
    fn judge(&self, context: &Context, outcome: &mut Outcome) {
        let grows = Goal::AtMost(context.form.of(GROWS.0, GROWS.1));
        outcome.figure("resident memory grows by", slope(&self.memory), "KiB a minute", grows);
        let last = self.memory.last().map_or(f64::NAN, |(_, kib)| *kib);
        outcome.said("resident memory at the end", last, "KiB");
        // A session more or less, each with a socket; never one that stays.
        let spread = |figures: &[f64]| percentile(figures, 0.9) - percentile(figures, 0.1);
        let (descriptors, threads) = (&self.descriptors, &self.threads);
        let most = Goal::AtMost(2.0 * float(WORKERS));
        outcome.figure(
            "open descriptors: from the 10th to the 90th in a hundred",
            spread(descriptors),
            "",
            most,
        );
        outcome.figure("threads: the same", spread(threads), "", Goal::AtMost(4.0));
    }
}

/// A node whose counts nobody looks at: what is counted must not pile up.
async fn unwatched(context: &Context, outcome: &mut Outcome) -> anyhow::Result<()> {
    context.show("soak: answers that nobody counts");
    let node = context.echo(&[("MESSAGES_PER_MINUTE", "10000000")]).await?;
    let mut peer = Peer::open(&node, Version::Two, Ipv4Addr::LOCALHOST).await?;
    let answers: u32 = context.form.of(400_000, 60_000);
    let mut before = f64::NAN;
    for number in 0..answers {
        if number == answers / 4 {
            before = node.resident()?;
        }
        peer.ask(&question("x", 2)).await?;
    }
    let each = (node.resident()? - before) * 1024.0 / (f64::from(answers) * 0.75);
    let what = format!("{answers} answers while nobody asks for /metrics: memory that stays of each");
    outcome.figure(what, each, "bytes", Goal::AtMost(UNWATCHED));
    peer.close().await?;
    node.stop().await?;
    Ok(())
}

/// Sessions that are opened and kept: what grows is seen to grow.
async fn control(context: &Context, node: &Node, outcome: &mut Outcome) -> anyhow::Result<()> {
    let (mut held, mut memory, mut descriptors) = (Vec::new(), Vec::new(), Vec::new());
    let start = Instant::now();
    for number in 0..300 {
        held.push(Peer::open(node, Version::Two, source(100, 1)).await?);
        if number % 10 == 0 {
            memory.push((start.elapsed().as_secs_f64() / 60.0, node.resident()?));
            descriptors.push(node.descriptors()?);
        }
    }
    let grown = slope(&memory) > context.form.of(GROWS.0, GROWS.1);
    outcome.control("sessions that stay are seen in memory", grown);
    let more = percentile(&descriptors, 0.9) - percentile(&descriptors, 0.1) > 2.0 * float(WORKERS);
    outcome.control("and in descriptors", more);
    Ok(())
}
