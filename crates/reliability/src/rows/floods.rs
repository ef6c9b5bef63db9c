//! Sessions that are opened faster than allowed, and frames that open nothing: those who are being answered hardly notice,
//! nothing false is taken, and no memory stays.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use futures_util::SinkExt as _;
use tokio::{
    io::AsyncWriteExt as _,
    task::{AbortHandle, JoinSet},
    time::sleep,
};

use crate::{
    context::{Context, Form},
    garbage::{Flooder, KINDS, Met},
    node::Node,
    outcome::{Goal, Outcome},
    peer::{Heard, Peer, Version, greeted, question, source},
    statistics::{float, median, milliseconds, percentile},
};

/// Frames a second that open nothing.
const PER_SECOND: u64 = 500;
/// Flooders of each version.
const EACH: usize = 2;
/// How much longer the median gap between two pieces of somebody's answer may become.
const SLOWER: f64 = 1.25;
/// KiB that may stay after all of it.
const STAYS: f64 = 8192.0;
/// Times that quiet and flood take turns.
const TURNS: usize = 5;

pub(crate) async fn run(context: &Context) -> anyhow::Result<Outcome> {
    if context.model.is_none() {
        return Ok(Outcome::left_out("there is no model"));
    }
    let mut outcome = Outcome::default();
    let node = Arc::new(context.real(&[("THREADS", "1"), ("INITS_PER_MINUTE", "600")]).await?);
    let gaps = Gaps::default();
    let listener = gaps.listen(&node).await?;
    let total: usize = context.form.of(50_000, 5_000);
    // What the first of each kind bring in is not theirs alone.
    let first = flood(&node, total / 10).await?;
    let before = node.resident()?;
    let (mut quiet, mut loud, mut met) = (Vec::new(), Vec::new(), first);
    for turn in 0..TURNS {
        context.show(format!("floods: {turn} of {TURNS} turns"));
        let flooding = Instant::now();
        gaps.take();
        met = met.and(flood(&node, total / TURNS).await?);
        loud.extend(gaps.take());
        sleep(flooding.elapsed()).await;
        quiet.extend(gaps.take());
    }
    let frames = met.refused.saturating_add(met.closed).saturating_add(met.accepted);
    outcome.figure("frames that open nothing", float(frames), "", Goal::AtLeast(float(total)));
    outcome.none("of them taken for good", met.accepted);
    paces(context, &quiet, &loud, &mut outcome);
    let stays = node.resident()? - before;
    outcome.figure("resident memory that stays", stays, "KiB", Goal::AtMost(STAYS));
    beyond(context, &node, &gaps, &mut outcome).await?;
    controls(&node, before, &mut outcome).await?;
    if context.form == Form::Long {
        stopped(&node, &gaps, &quiet, &mut outcome).await?;
    }
    listener.abort();
    let left = crate::context::until(Duration::from_secs(30), Duration::from_millis(20), async || {
        Ok(Arc::strong_count(&node) == 1)
    });
    left.await?;
    Arc::into_inner(node).context("somebody still uses the node")?.stop().await?;
    Ok(outcome)
}

/// Milliseconds between two pieces of an answer that goes on meanwhile.
#[derive(Clone, Debug, Default)]
struct Gaps(Arc<Mutex<Vec<f64>>>);

impl Gaps {
    /// Somebody who is answered all the time.
    async fn listen(&self, node: &Arc<Node>) -> anyhow::Result<AbortHandle> {
        let mut peer = Peer::open(node, Version::Two, Ipv4Addr::LOCALHOST).await?;
        let gaps = self.clone();
        let task = tokio::spawn(async move {
            loop {
                if peer.say(&question("Tell me a very long story.", 1500)).await.is_err() {
                    return;
                }
                let mut last = None;
                while let Ok(Heard::Words(_) | Heard::Ping) = peer.hear().await {
                    let now = Instant::now();
                    if let Some(last) = last.replace(now) {
                        gaps.push(milliseconds(now.saturating_duration_since(last)));
                    }
                }
            }
        });
        Ok(task.abort_handle())
    }

    fn push(&self, gap: f64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(gap);
    }

    /// Those since the last time.
    fn take(&self) -> Vec<f64> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What came of frames.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    refused: usize,
    closed: usize,
    accepted: usize,
}

impl Counts {
    fn and(self, other: Self) -> Self {
        Self {
            refused: self.refused.saturating_add(other.refused),
            closed: self.closed.saturating_add(other.closed),
            accepted: self.accepted.saturating_add(other.accepted),
        }
    }

    fn count(&mut self, met: Met) {
        let place = match met {
            Met::Refused => &mut self.refused,
            Met::Closed => &mut self.closed,
            Met::Accepted => &mut self.accepted,
        };
        *place = place.saturating_add(1);
    }
}

/// So many frames of all kinds and both versions, at [`PER_SECOND`].
async fn flood(node: &Arc<Node>, total: usize) -> anyhow::Result<Counts> {
    let flooders = EACH.saturating_mul(2);
    let each = total.div_ceil(flooders);
    let pause = Duration::from_micros(1_000_000 / PER_SECOND).saturating_mul(u32::try_from(flooders)?);
    let mut tasks = JoinSet::new();
    for number in 0..flooders {
        let node = Arc::clone(node);
        let version = if number < EACH { Version::One } else { Version::Two };
        tasks.spawn(async move {
            // Networks of their own, so that what is refused is refused for what it is, at first.
            let mut flooder = Flooder::new(source(number.saturating_add(1), 1), version);
            let mut counts = Counts::default();
            let start = tokio::time::Instant::now();
            for sent in 0..each {
                counts.count(flooder.send(&node, sent % KINDS).await?);
                let due = pause.saturating_mul(u32::try_from(sent)?);
                sleep(due.saturating_sub(start.elapsed())).await;
            }
            anyhow::Ok(counts)
        });
    }
    let mut all = Counts::default();
    while let Some(counts) = tasks.join_next().await {
        all = all.and(counts??);
    }
    Ok(all)
}

fn paces(context: &Context, quiet: &[f64], loud: &[f64], outcome: &mut Outcome) {
    outcome.said("gap between two pieces of an answer, quiet, p50", median(quiet), "ms");
    outcome.said("the same under the flood, p50", median(loud), "ms");
    outcome.said("quiet, p99", percentile(quiet, 0.99), "ms");
    outcome.said("under the flood, p99", percentile(loud, 0.99), "ms");
    let (name, ratio) = ("median gap under the flood : quiet", median(loud) / median(quiet));
    // What a debug build takes, with other work beside it, says nothing of the node.
    match context.form {
        Form::Long => outcome.figure(name, ratio, "", Goal::AtMost(SLOWER)),
        Form::Short => outcome.said(name, ratio, ""),
    }
}

/// Whole session inits as fast as they are answered, from one network.
async fn beyond(
    context: &Context,
    node: &Arc<Node>,
    gaps: &Gaps,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    let seconds: u64 = context.form.of(30, 3);
    gaps.take();
    let (over, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut tasks = JoinSet::new();
    for version in [Version::One, Version::Two] {
        let (node, over, sent) = (Arc::clone(node), Arc::clone(&over), Arc::clone(&sent));
        tasks.spawn(async move {
            let mut flooder = Flooder::new(source(100, 1), version);
            let mut counts = Counts::default();
            while !over.load(Ordering::Relaxed) {
                counts.count(flooder.send_good(&node).await?);
                sent.fetch_add(1, Ordering::Relaxed);
                // Not more than the machine has to give: what is measured is the node.
                sleep(Duration::from_millis(2)).await;
            }
            anyhow::Ok(counts)
        });
    }
    sleep(Duration::from_secs(seconds)).await;
    over.store(true, Ordering::Relaxed);
    let mut all = Counts::default();
    while let Some(counts) = tasks.join_next().await {
        all = all.and(counts??);
    }
    // A burst of a minute's, and then so many a second: 600 and 10.
    let most = 600.0 + 10.0 * f64::from(u32::try_from(seconds)?.saturating_add(2));
    outcome.said("sessions asked for, from one network", float(sent.load(Ordering::Relaxed)), "");
    outcome.figure("of them opened", float(all.accepted), "", Goal::AtMost(most));
    outcome.said("median gap meanwhile", median(&gaps.take()), "ms");
    Ok(())
}

/// The control of the paces.
async fn stopped(node: &Arc<Node>, gaps: &Gaps, quiet: &[f64], outcome: &mut Outcome) -> anyhow::Result<()> {
    gaps.take();
    for _ in 0..40 {
        node.signal("STOP").await?;
        sleep(Duration::from_millis(60)).await;
        node.signal("CONT").await?;
        sleep(Duration::from_millis(5)).await;
    }
    let slower = median(&gaps.take()) / median(quiet) > SLOWER;
    outcome.control("a node that is stopped in between is seen to be slower", slower);
    Ok(())
}

async fn controls(node: &Arc<Node>, before: f64, outcome: &mut Outcome) -> anyhow::Result<()> {
    let good = Flooder::new(source(200, 1), Version::Two).send_good(node).await?;
    outcome.control("a frame that opens a session is seen to be taken", good == Met::Accepted);
    let mut held = Vec::new();
    for number in 0..32 {
        let (mut socket, _) = greeted(node.address, source(300_usize.saturating_add(number), 1)).await?;
        socket.flush().await?;
        // The head of a frame of a million bytes, and most of it.
        let stream = socket.get_mut();
        stream.write_all(&[0x81, 0xFF, 0, 0, 0, 0, 0, 0x0F, 0, 0, 0, 0, 0, 0]).await?;
        stream.write_all(&vec![b' '; 900_000]).await?;
        held.push(socket);
    }
    sleep(Duration::from_millis(300)).await;
    let grown = node.resident()? - before > STAYS;
    outcome.control("frames that are not whole yet are seen in memory", grown);
    Ok(())
}
