//! Somebody in the middle (docs/attacks.md), and what fuzzing has come to.

use std::{collections::BTreeMap, path::Path, time::Duration};

use fabstir_attack::{
    Class, Expected, FALLS, Pace, Reference, Report, Step, Subject, Suite, Target, version_1, version_2,
};
use serde::Deserialize;

use crate::{
    context::Context,
    outcome::{Goal, Outcome},
    statistics::float,
};

/// Of the steps, one in so many in the short form: the node's own tests run them all.
const ONE_IN: usize = 8;
/// Executions of all fuzz targets together.
const EXECUTIONS: f64 = 1e8;
/// Where nothing new was reached for this part of a target's fuzzing, its edges count as flat.
const FLAT_PERCENT: f64 = 10.0;
const TOTALS: &str = "fuzz/totals.json";

pub(crate) async fn run(context: &Context) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    let node = context.echo(&[]).await?;
    for (subject, name, steps) in
        [(Subject::Version2, "version 2", version_2()), (Subject::Version1, "version 1", version_1())]
    {
        let steps = of(context, steps);
        context.show(format!("middle: {} steps against {name}", steps.len()));
        let target = Target { url: node.url(), identity: node.key.address(), key: Some(node.key) };
        let suite = Suite { subject, target, expected: Expected::Echo, ledger: None, pace: pace() };
        let total = suite.run(steps).await?.total();
        outcome.none(format!("{name}: attacks accepted of {}", total.steps), total.accepted);
        outcome.said(format!("{name}: refused"), float(total.refused), "");
        outcome.said(format!("{name}: harmless"), float(total.harmless), "");
        outcome.said(format!("{name}: accepted, as is known of it"), float(total.known), "");
        outcome.said(format!("{name}: places that never came"), float(total.unreached), "");
    }
    node.stop().await?;
    context.show("middle: the reference, which must fall");
    let stands = stands(&reference(context).await?);
    outcome.control("the protocol as it was falls where it must", stands.is_empty());
    for class in stands {
        outcome.note(format!("The reference stood, and must fall: {}.", class.as_str()));
    }
    fuzzed(context, &mut outcome)?;
    Ok(outcome)
}

fn pace() -> Pace {
    Pace {
        parallel: 16,
        silence: Duration::from_secs(1),
        resume_for: Duration::from_secs(3),
        patience: Duration::from_secs(12),
    }
}

/// All steps, or some; never without those in which nothing is done.
fn of(context: &Context, steps: Vec<Step>) -> Vec<Step> {
    let every = context.form.of(1, ONE_IN);
    let numbered = steps.into_iter().enumerate();
    numbered
        .filter(|(number, step)| number.is_multiple_of(every) || step.class == Class::Control)
        .map(|(_, step)| step)
        .collect()
}

async fn reference(context: &Context) -> anyhow::Result<Report> {
    let node = Reference::start().await?;
    let suite = Suite {
        subject: Subject::Reference,
        target: node.target(),
        expected: Expected::Echo,
        ledger: Some(node.ledger()),
        pace: Pace::default(),
    };
    let steps = version_1().into_iter().map(|step| Step { known: None, ..step }).collect();
    Ok(suite.run(of(context, steps)).await?)
}

/// The classes that must succeed against the reference, and did not although they were tried.
fn stands(report: &Report) -> Vec<Class> {
    let counts = report.counts();
    let tried = |class: &Class| counts.get(class).is_some_and(|count| count.steps >= ONE_IN);
    let fell = |class: &Class| counts.get(class).is_some_and(|count| count.accepted > 0);
    let any = counts.values().any(|count| count.accepted > 0);
    FALLS.into_iter().filter(|class| !fell(class) && (tried(class) || !any)).collect()
}

/// The totals of one fuzz target.
#[derive(Clone, Debug, Deserialize)]
struct Total {
    executions: u64,
    crashes: u64,
    last_new_edge_at: u64,
}

impl Total {
    /// How much of the fuzzing, in percent, reached no code that had not been reached before.
    fn flat_percent(&self) -> f64 {
        let flat = self.executions.saturating_sub(self.last_new_edge_at).saturating_mul(1000);
        f64::from(u32::try_from(flat.checked_div(self.executions).unwrap_or(0)).unwrap_or(u32::MAX)) / 10.0
    }
}

fn fuzzed(context: &Context, outcome: &mut Outcome) -> anyhow::Result<()> {
    let Ok(text) = std::fs::read(Path::new(TOTALS)) else {
        outcome.note("There are no totals of fuzzing here.");
        return Ok(());
    };
    let totals: BTreeMap<String, Total> = serde_json::from_slice(&text)?;
    let millions: u64 = totals.values().map(|total| total.executions / 1000).sum();
    let executions = f64::from(u32::try_from(millions)?) * 1000.0;
    let goal = context.form.of(Goal::AtLeast(EXECUTIONS), Goal::Said);
    outcome.figure(
        format!("executions of {} fuzz targets, in thousands rounded down", totals.len()),
        executions,
        "",
        goal,
    );
    for (target, total) in &totals {
        outcome.said(format!("{target}: executions"), float(usize::try_from(total.executions)?), "");
        outcome.said(format!("{target}: since its last new edge"), total.flat_percent(), "% of them");
    }
    let rising: Vec<_> = totals
        .iter()
        .filter(|(_, total)| total.flat_percent() < FLAT_PERCENT)
        .map(|(target, _)| target.as_str())
        .collect();
    if !rising.is_empty() {
        outcome.note(format!(
            "Still reached something new in the last tenth of the fuzzing (docs/performance.md): {}.",
            rising.join(", ")
        ));
    }
    let crashes: u64 = totals.values().map(|total| total.crashes).sum();
    outcome.none("crashes of theirs", usize::try_from(crashes)?);
    Ok(())
}
