//! A server behind the node that does everything wrong: clients are told in time, nothing passes for whole, and the next
//! request is answered.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::time::timeout;

use crate::{
    behind::{Behind, Manner},
    context::Context,
    node::Node,
    outcome::{Goal, Outcome},
    peer::{Heard, Peer, Version, question},
    statistics::percentile,
};

/// Seconds that the server may be silent, by the node's setting.
const SILENCE: &str = "2";
/// Seconds in which a client is told, the attempts at the server included.
const TOLD: f64 = 10.0;
/// KiB that may stay of an answer without an end.
const STAYS: f64 = 32_768.0;
const PATIENCE: Duration = Duration::from_secs(60);
const GOOD: Manner = Manner::Once(Duration::from_millis(1));

const WRONG: [(&str, Manner); 9] = [
    ("says nothing", Manner::Silent),
    ("answers 500", Manner::Status(500)),
    ("answers 404", Manner::Status(404)),
    ("speaks no HTTP", Manner::Noise),
    ("streams no JSON", Manner::NoJson),
    ("streams other JSON", Manner::OtherJson),
    ("breaks off", Manner::Breaks),
    ("falls silent", Manner::Stalls),
    ("streams a line without an end", Manner::Endless),
];

pub(crate) async fn run(context: &Context) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    let behind = Behind::start(GOOD).await?;
    let settings = [("ENGINE_URL", behind.url.as_str()), ("ENGINE_SILENCE_SECONDS", SILENCE)];
    let node = Node::start(&context.binary, &settings).await?;
    let before = node.resident()?;
    let (mut whole, mut back, mut took) = (Vec::new(), 0_usize, Vec::new());
    for (what, manner) in WRONG {
        for version in [Version::One, Version::Two] {
            context.show(format!("engine: {what}, {}", version.as_str()));
            behind.set(manner);
            let mut peer = Peer::open(&node, version, Ipv4Addr::LOCALHOST).await?;
            let start = Instant::now();
            let case = || format!("a server that {what}, {}", version.as_str());
            let (passes, _) = passes_for_whole(&mut peer).await.with_context(case)?;
            took.push(start.elapsed().as_secs_f64());
            if passes {
                whole.push(format!("{what}, {}", version.as_str()));
            }
            behind.set(GOOD);
            back = back.saturating_add(usize::from(
                answers_again(&mut peer).await.with_context(|| format!("after {}", case()))?,
            ));
        }
    }
    let asked = WRONG.len().saturating_mul(2);
    outcome.none(format!("of {asked} answers by a server that does it wrong: pass for whole"), whole.len());
    for what in whole {
        outcome.note(format!("Passes for whole: {what}."));
    }
    let goal = Goal::AtMost(context.form.of(TOLD, 2.0 * TOLD));
    outcome.figure("the client is told after, longest", percentile(&took, 1.0), "s", goal);
    outcome.all("sessions that are answered once the server does it right", back, asked);
    let stays = node.resident()? - before;
    outcome.figure("resident memory that stays", stays, "KiB", Goal::AtMost(STAYS));
    behind.set(Manner::Lies);
    let mut peer = Peer::open(&node, Version::Two, Ipv4Addr::LOCALHOST).await?;
    let (passes, _) = passes_for_whole(&mut peer).await?;
    outcome.note(format!(
        "An answer whose counts of tokens cannot be is {}.",
        if passes { "taken, and its counts are not" } else { "refused" }
    ));
    behind.set(GOOD);
    let (seen, _) = passes_for_whole(&mut peer).await?;
    outcome.control("an answer by a server that does it right is seen to be whole", seen);
    node.stop().await?;
    Ok(outcome.and(super::inside::run(context).await?))
}

/// Whether what a client is answered ends as a whole answer does; and how it ends.
pub(super) async fn passes_for_whole(peer: &mut Peer) -> anyhow::Result<(bool, Heard)> {
    peer.say(&question("one two three", 100)).await?;
    let (_, end) = timeout(PATIENCE, peer.rest()).await.context("the client is not told")??;
    let whole = matches!(&end, Heard::End(reason) if reason == "stop" || reason == "length");
    Ok((whole, end))
}

/// Whether the same session gets an answer, once the node has looked after its server.
pub(super) async fn answers_again(peer: &mut Peer) -> anyhow::Result<bool> {
    let patience = Duration::from_secs(20);
    let start = Instant::now();
    while start.elapsed() < patience {
        let (whole, end) = passes_for_whole(peer).await.context("asked again")?;
        match end {
            Heard::End(_) if whole => return Ok(true),
            Heard::Closed | Heard::Goodbye => return Ok(false),
            Heard::End(_) | Heard::Refused(_) | Heard::Words(_) | Heard::Ping => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    Ok(false)
}
