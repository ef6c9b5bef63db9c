//! Clients that leave: while they wait, while their prompt is read, while they are answered, at the last token. Their place
//! is free at once, and nobody hears what was meant for somebody else.

use std::{
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::time::sleep;

use crate::{
    behind::{Behind, Manner},
    context::{Context, Form},
    node::{Http, Node},
    outcome::{Goal, Outcome},
    peer::{Heard, Peer, Version, question},
    statistics::{milliseconds, percentile},
};

const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at the node: who asks without a pause takes a core from what is measured.
const LOOK: Duration = Duration::from_millis(2);
/// After how long a lost connection of version 2 ends what it was asked.
const GRACE: f64 = 15_000.0;

/// Where an answer is when its client leaves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    Waiting,
    Prefill,
    Decode,
    LastToken,
}

impl Phase {
    fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "while it waits",
            Self::Prefill => "in prefill",
            Self::Decode => "in decode",
            Self::LastToken => "at the last token",
        }
    }

    /// Milliseconds until the place must be free.
    fn goal(self) -> f64 {
        match self {
            Self::Prefill => 250.0,
            Self::Waiting | Self::Decode | Self::LastToken => 50.0,
        }
    }

    fn metric(self) -> &'static str {
        match self {
            Self::Waiting => "fabstir_requests_waiting",
            Self::Prefill | Self::Decode | Self::LastToken => "fabstir_requests_running",
        }
    }
}

/// How a client leaves. A lost connection of version 2 is another matter: its answer goes on for a while.
#[derive(Clone, Copy, Debug)]
enum Leave {
    DropsVersion1,
    CancelsVersion2,
    SaysGoodbye,
}

impl Leave {
    const ALL: [Self; 3] = [Self::DropsVersion1, Self::CancelsVersion2, Self::SaysGoodbye];

    fn version(self) -> Version {
        match self {
            Self::DropsVersion1 => Version::One,
            Self::CancelsVersion2 | Self::SaysGoodbye => Version::Two,
        }
    }

    async fn by(self, mut peer: Peer) -> anyhow::Result<Option<Peer>> {
        match self {
            Self::DropsVersion1 => return Ok(None),
            Self::CancelsVersion2 => peer.cancel().await?,
            Self::SaysGoodbye => peer.goodbye().await?,
        }
        Ok(Some(peer))
    }
}

pub(crate) async fn run(context: &Context) -> anyhow::Result<Outcome> {
    if context.model.is_none() {
        return Ok(Outcome::left_out("there is no model"));
    }
    // One after the other where times are measured in earnest.
    let (with_model, words, lost) = match context.form {
        Form::Long => (with_model(context).await?, others_words(context).await?, lost(context).await?),
        Form::Short => tokio::try_join!(with_model(context), others_words(context), lost(context))?,
    };
    Ok(with_model.and(words).and(lost))
}

async fn with_model(context: &Context) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut rng = StdRng::seed_from_u64(1);
    // A step cannot be broken off: who leaves in prefill is gone once the step that runs has ended.
    let node = context.real(&[("MAX_SEQUENCES", "1")]).await?;
    for phase in [Phase::Decode, Phase::Prefill, Phase::LastToken, Phase::Waiting] {
        let goal = Goal::AtMost(context.form.time(phase.goal()));
        leave_in(context, &node, phase, goal, &mut rng, &mut outcome).await?;
    }
    let stays = stays(&node).await?;
    outcome.control("a client that stays holds its place: 'free at once' is not said of it", stays);
    node.stop().await?;
    Ok(outcome)
}

async fn leave_in(
    context: &Context,
    node: &Node,
    phase: Phase,
    goal: Goal,
    rng: &mut StdRng,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    let times: usize = context.form.of(84, 5);
    let mut took = Vec::new();
    for number in 0..times {
        context.show(format!("disconnect {}: {number} of {times}", phase.as_str()));
        for leave in Leave::ALL {
            took.push(milliseconds(once(node, phase, leave, rng).await?));
        }
    }
    let name = phase.as_str();
    outcome.said(
        format!("client leaves {name}: place free after, p50 of {}", took.len()),
        percentile(&took, 0.5),
        "ms",
    );
    outcome.figure(
        format!("client leaves {name}: place free after, p99"),
        percentile(&took, 0.99),
        "ms",
        goal,
    );
    Ok(())
}

/// A client asks, comes to its phase, and leaves; how long until its place is free.
async fn once(node: &Node, phase: Phase, leave: Leave, rng: &mut StdRng) -> anyhow::Result<Duration> {
    let mut http = Http::connect(node.address).await?;
    let before_it = match phase {
        Phase::Waiting => Some(running(node, Version::One, 1000).await?),
        Phase::Prefill | Phase::Decode | Phase::LastToken => None,
    };
    let mut peer = Peer::open(node, leave.version(), HERE).await?;
    match phase {
        Phase::Waiting => {
            peer.say(&question("Tell me of the sea.", 16)).await?;
            becomes(&mut http, phase.metric(), 1.0).await?;
        }
        Phase::Prefill => {
            // Words that no other prompt begins with, so that all of them have to be read.
            let long = format!("{} {}", rng.random::<u64>(), "the sea and the wind ".repeat(300));
            peer.say(&question(&long, 16)).await?;
            becomes(&mut http, phase.metric(), 1.0).await?;
            sleep(Duration::from_millis(rng.random_range(0..200))).await;
        }
        Phase::Decode => {
            peer.say(&question("Tell me a long story.", 1000)).await?;
            hear_words(&mut peer, 3).await?;
            sleep(Duration::from_millis(rng.random_range(0..30))).await;
        }
        Phase::LastToken => {
            peer.say(&question("Tell me a long story.", 4)).await?;
            hear_words(&mut peer, 3).await?;
        }
    }
    let left = Instant::now();
    let peer = leave.by(peer).await?;
    becomes(&mut http, phase.metric(), 0.0).await?;
    let took = left.elapsed();
    drop((peer, before_it));
    becomes(&mut http, "fabstir_requests_running", 0.0).await?;
    Ok(took)
}

/// A client whose answer has begun.
async fn running(node: &Node, version: Version, tokens: u32) -> anyhow::Result<Peer> {
    let mut peer = Peer::open(node, version, HERE).await?;
    peer.say(&question("Tell me a very long story.", tokens)).await?;
    hear_words(&mut peer, 1).await?;
    Ok(peer)
}

async fn hear_words(peer: &mut Peer, pieces: usize) -> anyhow::Result<()> {
    let mut heard = 0_usize;
    while heard < pieces {
        match peer.hear().await? {
            // Where a request waits, version 1 says nothing, in words.
            Heard::Words(words) => heard = heard.saturating_add(usize::from(!words.is_empty())),
            Heard::Ping => {}
            other @ (Heard::End(_) | Heard::Refused(_) | Heard::Goodbye | Heard::Closed) => {
                anyhow::bail!("no words but {other:?}")
            }
        }
    }
    Ok(())
}

async fn becomes(http: &mut Http, metric: &str, value: f64) -> anyhow::Result<()> {
    let start = Instant::now();
    while (http.metric(metric).await? - value).abs() > 0.5 {
        ensure!(start.elapsed() < PATIENCE, "{metric} does not become {value}");
        sleep(LOOK).await;
    }
    Ok(())
}

/// The control: with nobody leaving, the place is not free.
async fn stays(node: &Node) -> anyhow::Result<bool> {
    let peer = running(node, Version::Two, 1000).await?;
    sleep(Duration::from_millis(250)).await;
    let held = node.metric(Phase::Decode.metric()).await?;
    peer.close().await?;
    Ok(held > 0.5)
}

/// Clients ask side by side, each with words of its own, and half of them leave in the middle: who stays hears their own
/// words alone.
async fn others_words(context: &Context) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    let behind = Behind::start(Manner::Drip(Duration::from_millis(1))).await?;
    let settings = [("ENGINE_URL", behind.url.as_str()), ("MAX_SEQUENCES", "4")];
    let node = Arc::new(Node::start(&context.binary, &settings).await?);
    let clients: usize = context.form.of(400, 40);
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..clients {
        let node = Arc::clone(&node);
        tasks.spawn(async move { one_of_many(&node, number).await });
    }
    let mut strange = 0_usize;
    let mut pieces = 0_usize;
    while let Some(heard) = tasks.join_next().await {
        let (number, words) = heard??;
        pieces = pieces.saturating_add(words.split_whitespace().count());
        strange = strange.saturating_add(usize::from(has_strange_words(&words, number)));
    }
    outcome.none(
        format!("{clients} clients side by side, half of them leaving: heard another's words"),
        strange,
    );
    outcome.figure("words that were looked at", crate::statistics::float(pieces), "", Goal::AtLeast(100.0));
    outcome.control("a word of another client's in an answer", has_strange_words("canary7 canary8", 7));
    Arc::into_inner(node).context("somebody still uses the node")?.stop().await?;
    Ok(outcome)
}

async fn one_of_many(node: &Node, number: usize) -> anyhow::Result<(usize, String)> {
    let version = if number.is_multiple_of(2) { Version::One } else { Version::Two };
    let mut peer = Peer::open(node, version, HERE).await?;
    peer.say(&question(&format!("canary{number}"), 30)).await?;
    let mut words = String::new();
    // Of each four, two leave: one of each version.
    let leaves = number % 4 < 2;
    while let Heard::Words(more) = peer.hear().await? {
        words.push_str(&more);
        if leaves && words.len() > 60 {
            return Ok((number, words));
        }
        // What is dripped has no end of its own.
        if words.len() > 300 {
            peer.close().await?;
            break;
        }
    }
    Ok((number, words))
}

fn has_strange_words(words: &str, number: usize) -> bool {
    let own = format!("canary{number}");
    // The last may be cut.
    words.split_whitespace().any(|word| word != own && !own.starts_with(word))
}

/// Version 2 loses its connection: what was asked goes on for the grace, and no longer.
async fn lost(context: &Context) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    let behind = Behind::start(Manner::Drip(Duration::from_millis(20))).await?;
    let settings = [("ENGINE_URL", behind.url.as_str())];
    let node = Node::start(&context.binary, &settings).await?;
    let clients: usize = context.form.of(50, 10);
    let mut peers = Vec::new();
    for number in 0..clients {
        let mut peer = Peer::open(&node, Version::Two, HERE).await?;
        peer.say(&question(&format!("lost{number}"), 100_000)).await?;
        hear_words(&mut peer, 1).await?;
        peers.push(peer);
    }
    context.show("disconnect: the grace of lost connections");
    let left = Instant::now();
    drop(peers);
    let mut first = None;
    while behind.open() > 0 {
        if behind.open() < clients {
            first.get_or_insert_with(|| left.elapsed());
        }
        ensure!(left.elapsed() < PATIENCE, "what was asked goes on after the grace");
        sleep(Duration::from_millis(5)).await;
    }
    let last = milliseconds(left.elapsed());
    let first = first.map_or(last, milliseconds);
    outcome.figure(
        format!("{clients} lost connections of version 2: the first place is free after"),
        first,
        "ms",
        Goal::AtLeast(GRACE - 500.0),
    );
    outcome.figure(
        "the last place is free after",
        last,
        "ms",
        Goal::AtMost(GRACE + context.form.time(250.0)),
    );
    node.stop().await?;
    Ok(outcome)
}
