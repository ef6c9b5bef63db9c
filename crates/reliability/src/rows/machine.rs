//! What machines do: clocks that jump, disks that are full, descriptors that run out, fetches that are killed.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use tokio::{io::AsyncWriteExt as _, process::Command, time::timeout};

use crate::{
    context::{Context, until},
    hub::{Hub, MODEL},
    node::{Http, Launch, Node},
    outcome::{Goal, Outcome},
    peer::{Peer, Version, question, tcp},
    statistics::{float, milliseconds},
};

const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(20);
/// Descriptors of a node that has too few, and connections that are more.
const DESCRIPTORS: &str = "64";
const CONNECTIONS: usize = 100;
const NOT_ACCEPTED: &str = "a connection could not be accepted";
const CLOCK_WAS_SET: &str = "the system's clock was set";

pub(crate) async fn run(context: &Context) -> anyhow::Result<Outcome> {
    let outcome = descriptors(context).await?.and(clock(context).await?);
    Ok(outcome.and(disk(context).await?).and(killed_fetch(context).await?))
}

async fn descriptors(context: &Context) -> anyhow::Result<Outcome> {
    context.show("machine: descriptors run out");
    let mut outcome = Outcome::default();
    let mut launch = Launch::new(&[("ENGINE", "echo")])?;
    launch.wrapper = vec!["prlimit".into(), format!("--nofile={DESCRIPTORS}:{DESCRIPTORS}")];
    let node = launch.start(&context.binary).await?;
    let mut old = Peer::open(&node, Version::Two, HERE).await?;
    let mut http = Http::connect(node.address).await?;
    let held = too_many(&node).await?;
    let said = until(PATIENCE, PAUSE, async || Ok(node.said().has(NOT_ACCEPTED))).await?;
    outcome.all("descriptors run out: the node says so", usize::from(said.is_some()), 1);
    let answers = old.ask(&question("still here", 4)).await.is_ok_and(|words| words == "still here");
    let health = http.get("/health").await.is_ok_and(|(status, _)| status == 200);
    outcome.all("who was there before goes on", usize::from(answers) + usize::from(health), 2);
    drop(held);
    let back =
        until(PATIENCE, PAUSE, async || Ok(Peer::open(&node, Version::Two, HERE).await.is_ok())).await?;
    let back = back.map_or(f64::NAN, milliseconds);
    outcome.figure(
        "with room again, the next session is open after",
        back,
        "ms",
        Goal::AtMost(context.form.time(500.0)),
    );
    node.stop().await?;
    let node = context.echo(&[]).await?;
    let _held = too_many(&node).await?;
    let mut http = Http::connect(node.address).await?;
    http.get("/health").await?;
    outcome
        .control("as many connections where there is room: nothing is said", !node.said().has(NOT_ACCEPTED));
    node.stop().await?;
    Ok(outcome)
}

/// Connections that have begun to ask.
async fn too_many(node: &Node) -> anyhow::Result<Vec<tokio::net::TcpStream>> {
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = tcp(node.address, HERE).await?;
        stream.write_all(b"GET / ").await?;
        held.push(stream);
    }
    Ok(held)
}

/// Where the library that lies about the time is, if it is.
fn faketime() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").ok()?.filter_map(Result::ok);
    let library = |folder: PathBuf| folder.join("faketime").join("libfaketimeMT.so.1");
    folders.map(|folder| library(folder.path())).find(|path| path.is_file())
}

async fn clock(context: &Context) -> anyhow::Result<Outcome> {
    context.show("machine: the clock jumps");
    let mut outcome = Outcome::default();
    let Some(library) = faketime() else {
        outcome.note("libfaketime is not installed: jumps of the clock are left out.");
        return Ok(outcome);
    };
    let library = library.to_string_lossy().into_owned();
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("time");
    fs::write(&file, "+0")?;
    let path = file.to_string_lossy().into_owned();
    let settings = [
        ("ENGINE", "echo"),
        ("LD_PRELOAD", library.as_str()),
        ("FAKETIME_TIMESTAMP_FILE", &path),
        ("FAKETIME_NO_CACHE", "1"),
        // Time that has passed is another clock's, which cannot be set.
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    let node = Node::start(&context.binary, &settings).await?;
    let mut old =
        vec![Peer::open(&node, Version::One, HERE).await?, Peer::open(&node, Version::Two, HERE).await?];
    let (mut go_on, mut opened) = (0_usize, 0_usize);
    let jumps = ["+2d", "-2d", "+3650d", "+0"];
    for jump in jumps {
        fs::write(&file, jump)?;
        // Once it was noticed, which takes a turn of what is done every second.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        for peer in &mut old {
            go_on = go_on.saturating_add(usize::from(peer.ask(&question("now", 4)).await.is_ok()));
        }
        for version in [Version::One, Version::Two] {
            let new = Peer::open(&node, version, HERE).await;
            opened = opened.saturating_add(usize::from(new.is_ok()));
        }
    }
    outcome.all("the clock jumps: answers of sessions that were open", go_on, jumps.len() * 2);
    outcome.all("sessions opened after jumps", opened, jumps.len() * 2);
    outcome.all("the node says that the clock was set", usize::from(node.said().has(CLOCK_WAS_SET)), 1);
    node.stop().await?;
    fs::write(&file, "+2d")?;
    let node = Node::start(&context.binary, &settings).await?;
    let believed = Peer::open(&node, Version::Two, HERE).await.is_ok();
    outcome.control("a node that starts two days ahead is not believed", !believed);
    node.stop().await?;
    Ok(outcome)
}

async fn disk(context: &Context) -> anyhow::Result<Outcome> {
    context.show("machine: the disk is full");
    let mut outcome = Outcome::default();
    let Some(model) = &context.model else {
        outcome.note("There is no model: the full disk is left out.");
        return Ok(outcome);
    };
    let hub = Hub::start(model, Duration::ZERO).await?;
    let mut launch = Launch::new(&[("MODEL", MODEL), ("HF_ENDPOINT", &hub.url)])?;
    let folder = launch.folder.path().to_string_lossy().into_owned();
    let mount = "mount -t tmpfs -o size=512k tmpfs \"$0\" && exec \"$@\"";
    let wrapper = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, &folder];
    launch.wrapper = wrapper.map(str::to_owned).to_vec();
    let probe = Command::new("unshare").args(["--map-root-user", "--mount", "true"]).status().await;
    if !probe.is_ok_and(|status| status.success()) {
        outcome.note("This user may not mount: the full disk is left out.");
        return Ok(outcome);
    }
    let (mut child, said) = launch.spawn(&context.binary)?;
    let status = timeout(PATIENCE, child.wait()).await.context("the node does not give up")??;
    let told = said.whole().await?;
    let clear = told.contains("No space left") && told.contains("hf:owner/repo/m.gguf");
    outcome.all(
        "the disk is full while a model is fetched: the start ends",
        usize::from(status.code() == Some(1)),
        1,
    );
    outcome.all("and says which file found no room", usize::from(clear), 1);
    if !clear {
        outcome.note(format!("It said: {}.", told.lines().last().unwrap_or_default()));
    }
    Ok(outcome)
}

/// A node that is killed while it fetches: half a file is never taken for whole, and is not fetched twice.
async fn killed_fetch(context: &Context) -> anyhow::Result<Outcome> {
    context.show("machine: killed while it fetches");
    let mut outcome = Outcome::default();
    let Some(model) = &context.model else { return Ok(outcome) };
    let slow = Hub::start(model, Duration::from_millis(20)).await?;
    let launch = Launch::new(&[("MODEL", MODEL), ("HF_ENDPOINT", &slow.url)])?;
    let folder = launch.folder.path().join("fabstir/models/hub/owner/repo");
    let (part, whole) = (folder.join("m.gguf.part"), folder.join("m.gguf"));
    let (mut child, _) = launch.spawn(&context.binary)?;
    let half = until(PATIENCE, PAUSE, async || Ok(size(&part) > 10_000_000)).await?;
    half.context("the fetch does not begin")?;
    child.kill().await?;
    let left = size(&part);
    outcome.none("killed while it fetches: files that pass for whole", usize::from(whole.exists()));
    let quick = Hub::start(model, Duration::ZERO).await?;
    let mut again = launch.clone();
    again.settings.retain(|(name, _)| name != "HF_ENDPOINT");
    again.settings.push(("HF_ENDPOINT".into(), quick.url.clone()));
    let node = again.start(&context.binary).await?;
    let from = quick.last_from();
    #[expect(clippy::cast_precision_loss, reason = "sizes of files are far below 2^52")]
    let missed = from.abs_diff(left) as f64;
    outcome.figure("the next fetch goes on where it ended, but for", missed, "bytes", Goal::Exactly(0.0));
    outcome.all("and the model is whole", usize::from(size(&whole) == size(model)), 1);
    let mut peer = Peer::open(&node, Version::Two, HERE).await?;
    let words = peer.ask(&question("Say a word.", 4)).await?;
    outcome.figure("words of it", float(words.len()), "bytes", Goal::AtLeast(1.0));
    outcome.control("a fetch from the beginning is seen as one", slow.last_from() == 0 && from > 0);
    node.stop().await?;
    Ok(outcome)
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |data| data.len())
}
