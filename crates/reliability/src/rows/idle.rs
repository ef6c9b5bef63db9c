//! Many encrypted sessions that do nothing: none is dropped, each weighs little, and what they weighed comes back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::sleep,
};

use crate::{
    context::{Context, Form, until},
    node::Node,
    outcome::{Goal, Outcome},
    peer::{Heard, Peer, Version, question, source},
    statistics::float,
    way::Way,
};

/// Handshakes side by side.
const SIDE_BY_SIDE: usize = 16;
/// Sessions from one address: below what one network may open at once.
const OF_EACH: usize = 1000;
/// KiB that an idle session may weigh.
const WEIGHT: f64 = 12.0;
/// KiB that one of as many again may add: what the allocator keeps is for the next ones.
const MORE: f64 = 3.0;
/// What is opened first, so that what comes in once is not counted.
const FIRST: usize = 8;

pub(crate) async fn run(context: &Context) -> anyhow::Result<Outcome> {
    let (two, one) = match context.form {
        // A process has no room for the sockets of both.
        Form::Long => (one_version(context, Version::Two).await?, one_version(context, Version::One).await?),
        Form::Short => {
            tokio::try_join!(one_version(context, Version::Two), one_version(context, Version::One))?
        }
    };
    Ok(two.and(one))
}

/// What every session does: it hears pings until it is told to ask, and ends well or is counted as dropped.
#[derive(Debug, Default)]
struct Counts {
    pings: AtomicUsize,
    dropped: AtomicUsize,
    answered: AtomicUsize,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    Idle,
    Asking,
    Closing,
}

/// The sessions of one version at one node.
struct Field<'a> {
    context: &'a Context,
    node: Arc<Node>,
    version: Version,
    count: usize,
    counts: Arc<Counts>,
    stage: watch::Sender<Stage>,
}

async fn one_version(context: &Context, version: Version) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    let count: usize = context.form.of(10_000, 1_000);
    let most = count.saturating_add(64).to_string();
    let settings =
        [("MAX_SESSIONS", most.as_str()), ("MAX_CONNECTIONS", &most), ("CONVERSATION_GRACE_SECONDS", "0")];
    let node = Arc::new(context.echo(&settings).await?);
    for number in 0..FIRST {
        let mut peer = Peer::open(&node, version, source(number, OF_EACH)).await?;
        peer.ask(&question("warm", 8)).await?;
        // Nobody would answer its pings.
        peer.close().await?;
    }
    let counts = Arc::new(Counts::default());
    let field = Field { context, node, version, count, counts, stage: watch::channel(Stage::Idle).0 };
    let before = field.node.resident()?;
    let mut sessions = field.open_all().await?;
    field.hold(before, &mut outcome).await?;
    field.ask_all(&mut outcome).await?;
    field.control(&mut outcome).await?;
    let held = field.node.resident()?;
    field.close(&mut sessions).await?;
    field.second_round(before, held, &mut outcome).await?;
    let node = Arc::into_inner(field.node).context("somebody still uses the node")?;
    node.stop().await?;
    Ok(outcome)
}

impl Field<'_> {
    fn name(&self) -> &'static str {
        self.version.as_str()
    }

    /// Nothing is asked for a while: nobody is dropped, and what each weighs.
    async fn hold(&self, before: f64, outcome: &mut Outcome) -> anyhow::Result<()> {
        let Self { count, counts, .. } = self;
        let (name, count, seconds) = (self.name(), *count, self.context.form.of(300, 20));
        self.context.show(format!("idle: {count} sessions of {name} hold for {seconds} s"));
        sleep(Duration::from_secs(seconds)).await;
        let dropped = counts.dropped.load(Ordering::Relaxed);
        outcome.none(format!("{name}: sessions dropped of {count}, held for {seconds} s"), dropped);
        let pings = float(counts.pings.load(Ordering::Relaxed)) / float(count);
        let what = format!("{name}: pings heard and answered by each, on average");
        outcome.figure(what, pings, "", Goal::AtLeast(1.0));
        let metric = match self.version {
            Version::One => "fabstir_sessions_active",
            Version::Two => "fabstir_channel_sessions",
        };
        let counted = self.node.metric(metric).await?;
        let all = Goal::AtLeast(float(count));
        outcome.figure(format!("{name}: sessions that the node counts"), counted, "", all);
        let each = (self.node.resident()? - before) / float(count);
        // A debug build's futures are twice as large.
        let weight = Goal::AtMost(self.context.form.of(WEIGHT, 2.0 * WEIGHT));
        outcome.figure(format!("{name}: resident memory of the node for each"), each, "KiB", weight);
        Ok(())
    }

    async fn ask_all(&self, outcome: &mut Outcome) -> anyhow::Result<()> {
        self.context.show(format!("idle: every session of {} asks", self.name()));
        self.stage.send_replace(Stage::Asking);
        let Counts { answered, dropped, .. } = &*self.counts;
        let all = until(Duration::from_secs(600), Duration::from_millis(100), async || {
            Ok(answered.load(Ordering::Relaxed).saturating_add(dropped.load(Ordering::Relaxed)) >= self.count)
        });
        all.await?.context("the sessions do not all answer")?;
        let answered = answered.load(Ordering::Relaxed);
        outcome.all(format!("{}: sessions that answer after that", self.name()), answered, self.count);
        Ok(())
    }

    /// One connection is cut on purpose, and the check must see it.
    async fn control(&self, outcome: &mut Outcome) -> anyhow::Result<()> {
        let way = Way::to(self.node.address, Vec::new()).await?;
        let peer = Peer::open_at(&self.node, way.address, self.version).await?;
        let dropped = || self.counts.dropped.load(Ordering::Relaxed);
        let before = dropped();
        let session = tokio::spawn(idle(peer, Arc::clone(&self.counts), self.stage.subscribe()));
        way.cut_all();
        let _ = session.await;
        let seen = dropped().saturating_sub(before) == 1;
        outcome.control(format!("{}: one connection is cut on purpose", self.name()), seen);
        Ok(())
    }

    async fn close(&self, sessions: &mut JoinSet<()>) -> anyhow::Result<()> {
        self.stage.send_replace(Stage::Closing);
        while sessions.join_next().await.is_some() {}
        let gone = until(Duration::from_secs(60), Duration::from_millis(200), async || {
            // The one that asks.
            Ok(self.node.metric("fabstir_connections").await? <= 1.0)
        });
        gone.await?.context("connections stay open")?;
        Ok(())
    }

    /// What is left of the sessions' memory once they are closed, and whether as many again find room in it.
    async fn second_round(&self, before: f64, held: f64, outcome: &mut Outcome) -> anyhow::Result<()> {
        let (name, each) = (self.name(), |kib: f64| kib / float(self.count));
        let kept = each(self.node.resident()? - before);
        outcome.said(
            format!("{name}: resident memory that the allocator keeps for each, all closed"),
            kept,
            "KiB",
        );
        self.stage.send_replace(Stage::Idle);
        let mut sessions = self.open_all().await?;
        let grown = each(self.node.resident()? - held);
        let what = format!("{name}: what as many sessions again add for each");
        outcome.figure(what, grown, "KiB", Goal::AtMost(MORE));
        self.close(&mut sessions).await
    }

    async fn open_all(&self) -> anyhow::Result<JoinSet<()>> {
        let Self { context, node, version, count, .. } = self;
        let (version, count) = (*version, *count);
        let places = Arc::new(Semaphore::new(SIDE_BY_SIDE));
        let mut opening = JoinSet::new();
        for number in 0..count {
            let (node, places) = (Arc::clone(node), Arc::clone(&places));
            opening.spawn(async move {
                let _place = places.acquire_owned().await?;
                Peer::open(&node, version, source(number, OF_EACH)).await
            });
        }
        let mut sessions = JoinSet::new();
        while let Some(peer) = opening.join_next().await {
            sessions.spawn(idle(peer??, Arc::clone(&self.counts), self.stage.subscribe()));
            if sessions.len().is_multiple_of(100) {
                context.show(format!("idle: {} of {count} sessions of {}", sessions.len(), version.as_str()));
            }
        }
        Ok(sessions)
    }
}

/// The life of a session.
async fn idle(mut peer: Peer, counts: Arc<Counts>, mut stage: watch::Receiver<Stage>) {
    let mut asked = false;
    loop {
        let now = *stage.borrow_and_update();
        if now == Stage::Closing {
            let _ = peer.close().await;
            return;
        }
        if now == Stage::Asking && !std::mem::replace(&mut asked, true) {
            let words = format!("still here {}", getrandom::u32().unwrap_or_default());
            if peer.ask(&question(&words, 16)).await.is_ok_and(|answer| answer == words) {
                counts.answered.fetch_add(1, Ordering::Relaxed);
            } else {
                counts.dropped.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
        let heard = tokio::select! {
            heard = peer.hear() => heard,
            _ = stage.changed() => continue,
        };
        if heard.is_ok_and(|heard| heard == Heard::Ping) {
            counts.pings.fetch_add(1, Ordering::Relaxed);
        } else {
            counts.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
    }
}
