//! Connections that are cut anywhere: the answer is the one that an uncut connection brings, byte for byte, and its tokens
//! are counted once.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use fabstir_client::{Config, Request, Session, Turn, anonymous};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{sync::Semaphore, task::JoinSet, time::timeout};

use crate::{
    context::Context,
    node::Node,
    outcome::{Goal, Outcome},
    statistics::float,
    way::{Cut, Way},
};

const PROMPTS: [&str; 4] = [
    "Tell me of a lighthouse.",
    "Why is the sky blue?",
    "Name some colours and what has them.",
    "How is bread made?",
];
const TOKENS: u32 = 24;
/// Cuts on the way of one answer, not all of which are come to; then it is let through.
const CUTS: usize = 5;
/// Bytes to the client that an answer of so many tokens may take: cuts are anywhere before that.
const ANSWER_BYTES: usize = 1200;
/// Answers side by side. The engine computes one at a time, so that each is computed as if it were alone.
const SIDE_BY_SIDE: usize = 4;
const PATIENCE: Duration = Duration::from_secs(90);

/// A whole answer.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Whole {
    text: String,
    reason: String,
    tokens: u32,
}

pub(crate) async fn run(context: &Context) -> anyhow::Result<Outcome> {
    if context.model.is_none() {
        return Ok(Outcome::left_out("there is no model"));
    }
    let mut outcome = Outcome::default();
    let node = Arc::new(context.real(&[("MAX_SEQUENCES", "1")]).await?);
    let (uncut, opening) = uncut(&node).await?;
    let counted = node.metric("fabstir_completion_tokens_total").await?;
    let cuts: usize = context.form.of(1000, 50);
    let ended = cut_answers(context, &node, &uncut, opening, cuts).await?;
    let after = node.metric("fabstir_completion_tokens_total").await?;
    outcome.figure("connections that were cut", float(ended.fallen), "", Goal::AtLeast(float(cuts)));
    outcome.figure("connections that were made", float(ended.made), "", Goal::AtLeast(float(cuts)));
    outcome.none(format!("of {} answers: not whole", ended.answers), ended.broken.len());
    outcome.none("whole, and not the uncut answer", ended.different);
    let twice = after - counted - f64::from(ended.tokens);
    outcome.figure(
        "tokens that the node counts beside those that its clients were told",
        twice,
        "",
        Goal::Exactly(0.0),
    );
    for why in ended.broken.iter().take(3) {
        outcome.note(format!("Not whole: {why}."));
    }
    controls(&node, &uncut, opening, (counted, after), &mut outcome).await?;
    Arc::into_inner(node).context("somebody still uses the node")?.stop().await?;
    Ok(outcome)
}

/// The answers with nobody in between, each twice, and how many bytes a session's opening brings.
async fn uncut(node: &Node) -> anyhow::Result<(Vec<Whole>, usize)> {
    let mut answers = Vec::new();
    let mut opening = 0;
    for prompt in PROMPTS {
        let way = Way::to(node.address, Vec::new()).await?;
        let session = Session::connect(config(node, &way, PATIENCE)).await?;
        opening = way.carried_down();
        let first = ask(&session, prompt).await?;
        session.close().await;
        let session = Session::connect(config(node, &way, PATIENCE)).await?;
        anyhow::ensure!(ask(&session, prompt).await? == first, "two uncut answers differ");
        session.close().await;
        answers.push(first);
    }
    Ok((answers, opening))
}

fn config(node: &Node, way: &Way, resume_for: Duration) -> Config {
    Config { resume_for, ..Config::new(way.url(), node.key.address(), anonymous()) }
}

async fn ask(session: &Session, prompt: &str) -> anyhow::Result<Whole> {
    let turn = Turn { role: "user", content: prompt.to_owned() };
    let request = Request {
        max_tokens: Some(TOKENS),
        temperature: Some(0.0),
        seed: Some(1),
        ..Request::messages(vec![turn])
    };
    let answer = session.ask(&request).await?;
    let (words, end) = answer.text().await?;
    let tokens = end.usage.context("an end without usage")?.completion_tokens;
    Ok(Whole { text: words.as_str().to_owned(), reason: end.finish_reason, tokens })
}

/// What became of the answers whose connections were cut.
#[derive(Default)]
struct Ended {
    answers: usize,
    broken: Vec<String>,
    different: usize,
    tokens: u32,
    fallen: usize,
    made: usize,
}

/// Answers until so many connections were cut: how many of the cuts of one answer are come to is chance.
async fn cut_answers(
    context: &Context,
    node: &Arc<Node>,
    uncut: &[Whole],
    opening: usize,
    cuts: usize,
) -> anyhow::Result<Ended> {
    let mut rng = StdRng::seed_from_u64(2);
    let mut ended = Ended::default();
    while ended.fallen < cuts && ended.answers < cuts {
        let more = cuts.saturating_sub(ended.fallen).div_ceil(CUTS.saturating_sub(1));
        let plans = (0..more).map(|_| plan(&mut rng, opening)).collect();
        round(context, node, uncut, plans, &mut ended).await?;
    }
    Ok(ended)
}

/// One answer for each of the plans.
async fn round(
    context: &Context,
    node: &Arc<Node>,
    uncut: &[Whole],
    plans: Vec<Vec<Cut>>,
    ended: &mut Ended,
) -> anyhow::Result<()> {
    let places = Arc::new(Semaphore::new(SIDE_BY_SIDE));
    let mut tasks = JoinSet::new();
    for (number, cuts) in plans.into_iter().enumerate() {
        let (node, places) = (Arc::clone(node), Arc::clone(&places));
        let which = number % PROMPTS.len();
        tasks.spawn(async move {
            let _place = places.acquire_owned().await?;
            let way = Way::to(node.address, cuts).await?;
            let heard = timeout(PATIENCE, one(&node, &way, which, PATIENCE)).await;
            anyhow::Ok((which, heard.context("it takes too long").flatten(), way.fallen(), way.made()))
        });
    }
    while let Some(task) = tasks.join_next().await {
        let (which, heard, fallen, made) = task??;
        ended.answers = ended.answers.saturating_add(1);
        ended.fallen = ended.fallen.saturating_add(fallen);
        ended.made = ended.made.saturating_add(made);
        match heard {
            Ok(whole) => {
                ended.tokens = ended.tokens.saturating_add(whole.tokens);
                ended.different =
                    ended.different.saturating_add(usize::from(uncut.get(which) != Some(&whole)));
            }
            Err(error) => ended.broken.push(format!("{error:#}")),
        }
        context.show(format!("resume: {} cuts in {} answers", ended.fallen, ended.answers));
    }
    Ok(())
}

/// The first connection falls somewhere in the answer; the next ones anywhere, their handshakes included.
fn plan(rng: &mut StdRng, opening: usize) -> Vec<Cut> {
    let first = opening.saturating_add(rng.random_range(1..ANSWER_BYTES / 2));
    let mut cuts = vec![Cut { up: None, down: Some(first) }];
    cuts.extend((1..CUTS).map(|_| {
        let down = rng.random_range(1..opening.saturating_add(ANSWER_BYTES / 2));
        // What goes up is less: the upgrade, r1, acknowledgements.
        let up = rng.random_range(1..700);
        if rng.random_bool(0.3) {
            Cut { up: Some(up), down: None }
        } else {
            Cut { up: None, down: Some(down) }
        }
    }));
    cuts
}

async fn one(node: &Node, way: &Way, which: usize, resume_for: Duration) -> anyhow::Result<Whole> {
    let session =
        Session::connect(config(node, way, resume_for)).await.context("the session did not open")?;
    let prompt = PROMPTS.get(which).copied().unwrap_or_default();
    let whole = ask(&session, prompt).await?;
    session.close().await;
    Ok(whole)
}

/// Without resumption the same cuts break answers; a token that nobody was told of is seen.
async fn controls(
    node: &Node,
    uncut: &[Whole],
    opening: usize,
    (before, after): (f64, f64),
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    let mut rng = StdRng::seed_from_u64(3);
    let way = Way::to(node.address, plan(&mut rng, opening)).await?;
    let heard = one(node, &way, 0, Duration::ZERO).await;
    let seen = !heard.is_ok_and(|whole| uncut.first() == Some(&whole));
    outcome.control("the same cuts for a client that may not resume", seen);
    let way = Way::to(node.address, Vec::new()).await?;
    one(node, &way, 1, PATIENCE).await?;
    let more = node.metric("fabstir_completion_tokens_total").await?;
    outcome.control("an answer that is left out of the sum", (more - before) - (after - before) > 0.5);
    let other = uncut.get(1) != uncut.first();
    outcome.control("another prompt's answer in the place of the uncut one", other);
    Ok(())
}
