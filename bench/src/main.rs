//! `make bench`: the node with encryption on and llama-server in the clear, one after the other, several times,
//! on the same model, threads, prompts and client. Results are kept after every part, so that a run that was
//! broken off goes on where it stopped.

mod alone;
mod channel;
mod load;
mod report;
mod server;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};

use crate::server::{Server, Who};

/// Measures the node beside llama-server
#[derive(Debug, Parser)]
struct Args {
    /// The node's binary
    #[arg(long)]
    node: PathBuf,
    /// llama-server
    #[arg(long)]
    peer: PathBuf,
    /// The GGUF file that both serve
    #[arg(long)]
    model: PathBuf,
    /// Where results are kept between runs
    #[arg(long)]
    results: PathBuf,
    /// The page that the tables are written into; the plots go beside it
    #[arg(long)]
    page: Option<PathBuf>,
    /// How often the two take turns
    #[arg(long, default_value = "5")]
    alternations: usize,
    /// Streams side by side
    #[arg(long, value_delimiter = ',', default_value = "1,4,16,32")]
    streams: Vec<usize>,
    /// Most tokens of an answer
    #[arg(long, default_value = "96")]
    tokens: u32,
    /// Idle sessions whose memory is measured
    #[arg(long, default_value = "5000")]
    idle_sessions: usize,
    /// Threads of either server
    #[arg(long, default_value = "2")]
    threads: u32,
}

/// All that was measured.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct Results {
    turns: Vec<Turn>,
    alone: Option<alone::Alone>,
    #[serde(default)]
    channels: Option<channel::Channels>,
}

/// What was measured of one server in one turn.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Turn {
    alternation: usize,
    who: Who,
    loads: Vec<load::Load>,
    turns: load::TwoTurns,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut done: Results = match fs::read(&args.results) {
        Ok(json) => serde_json::from_slice(&json).context("the kept results cannot be read; remove them")?,
        Err(_) => Results::default(),
    };
    let rounds = (0..args.alternations).flat_map(|number| {
        // Who begins changes, so that neither always has the machine as the other left it.
        let order = if number % 2 == 0 { [Who::Peer, Who::Node] } else { [Who::Node, Who::Peer] };
        order.map(|who| (number, who))
    });
    let rounds: Vec<_> = rounds.collect();
    let bar = ProgressBar::new(u64::try_from(rounds.len())?);
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} {elapsed}")?);
    if done.alone.is_none() {
        bar.set_message("the node alone");
        done.alone = Some(alone::measure(&args.node, args.idle_sessions).await?);
        keep(&args.results, &done)?;
    }
    if done.channels.is_none() {
        bar.set_message("channels");
        done.channels = Some(channel::measure(&args.node, &args.model).await?);
        keep(&args.results, &done)?;
    }
    for (alternation, who) in rounds {
        if !done.turns.iter().any(|turn| turn.alternation == alternation && turn.who == who) {
            bar.set_message(format!("{who}, turn {}", alternation.saturating_add(1)));
            let turn = measure(&args, alternation, who).await?;
            done.turns.push(turn);
            keep(&args.results, &done)?;
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    report::write(&done, args.page.as_deref())
}

async fn measure(args: &Args, alternation: usize, who: Who) -> anyhow::Result<Turn> {
    let most = args.streams.iter().copied().max().unwrap_or(1);
    let binary = match who {
        Who::Node => &args.node,
        Who::Peer => &args.peer,
    };
    let server = Server::start(who, binary, &args.model, most, args.threads).await?;
    load::warm_up(&server).await?;
    let mut loads = Vec::new();
    for streams in &args.streams {
        loads.push(load::run(&server, *streams, args.tokens, alternation).await?);
    }
    let turns = load::two_turns(&server, alternation).await?;
    server.stop().await?;
    Ok(Turn { alternation, who, loads, turns })
}

fn keep(path: &Path, done: &Results) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let part = path.with_extension("part");
    fs::write(&part, serde_json::to_vec_pretty(done)?)?;
    Ok(fs::rename(part, path)?)
}
