//! The engine inside of the node: its thread hangs, its memory does not suffice.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::engine::{answers_again, passes_for_whole};
use crate::{
    context::{Context, until},
    held::Held,
    node::{Http, Launch, Node},
    outcome::{Goal, Outcome},
    peer::{Heard, Peer, Version},
    statistics::{float, percentile},
};

/// The name of the thread that computes.
const THREAD: &str = "engine-model";
/// The tokens by which the model of these rows ends an answer.
const ENDS: [u32; 2] = [0, 2];
/// Seconds after which a step counts as hung, by the node's setting.
const STEP: &str = "2";
/// Seconds in which clients are told of it.
const TOLD: f64 = 4.0;
/// Milliseconds in which others are answered meanwhile.
const HEALTH: f64 = 50.0;
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);
const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;

pub(super) async fn run(context: &Context) -> anyhow::Result<Outcome> {
    Ok(hangs(context).await?.and(no_room(context).await?))
}

async fn hangs(context: &Context) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    let settings = [
        ("STEP_TIMEOUT_SECONDS", STEP),
        ("ALLOW_DEBUGGING", "true"),
        ("THREADS", "1"),
        ("MAX_SEQUENCES", "4"),
    ];
    let node = context.real(&settings).await?;
    let mut peers =
        [Peer::open(&node, Version::One, HERE).await?, Peer::open(&node, Version::Two, HERE).await?];
    let mut seen = 0_usize;
    for peer in &mut peers {
        seen = seen.saturating_add(usize::from(passes_for_whole(peer).await?.0));
    }
    outcome.control("answers of an engine that nobody holds are seen to be whole", seen == peers.len());
    let rounds = context.form.of(10, 2);
    let (mut told, mut health) = (Vec::new(), Vec::new());
    let (mut whole, mut back) = (0_usize, 0_usize);
    for round in 1..=rounds {
        context.show(format!("engine: its thread stands still, {round} of {rounds}"));
        let Some(held) = begin_and_hold(&node, &mut peers).await? else {
            outcome.note("This user may not trace other processes: the engine that hangs is left out.");
            return stop(node, outcome).await;
        };
        let start = Instant::now();
        let mut http = Http::connect(node.address).await?;
        http.get("/health").await?;
        health.push(start.elapsed().as_secs_f64() * 1000.0);
        for peer in &mut peers {
            whole = whole.saturating_add(usize::from(ends_whole(peer).await?));
            told.push(start.elapsed().as_secs_f64());
        }
        for peer in &mut peers {
            back = back.saturating_add(usize::from(answers_again(peer).await?));
        }
        drop(held);
    }
    let asked = rounds * peers.len();
    outcome.none(format!("of {asked} answers by an engine that hangs: pass for whole"), whole);
    outcome.figure(
        format!("clients are told after, STEP_TIMEOUT_SECONDS={STEP}, longest"),
        percentile(&told, 1.0),
        "s",
        Goal::AtMost(context.form.time(TOLD)),
    );
    let goal = Goal::AtMost(context.form.time(HEALTH));
    outcome.figure("GET /health while it hangs, longest", percentile(&health, 1.0), "ms", goal);
    outcome.all(
        "the same sessions are answered by the next engine, the first one still hanging",
        back,
        asked,
    );
    let restarts = node.metric("fabstir_engine_restarts_total").await?;
    outcome.figure("engines that were started for it", restarts, "", Goal::Exactly(float(rounds)));
    let fewer = async || Ok(node.threads_named(THREAD)? == 1);
    let gone = until(PATIENCE, PAUSE, fewer).await?;
    outcome.all("let go, the threads that hung end, but for the one at work", usize::from(gone.is_some()), 1);
    stop(node, outcome).await
}

/// Whether the answer at work ends as a whole answer does.
async fn ends_whole(peer: &mut Peer) -> anyhow::Result<bool> {
    let (_, end) = timeout(PATIENCE, peer.rest())
        .await
        .context("the client of an engine that is held is not told")??;
    Ok(matches!(&end, Heard::End(reason) if reason == "stop" || reason == "length"))
}

async fn stop(node: Node, outcome: Outcome) -> anyhow::Result<Outcome> {
    node.stop().await?;
    Ok(outcome)
}

/// Holds the engine while it answers everybody; `None` where that is not allowed.
async fn begin_and_hold(node: &Node, peers: &mut [Peer]) -> anyhow::Result<Option<Held>> {
    for peer in &mut *peers {
        peer.say(&endless()).await?;
        // Its first words: the engine is at work on it.
        while !matches!(timeout(PATIENCE, peer.hear()).await.context("no first word")??, Heard::Words(_)) {}
    }
    Ok(Held::thread(node.pid(), THREAD).ok())
}

/// A question whose answer goes on: one that ended before the thread is held would leave an engine that nothing is asked of, and
/// such a one does not hang.
fn endless() -> Value {
    let never: BTreeMap<_, _> = ENDS.iter().map(|token| (token.to_string(), -100)).collect();
    json!({
        "messages": [{"role": "user", "content": "Count from one to a thousand in words."}],
        "max_tokens": 1000,
        "temperature": 0,
        "logit_bias": never,
    })
}

/// Memory ends at several places of the start: each time it ends with a sentence.
async fn no_room(context: &Context) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    let model = context.model.as_deref().context("this row needs a model")?.to_string_lossy();
    let settings = [
        ("MODEL_PATH", model.as_ref()),
        ("MAX_SEQUENCES", "16"),
        ("CONTEXT_TOKENS", "8192"),
        ("THREADS", "1"),
    ];
    let megabytes = [300_u64, 500, 700, 1000, 1500, 2000];
    let (mut clear, mut ended) = (0_usize, 0_usize);
    for most in megabytes {
        context.show(format!("engine: {most} MB of address space"));
        let mut launch = Launch::new(&settings)?;
        launch.wrapper = vec!["prlimit".into(), format!("--as={}", most.saturating_mul(1_000_000))];
        let (mut child, said) = launch.spawn(&context.binary)?;
        let status = timeout(PATIENCE, child.wait()).await.context("the node does not give up")??;
        ended = ended.saturating_add(usize::from(status.code() == Some(1)));
        let text = said.whole().await?;
        // Both streams are read side by side: the last line read need not be the last one said.
        let sentence = text.lines().find(|line| line.starts_with("Error: "));
        match sentence {
            Some(_) if !text.contains("panicked") => clear = clear.saturating_add(1),
            _ => outcome.note(format!("{most} MB, {status}:\n{text}")),
        }
    }
    outcome.all("memory that does not suffice ends the start, of several sizes", ended, megabytes.len());
    outcome.all("and a sentence says so", clear, megabytes.len());
    let node = Node::start(&context.binary, &settings).await?;
    outcome.control("with room the same node starts", node.stop().await.is_ok());
    Ok(outcome)
}
