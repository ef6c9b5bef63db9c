//! `fabstir attack`: somebody in the middle, between clients of this program's and a node of the user's own.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use fabstir_attack::{
    Class, Expected, FALLS, Pace, Reference, Report, Step, Subject, Suite, SuiteError, Target, version_1,
    version_2,
};
use url::Url;

use crate::{
    args::Attack,
    failure::{Exit, Failure, complain},
    identity::Pin,
};

/// How long the node's counts may take to come.
const COUNTS: Duration = Duration::from_secs(5);
/// A page of counts is some kilobytes.
const MOST_COUNTS: usize = 1 << 20;

pub(crate) async fn run(attack: Attack) -> Result<Exit, Failure> {
    let classes = classes(&attack.class)?;
    if attack.reference {
        return reference(&attack, &classes).await;
    }
    let (Some(url), Some(pin)) = (&attack.node, attack.node_key) else {
        return Err(Failure::new(Exit::Usage, "which node? --node and --node-key"));
    };
    let key = if let Pin::Key(key) = pin { Some(key) } else { None };
    let (subject, steps) = match (attack.protocol, key) {
        (1, None) => {
            let what = "version 1 needs the node's public key, 33 bytes in hex: --node-key";
            return Err(Failure::new(Exit::Usage, what));
        }
        (1, Some(_)) => (Subject::Version1, version_1()),
        _ => (Subject::Version2, version_2()),
    };
    let suite = Suite {
        subject,
        target: Target { url: url.to_string(), identity: pin.address(), key },
        expected: Expected::Alike,
        ledger: None,
        pace: Pace {
            parallel: attack.parallel.into(),
            silence: Duration::from_secs(1),
            resume_for: Duration::from_secs(3),
            patience: Duration::from_secs(12),
        },
    };
    let before = answers(url).await;
    let report = suite.run(of(steps, &classes)).await?;
    let after = answers(url).await;
    show(&report, attack.list)?;
    let twice = match (before, after) {
        (Some(before), Some(after)) => after.saturating_sub(before) > report.asked,
        _ => {
            complain("the node does not show its /metrics here: whether it answered twice was not counted");
            false
        }
    };
    judge(&report, twice)
}

fn judge(report: &Report, twice: bool) -> Result<Exit, Failure> {
    let total = report.total();
    if twice {
        return Err(Failure::new(Exit::Broken, "the node made more answers than there were questions"));
    }
    if total.accepted > 0 {
        return Err(Failure::new(Exit::Broken, format!("{} attacks were accepted", total.accepted)));
    }
    if total.steps == 0 {
        return Err(Failure::new(Exit::Usage, "no attack was done"));
    }
    Ok(Exit::Ok)
}

async fn reference(attack: &Attack, classes: &[Class]) -> Result<Exit, Failure> {
    let node = Reference::start().await.map_err(SuiteError::from)?;
    let suite = Suite {
        subject: Subject::Reference,
        target: node.target(),
        expected: Expected::Echo,
        ledger: Some(node.ledger()),
        pace: Pace { parallel: attack.parallel.into(), ..Pace::default() },
    };
    let steps = version_1().into_iter().map(|step| Step { known: None, ..step }).collect();
    let report = suite.run(of(steps, classes)).await?;
    show(&report, attack.list)?;
    let counts = report.counts();
    let due = FALLS.into_iter().filter(|class| classes.contains(class));
    let stands: Vec<&str> = due
        .filter(|class| counts.get(class).is_none_or(|count| count.accepted == 0))
        .map(Class::as_str)
        .collect();
    if !stands.is_empty() {
        let what = format!("the reference did not fall, and must: {}", stands.join(", "));
        return Err(Failure::new(Exit::Broken, what));
    }
    Ok(Exit::Ok)
}

fn classes(names: &[String]) -> Result<Vec<Class>, Failure> {
    if names.is_empty() {
        return Ok(Class::ALL.to_vec());
    }
    let of = |name: &String| {
        let class = Class::ALL.into_iter().find(|class| class.as_str() == name);
        class.ok_or_else(|| {
            let all: Vec<&str> = Class::ALL.into_iter().map(Class::as_str).collect();
            Failure::new(Exit::Usage, format!("--class is one of: {}", all.join(", ")))
        })
    };
    names.iter().map(of).collect()
}

/// The steps of some classes, and those in which nothing is done: without them the others say nothing.
fn of(steps: Vec<Step>, classes: &[Class]) -> Vec<Step> {
    let wanted = |step: &Step| step.class == Class::Control || classes.contains(&step.class);
    steps.into_iter().filter(wanted).collect()
}

fn show(report: &Report, list: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if list {
        for one in &report.ended {
            writeln!(out, "{one}")?;
        }
    }
    writeln!(out, "{}\n{report}", Report::HEAD)?;
    let unreached = report.total().unreached;
    if unreached > 0 {
        writeln!(out, "{unreached} more have no place in what this node says, and were not done")?;
    }
    Ok(())
}

/// The answers that the node has made, by its own count; `None` where it does not show that.
async fn answers(node: &Url) -> Option<usize> {
    let mut url = node.clone();
    url.set_scheme("http").ok()?;
    url.set_path("/metrics");
    let client = reqwest::Client::builder().no_proxy().timeout(COUNTS).build().ok()?;
    let mut answer = client.get(url).send().await.ok()?.error_for_status().ok()?;
    let mut page = Vec::new();
    while let Some(more) = answer.chunk().await.ok()? {
        page.extend_from_slice(&more);
        if page.len() > MOST_COUNTS {
            return None;
        }
    }
    let page = String::from_utf8(page).ok()?;
    let counts = page.lines().filter_map(|line| {
        let line = line.strip_prefix("fabstir_answers_total")?;
        line.rsplit(' ').next()?.parse::<usize>().ok()
    });
    page.contains("fabstir_").then(|| counts.sum())
}

impl From<SuiteError> for Failure {
    fn from(error: SuiteError) -> Self {
        let exit = match &error {
            SuiteError::Listen(_) => Exit::Usage,
            SuiteError::Control(_) => Exit::Connect,
        };
        Self::new(exit, format!("{error}; check --node and --node-key, and that the node runs"))
    }
}
