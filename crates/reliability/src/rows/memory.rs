//! Keys are in the node's memory as long as their session, and not a moment longer; and nothing that was said is in what
//! the node says.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::Context as _;
use futures_util::SinkExt as _;
use tokio_tungstenite::tungstenite::Message;

use crate::{
    behind::{Behind, Manner},
    context::{Context, until},
    node::Node,
    outcome::Outcome,
    peer::{Heard, Peer, Version, question},
    statistics::float,
};

const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(200);
const CANARY: &str = "canary-5b17-green-heron";
/// Seconds that an idle session lasts, where it is to expire.
const SHORT_LIFE: &str = "3";

/// How a session ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Close,
    Error,
    Expiry,
    Drain,
}

impl End {
    const ALL: [Self; 4] = [Self::Close, Self::Error, Self::Expiry, Self::Drain];

    fn as_str(self) -> &'static str {
        match self {
            Self::Close => "closed",
            Self::Error => "after a frame that does not open",
            Self::Expiry => "expired",
            Self::Drain => "drained",
        }
    }
}

pub(crate) async fn run(context: &Context) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    for version in [Version::One, Version::Two] {
        for end in End::ALL {
            context.show(format!("memory: {} {}", version.as_str(), end.as_str()));
            keys(context, version, end, &mut outcome).await?;
        }
    }
    many(context, Version::One, &mut outcome).await?;
    many(context, Version::Two, &mut outcome).await?;
    rekeyed(context, &mut outcome).await?;
    words(context, &mut outcome).await?;
    Ok(outcome)
}

/// A secret in the forms in which it could be found.
fn forms(secret: &[u8; 32]) -> Vec<Vec<u8>> {
    let hex = const_hex::encode(secret).into_bytes();
    let halves = |bytes: &[u8]| bytes.chunks(bytes.len() / 2).map(<[u8]>::to_vec).collect::<Vec<_>>();
    [vec![secret.to_vec(), hex.clone()], halves(secret), halves(&hex)].concat()
}

/// Which of the secrets are in the node's memory.
fn found(node: &Node, secrets: &[(&'static str, [u8; 32])]) -> anyhow::Result<Vec<&'static str>> {
    let needles: Vec<Vec<u8>> = secrets.iter().flat_map(|(_, secret)| forms(secret)).collect();
    let counts = node.find_in_memory(&needles)?;
    let of_each = counts.chunks(counts.len().checked_div(secrets.len()).unwrap_or(0).max(1));
    let seen = secrets.iter().zip(of_each).filter(|(_, counts)| counts.iter().any(|count| *count > 0));
    Ok(seen.map(|((what, _), _)| *what).collect())
}

/// Of many sessions at once: what is left now and then, on the stack of whichever thread, is left of one of them.
async fn many(context: &Context, version: Version, outcome: &mut Outcome) -> anyhow::Result<()> {
    const SESSIONS: usize = 48;
    let name = version.as_str();
    context.show(format!("memory: many sessions of {name}, closed"));
    let node = context.echo(&[]).await?;
    let opening = (0..SESSIONS).map(|_| Peer::open(&node, version, Ipv4Addr::LOCALHOST));
    let mut peers = futures_util::future::try_join_all(opening).await?;
    for peer in &mut peers {
        peer.ask(&question("one two", 8)).await?;
    }
    let secrets: Vec<_> = peers.iter().flat_map(Peer::secrets).collect();
    let live = found(&node, &secrets)?.len();
    let seen = live == secrets.len();
    outcome.control(format!("many sessions of {name}: while they live their secrets are found"), seen);
    for peer in peers {
        peer.close().await?;
    }
    let gone = until(PATIENCE, PAUSE, async || Ok(found(&node, &secrets)?.is_empty())).await?;
    let left = if gone.is_some() { Vec::new() } else { found(&node, &secrets)? };
    let what =
        format!("{SESSIONS} sessions of {name}, closed: of {} secrets in memory afterwards", secrets.len());
    outcome.none(what, left.len());
    node.stop().await?;
    Ok(())
}

async fn keys(context: &Context, version: Version, end: End, outcome: &mut Outcome) -> anyhow::Result<()> {
    let behind = Behind::start(Manner::Once(Duration::from_millis(50))).await?;
    let short = [("SESSION_KEY_TTL_SECONDS", SHORT_LIFE), ("ENGINE_URL", behind.url.as_str())];
    let settings = match end {
        End::Expiry => &short[..],
        End::Close | End::Error | End::Drain => short.get(1..).unwrap_or_default(),
    };
    let node = Node::start(&context.binary, settings).await?;
    let mut peer = Peer::open(&node, version, Ipv4Addr::LOCALHOST).await?;
    peer.ask(&question("one two", 8)).await?;
    let (mut secrets, mut tickets) = (peer.secrets(), Vec::new());
    if matches!(end, End::Error) {
        // What broke was the connection: the session, and what resumes it, is its owner's still.
        tickets = secrets.extract_if(.., |(what, _)| what.starts_with("ticket")).collect();
    }
    let name = format!("{}, {}", version.as_str(), end.as_str());
    let live = found(&node, &secrets)?.len() == secrets.len();
    outcome.control(format!("{name}: while the session lives its secrets are found"), live);
    // Somebody else, whose answer keeps a node that drains.
    let mut other = Peer::open(&node, Version::Two, Ipv4Addr::LOCALHOST).await?;
    let rest = match end {
        End::Close => {
            peer.close().await?;
            None
        }
        End::Error => Some(break_it(peer, version).await?),
        End::Expiry => Some(peer),
        End::Drain => {
            other.say(&question(&"word ".repeat(200), 1000)).await?;
            while !matches!(other.hear().await?, Heard::Words(_)) {}
            node.signal("TERM").await?;
            Some(peer)
        }
    };
    let gone = until(PATIENCE, PAUSE, async || Ok(found(&node, &secrets)?.is_empty())).await?;
    let left = if gone.is_some() { Vec::new() } else { found(&node, &secrets)? };
    outcome.none(format!("{name}: of {} secrets in memory afterwards", secrets.len()), left.len());
    if !left.is_empty() {
        outcome.note(format!("{name}: left are {}.", left.join(", ")));
    }
    if !tickets.is_empty() {
        let stays = float(found(&node, &tickets)?.len());
        outcome.said(format!("{name}: the ticket, with which its owner resumes, stays"), stays, "");
    }
    drop((rest, other));
    if matches!(end, End::Drain) {
        node.signal("TERM").await?;
        let mut node = node;
        node.ended().await?;
        return Ok(());
    }
    node.stop().await?;
    Ok(())
}

/// Sends what does not open, until the node has had enough.
async fn break_it(mut peer: Peer, version: Version) -> anyhow::Result<Peer> {
    match version {
        Version::Two => {
            let record = [vec![2, 6], vec![0xAA; 64]].concat();
            peer.socket().send(Message::binary(record)).await?;
        }
        // Sixteen that do not open, in a row; the first has a number that is spent.
        Version::One => {
            let frames = peer.messages_that_do_not_open(20);
            for frame in frames {
                // The last ones may meet a closed door.
                let _ = peer.socket().send(Message::text(frame)).await;
            }
        }
    }
    while !matches!(peer.hear().await?, Heard::Closed | Heard::Goodbye) {}
    Ok(peer)
}

/// Version 2 makes new keys with each answer: the ones before are gone while the session goes on.
async fn rekeyed(context: &Context, outcome: &mut Outcome) -> anyhow::Result<()> {
    let node = context.echo(&[]).await?;
    let mut peer = Peer::open(&node, Version::Two, Ipv4Addr::LOCALHOST).await?;
    let before: Vec<_> = peer.secrets().into_iter().filter(|(what, _)| what.starts_with("key ")).collect();
    peer.ask(&question("one two", 8)).await?;
    let gone = until(PATIENCE, PAUSE, async || Ok(found(&node, &before)?.is_empty())).await?;
    outcome.none(
        "version 2: keys of before the last answer in memory, the session living",
        usize::from(gone.is_none()),
    );
    let after: Vec<_> = peer.secrets().into_iter().filter(|(what, _)| what.starts_with("key ")).collect();
    outcome.control("the keys of after it are found", found(&node, &after)?.len() == after.len());
    peer.close().await?;
    node.stop().await?;
    Ok(())
}

/// What is left of words in memory, and that none is in the log at its most talkative.
async fn words(context: &Context, outcome: &mut Outcome) -> anyhow::Result<()> {
    context.show("memory: what was said");
    let node = context.echo(&[("RUST_LOG", "trace")]).await?;
    let mut secrets = vec![CANARY.to_owned(), node.secret.clone()];
    for version in [Version::One, Version::Two] {
        let mut peer = Peer::open(&node, version, Ipv4Addr::LOCALHOST).await?;
        peer.ask(&question(CANARY, 8)).await?;
        // And what is refused, with the words in it.
        peer.say_bytes(format!("{{\"prompt\":\"{CANARY}\",\"stop\":{CANARY}").as_bytes()).await?;
        peer.rest().await?;
        secrets.extend(peer.secrets().into_iter().map(|(_, secret)| const_hex::encode(secret)));
        peer.close().await?;
    }
    let needles = [CANARY.as_bytes().to_vec()];
    let gone = until(Duration::from_secs(5), PAUSE, async || {
        Ok(node.find_in_memory(&needles)?.iter().sum::<usize>() == 0)
    });
    gone.await?;
    let left: usize = node.find_in_memory(&needles)?.iter().sum();
    outcome.said("places in memory where a prompt's words are, its sessions closed", float(left), "");
    let log = node.stop().await?;
    let told = secrets.iter().filter(|secret| log.contains(secret.as_str())).count();
    outcome.none(format!("of {} secrets and prompts in the log at trace", secrets.len()), told);
    let lines = log.contains("TRACE") && log.contains("Session key stored for session");
    outcome.control("what is in the log is found there", lines);
    log.lines().next().context("the log is empty").map(|_| ())
}
