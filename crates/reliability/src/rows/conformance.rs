//! WebSocket by the letter, judged by somebody else's suite (Autobahn's cases); and what no letter foresees.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    time::timeout,
};

use crate::{
    bombs::{Bomb, bombs},
    context::Context,
    outcome::{Goal, Outcome},
    peer::{Peer, Version, question},
    statistics::{float, milliseconds, percentile},
};

/// Autobahn's cases but those of compression, which is never agreed to.
const CASES: usize = 301;
/// Invalid UTF-8 may be noticed at the end of a message instead of at once.
const MAY_BE_LATE: [&str; 2] = ["6.4.3", "6.4.4"];
const PATIENCE: Duration = Duration::from_secs(10);
/// KiB that may stay after all bombs.
const STAYS: f64 = 16_384.0;

pub(crate) async fn run(context: &Context) -> anyhow::Result<Outcome> {
    let outcome = wicked(context).await?;
    Ok(outcome.and(letter(context).await?))
}

/// How one case ended.
#[derive(Clone, Debug, Deserialize)]
struct Case {
    behavior: String,
    #[serde(rename = "behaviorClose")]
    closing: String,
}

impl Case {
    fn is_kept(&self, name: &str) -> bool {
        let fine = |word: &str| word == "OK" || word == "INFORMATIONAL";
        let late = self.behavior == "NON-STRICT" && MAY_BE_LATE.contains(&name);
        (fine(&self.behavior) || late) && fine(&self.closing)
    }
}

async fn letter(context: &Context) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    let (Some(server), Some(suite)) = (&context.echo_server, &context.conformance) else {
        outcome.note("The conformance suite or the server that echoes is not there: its cases are left out.");
        return Ok(outcome);
    };
    context.show("conformance: Autobahn's cases");
    let cases = judged(server, &[], suite).await?;
    let kept = cases.iter().filter(|(name, case)| case.is_kept(name)).count();
    outcome.all(
        format!("Autobahn's cases without compression that are kept, of {}", cases.len()),
        kept,
        CASES,
    );
    let late = cases.values().filter(|case| case.behavior == "NON-STRICT").count();
    outcome.figure("of them late to notice invalid UTF-8", float(late), "", Goal::AtMost(2.0));
    let rude = judged(server, &["rude"], suite).await?;
    let broken = rude.iter().filter(|(name, case)| !case.is_kept(name)).count();
    outcome.control("a server that answers no Close frame, by the same suite", broken > 0);
    Ok(outcome)
}

/// The verdicts of the suite on a server.
async fn judged(server: &Path, arguments: &[&str], suite: &Path) -> anyhow::Result<BTreeMap<String, Case>> {
    let (_server, address) = echo(server, arguments).await?;
    let folder = tempfile::tempdir()?;
    // It fails where a case does; what it wrote says which.
    let run = Command::new(suite)
        .args(["-x", "12.*", "-x", "13.*", "-p", "4", "-o", "out", &address.to_string()])
        .current_dir(folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    timeout(Duration::from_secs(120), run).await.context("the suite does not end")??;
    let index =
        std::fs::read(folder.path().join("out").join("index.json")).context("the suite made no report")?;
    let agents: BTreeMap<String, BTreeMap<String, Case>> = serde_json::from_slice(&index)?;
    agents.into_values().next().context("the suite judged nobody")
}

/// A server that echoes. It ends with the child.
async fn echo(server: &Path, arguments: &[&str]) -> anyhow::Result<(Child, SocketAddr)> {
    let mut child = Command::new(server)
        .args(arguments)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    let line = timeout(PATIENCE, lines.next_line()).await.context("the echo does not start")??;
    let address = line.as_deref().and_then(|line| line.split_once("address="));
    Ok((child, address.context("the echo names no address")?.1.parse()?))
}

/// Frames, numbers and words that are meant to hurt, each answered in time by a node that goes on.
async fn wicked(context: &Context) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    let node = Arc::new(context.echo(&[]).await?);
    let bombs = bombs(&node)?;
    // What comes in once is not theirs.
    for bomb in bombs.iter().take(5) {
        bomb.throw(&node).await?;
    }
    let before = node.resident()?;
    let (mut silent, mut took) = (Vec::new(), Vec::new());
    for bomb in &bombs {
        context.show(format!("conformance: {}", bomb.what()));
        let start = Instant::now();
        if bomb.throw(&node).await? {
            took.push(milliseconds(start.elapsed()));
        } else {
            silent.push(bomb.what());
        }
        Peer::open(&node, Version::Two, Ipv4Addr::LOCALHOST)
            .await
            .with_context(|| format!("after {}", bomb.what()))?
            .ask(&question("still here", 4))
            .await?;
    }
    outcome.none(format!("of {} wicked frames and texts: not answered", bombs.len()), silent.len());
    for what in silent {
        outcome.note(format!("Not answered: {what}."));
    }
    let goal = Goal::AtMost(context.form.time(250.0));
    outcome.figure("the longest time that one took", percentile(&took, 1.0), "ms", goal);
    let stays = node.resident()? - before;
    outcome.figure("resident memory that stays", stays, "KiB", Goal::AtMost(STAYS));
    let unanswered = !Bomb::ignored().throw(&node).await?;
    outcome.control("a frame that no node answers is seen not to be", unanswered);
    Arc::into_inner(node).context("somebody still uses the node")?.stop().await?;
    Ok(outcome)
}
