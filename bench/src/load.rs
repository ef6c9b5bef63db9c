//! What is asked, and what is measured of the answers.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::server::{Asker, Heard, Message, Server};

/// So many streams at once.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Load {
    pub(crate) streams: usize,
    /// Tokens of all streams, by the time from the first request to the last token.
    pub(crate) tokens_per_second: f64,
    /// Milliseconds from each request to its first text.
    pub(crate) first: Vec<f64>,
    /// Milliseconds between the pieces of text of a stream, all streams together.
    pub(crate) gaps: Vec<f64>,
}

/// A conversation of two turns: milliseconds to the first text of each.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct TwoTurns {
    pub(crate) first: f64,
    pub(crate) second: f64,
}

const THINGS: [&str; 8] = ["fox", "lighthouse", "violin", "glacier", "baker", "comet", "harbour", "orchard"];

/// A prompt that no other stream and no other turn has.
fn story(number: usize, alternation: usize) -> Vec<Message> {
    let thing = |number: usize| THINGS.get(number % THINGS.len()).copied().unwrap_or("fox");
    let words = format!(
        "In year {number}{alternation}, tell a very long story about a {} and a {}, with many details.",
        thing(number),
        thing(number.saturating_mul(3).saturating_add(alternation)),
    );
    vec![("user", words)]
}

pub(crate) async fn warm_up(server: &Server) -> anyhow::Result<()> {
    server.asker().await?.ask(&[("user", "Say hello.".into())], 8).await?;
    Ok(())
}

pub(crate) async fn run(
    server: &Server,
    streams: usize,
    tokens: u32,
    alternation: usize,
) -> anyhow::Result<Load> {
    let mut askers = Vec::new();
    for _ in 0..streams {
        askers.push(server.asker().await?);
    }
    let start = Instant::now();
    let asked: Vec<_> = (0..)
        .zip(askers)
        .map(|(number, mut asker): (usize, Asker)| {
            let prompt = story(number.saturating_add(streams.saturating_mul(100)), alternation);
            tokio::spawn(async move { asker.ask(&prompt, tokens).await })
        })
        .collect();
    let mut heard = Vec::new();
    for answer in asked {
        heard.push(answer.await??);
    }
    let took = start.elapsed();
    let all: u32 = heard.iter().map(|heard| heard.tokens).sum();
    let first = heard.iter().map(first_text).collect::<anyhow::Result<_>>()?;
    let gaps = heard.iter().flat_map(|heard| heard.pieces.windows(2).filter_map(gap)).collect();
    Ok(Load { streams, tokens_per_second: f64::from(all) / took.as_secs_f64(), first, gaps })
}

/// A history of about 500 tokens, and one more question.
pub(crate) async fn two_turns(server: &Server, alternation: usize) -> anyhow::Result<TwoTurns> {
    let mut asker = server.asker().await?;
    let history =
        format!("Notes of day {alternation}. {}", "The fox went on to the next harbour. ".repeat(60));
    let mut messages = vec![("user", format!("{history} Summarise this in one sentence."))];
    let first = asker.ask(&messages, 32).await?;
    messages.push(("assistant", first.text.clone()));
    messages.push(("user", "Say it in other words.".into()));
    let second = asker.ask(&messages, 8).await?;
    Ok(TwoTurns { first: first_text(&first)?, second: first_text(&second)? })
}

fn first_text(heard: &Heard) -> anyhow::Result<f64> {
    let first = heard.pieces.first().context("an answer had no text")?;
    Ok(milliseconds(first.duration_since(heard.asked)))
}

fn gap(pair: &[Instant]) -> Option<f64> {
    let [before, after] = pair else { return None };
    Some(milliseconds(after.duration_since(*before)))
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
