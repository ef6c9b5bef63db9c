//! The node's end in the middle of answers: by `kill -9`, after which another one starts at once in its place, and by
//! SIGTERM, which lets what runs be said to its end.

use std::{
    net::Ipv4Addr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use fabstir_client::{Config, Error, Event, Request, Session, Turn, anonymous, random_key, v1};
use tokio::time::timeout;

use crate::{
    behind::{Behind, Manner},
    context::Context,
    node::{Http, Node},
    outcome::{Goal, Outcome},
    peer::{Heard, Peer, Version, question},
    statistics::{milliseconds, percentile},
};

const PATIENCE: Duration = Duration::from_secs(30);
/// Between two words of an answer.
const PAUSE: Duration = Duration::from_millis(10);
/// Words of an answer that SIGTERM meets: a second of it.
const WORDS: usize = 100;
/// Milliseconds in which a node must listen again: what it does between is read its settings.
const AGAIN: f64 = 1000.0;

pub(crate) async fn run(context: &Context) -> anyhow::Result<Outcome> {
    let killed = killed(context).await?;
    Ok(killed.and(terminated(context).await?))
}

/// What the three clients of a node that was killed were told.
#[derive(Debug, Default)]
struct Told {
    times: usize,
    /// An answer that passed for whole, or an error that is another.
    wrong: Vec<String>,
    after: Vec<f64>,
    again: Vec<f64>,
    goes_on: usize,
    left: usize,
}

async fn killed(context: &Context) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    let times: usize = context.form.of(50, 4);
    let behind = Behind::start(Manner::Drip(PAUSE)).await?;
    let mut told = Told { times, ..Told::default() };
    for number in 0..times {
        context.show(format!("kill: {number} of {times}"));
        once(context, &behind, &mut told).await?;
    }
    let clients = times.saturating_mul(3);
    outcome.none(
        format!("of {clients} answers that kill -9 met: whole, or without a clear error"),
        told.wrong.len(),
    );
    for wrong in told.wrong.iter().take(3) {
        outcome.note(wrong.clone());
    }
    let again = Goal::AtMost(context.form.time(AGAIN));
    outcome.figure(
        "the next node listens on the same port after, longest",
        percentile(&told.again, 1.0),
        "ms",
        again,
    );
    outcome.said("clients are told after, longest", percentile(&told.after, 1.0), "ms");
    outcome.all("sessions of version 2 that go on with the next node", told.goes_on, told.times);
    outcome.none("files that a killed node leaves behind", told.left);
    outcome.control("an answer that nobody cut, by the same check", !is_clear(&Ok("whole".into())));
    Ok(outcome)
}

async fn once(context: &Context, behind: &Behind, told: &mut Told) -> anyhow::Result<()> {
    let mut node = Node::start(&context.binary, &[("ENGINE_URL", behind.url.as_str())]).await?;
    let files = files(node.folder.path())?;
    let config =
        || Config { resume_for: PATIENCE, ..Config::new(node.url(), node.key.address(), anonymous()) };
    let stateless = Session::connect(config()).await?;
    let keeping = Session::connect(config()).await?;
    let mut old = v1::Client::connect(v1::Config::new(node.url(), node.key), random_key()).await?;
    let turn = || Turn { role: "user", content: "word ".repeat(20) };
    let mut first = stateless.ask(&Request::messages(vec![turn()])).await?;
    let mut second = keeping.ask(&Request::prompt("word ".repeat(20))).await?;
    let mut third = old.ask(&Request::messages(vec![turn()])).await?;
    for _ in 0..3 {
        first.next().await?.context("no words")?;
        second.next().await?.context("no words")?;
        third.next().await?.context("no words")?;
    }
    let at = Instant::now();
    node.signal("KILL").await?;
    node.ended().await?;
    let next = node.successor(&[("ENGINE", "echo")])?.start(&context.binary).await?;
    told.again.push(milliseconds(at.elapsed()));
    let rest = async {
        tokio::join!(
            rest_of(async || first.next().await),
            rest_of(async || second.next().await),
            rest_of(async || third.next().await)
        )
    };
    let (first, second, third) = timeout(PATIENCE, rest).await.context("a client is not told")?;
    told.after.push(milliseconds(at.elapsed()));
    for (who, heard) in [("stateless", first), ("keeping", second), ("version 1", third)] {
        if !is_clear(&heard) {
            told.wrong.push(format!("{who}: {heard:?}"));
        }
    }
    // Nothing was kept for it at the node, so nothing is lost with the node: it asks again.
    let answer = stateless.ask(&Request::messages(vec![turn()])).await;
    if let Ok(answer) = answer
        && answer.text().await.is_ok()
    {
        told.goes_on = told.goes_on.saturating_add(1);
    }
    told.left = told.left.saturating_add(self::files(next.folder.path())?.abs_diff(files));
    drop((stateless, keeping));
    next.stop().await?;
    Ok(())
}

/// The rest of an answer, or why there is none.
async fn rest_of(mut next: impl AsyncFnMut() -> Result<Option<Event>, Error>) -> Result<String, Error> {
    let mut words = String::new();
    loop {
        match next().await? {
            Some(Event::Text(more)) => words.push_str(more.as_str()),
            Some(Event::Object(_)) => {}
            Some(Event::End(_)) | None => return Ok(words),
        }
    }
}

/// Whether a client knows that its answer is not whole.
fn is_clear(heard: &Result<String, Error>) -> bool {
    matches!(heard, Err(Error::Truncated | Error::SessionLost | Error::Closed))
}

fn files(folder: &Path) -> anyhow::Result<usize> {
    let mut count = 0_usize;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let inside = if entry.file_type()?.is_dir() { files(&entry.path())? } else { 1 };
        count = count.saturating_add(inside);
    }
    Ok(count)
}

async fn terminated(context: &Context) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    let times: usize = context.form.of(20, 2);
    let (mut whole, mut goodbyes, mut refused, mut late) = (0_usize, 0_usize, 0_usize, Vec::new());
    for number in 0..times {
        context.show(format!("kill: SIGTERM, {number} of {times}"));
        let heard = terminate(context, "30").await?;
        whole = whole.saturating_add(heard.whole);
        goodbyes = goodbyes.saturating_add(heard.goodbyes);
        refused = refused.saturating_add(usize::from(heard.refuses));
        late.push(heard.lasts);
    }
    let answers = times.saturating_mul(2);
    outcome.all(format!("answers that SIGTERM met and that came whole, of {answers}"), whole, answers);
    outcome.all("clients that heard a goodbye", goodbyes, answers);
    outcome.all("nodes that opened no session meanwhile, were not ready, and ended with 0", refused, times);
    outcome.said("from SIGTERM to the end, longest", percentile(&late, 1.0), "ms");
    let cut = terminate(context, "0").await?;
    outcome.control("DRAIN_SECONDS=0: the same answers do not come whole", cut.whole == 0);
    Ok(outcome)
}

/// What SIGTERM comes to for an answer of each version.
struct Drained {
    whole: usize,
    goodbyes: usize,
    refuses: bool,
    lasts: f64,
}

/// Whether who comes now is told that the node drains: it is not ready, and opens no session.
async fn says_no(node: &Node) -> bool {
    let ready = async { Http::connect(node.address).await?.get("/ready").await };
    let unready = ready.await.is_ok_and(|(status, _)| status == 503);
    unready && Peer::open(node, Version::Two, Ipv4Addr::LOCALHOST).await.is_err()
}

async fn terminate(context: &Context, drain: &str) -> anyhow::Result<Drained> {
    let behind = Behind::start(Manner::Once(PAUSE)).await?;
    let settings = [("ENGINE_URL", behind.url.as_str()), ("DRAIN_SECONDS", drain)];
    let mut node = Node::start(&context.binary, &settings).await?;
    let words = vec!["word"; WORDS].join(" ");
    let mut peers = Vec::new();
    for version in [Version::One, Version::Two] {
        let mut peer = Peer::open(&node, version, Ipv4Addr::LOCALHOST).await?;
        peer.say(&question(&words, 10_000)).await?;
        while !matches!(peer.hear().await?, Heard::Words(words) if !words.is_empty()) {}
        peers.push(peer);
    }
    let at = Instant::now();
    node.signal("TERM").await?;
    let draining =
        crate::context::until(PATIENCE, Duration::from_millis(5), async || Ok(node.said().has("draining")));
    draining.await?.context("the node does not say that it drains")?;
    let refuses = says_no(&node).await;
    let mut drained = Drained { whole: 0, goodbyes: 0, refuses, lasts: 0.0 };
    for mut peer in peers {
        let (rest, end) = peer.rest().await?;
        let came = rest.split_whitespace().count().saturating_add(1);
        let whole = end == Heard::End("stop".into()) && came >= WORDS;
        drained.whole = drained.whole.saturating_add(usize::from(whole));
        let goodbye = matches!(end, Heard::End(_)) && peer.rest().await?.1 == Heard::Goodbye;
        drained.goodbyes = drained.goodbyes.saturating_add(usize::from(goodbye));
    }
    let (status, _) = node.ended().await?;
    drained.lasts = milliseconds(at.elapsed());
    drained.refuses &= status.success();
    Ok(drained)
}
