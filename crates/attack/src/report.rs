//! What came of the steps: of each, of each class, of all.

use std::{collections::BTreeMap, fmt, time::Duration};

use crate::step::{Class, Step};

/// What came of a step.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// The client was told, or got nothing.
    Refused(String),
    /// Everything was answered, rightly and once.
    Harmless,
    /// The attack succeeded: how.
    Accepted(String),
    /// The attack succeeded, as is known of the protocol: how.
    Known(String),
    /// Its place never came.
    Unreached,
}

/// A step and what came of it.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The step.
    pub step: Step,
    /// What came of it.
    pub verdict: Verdict,
}

/// Counts of one class.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Count {
    /// Steps that were done.
    pub steps: usize,
    /// The client was told.
    pub refused: usize,
    /// Nothing that counts was changed.
    pub harmless: usize,
    /// The attack succeeded, and should not have.
    pub accepted: usize,
    /// The attack succeeded, as is known of the protocol.
    pub known: usize,
    /// Steps whose place never came.
    pub unreached: usize,
}

/// What came of all steps.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Each of them.
    pub ended: Vec<Ended>,
    /// How many questions were asked, at most: a node that makes more answers makes one twice.
    pub asked: usize,
    /// How long it took.
    pub took: Duration,
}

impl Report {
    /// The line above the table.
    pub const HEAD: &'static str = "class       steps  refused  harmless  accepted  known";

    /// By class.
    pub fn counts(&self) -> BTreeMap<Class, Count> {
        let mut counts: BTreeMap<Class, Count> = BTreeMap::new();
        for Ended { step, verdict } in &self.ended {
            let count = counts.entry(step.class).or_default();
            let place = match verdict {
                Verdict::Refused(_) => &mut count.refused,
                Verdict::Harmless => &mut count.harmless,
                Verdict::Known(_) => &mut count.known,
                Verdict::Accepted(_) => &mut count.accepted,
                Verdict::Unreached => &mut count.unreached,
            };
            *place = place.saturating_add(1);
            if *verdict != Verdict::Unreached {
                count.steps = count.steps.saturating_add(1);
            }
        }
        counts
    }

    /// All classes together.
    pub fn total(&self) -> Count {
        self.counts().into_values().fold(Count::default(), |sum, count| Count {
            steps: sum.steps.saturating_add(count.steps),
            refused: sum.refused.saturating_add(count.refused),
            harmless: sum.harmless.saturating_add(count.harmless),
            accepted: sum.accepted.saturating_add(count.accepted),
            known: sum.known.saturating_add(count.known),
            unreached: sum.unreached.saturating_add(count.unreached),
        })
    }

    /// The steps that succeeded and should not have.
    pub fn accepted(&self) -> impl Iterator<Item = &Ended> {
        let succeeded = |one: &&Ended| matches!(one.verdict, Verdict::Accepted(_));
        self.ended.iter().filter(succeeded)
    }

    /// The steps that are said to succeed and did not.
    pub fn outdated(&self) -> impl Iterator<Item = &Ended> {
        let failed = |one: &&Ended| one.step.known.is_some() && !matches!(one.verdict, Verdict::Known(_));
        self.ended.iter().filter(failed)
    }

    /// The steps whose place never came.
    pub fn unreached(&self) -> impl Iterator<Item = &Ended> {
        self.ended.iter().filter(|one| one.verdict == Verdict::Unreached)
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.verdict {
            Verdict::Accepted(how) => write!(f, "{}: accepted: {how}", self.step),
            Verdict::Known(how) => write!(f, "{}: known: {how}", self.step),
            Verdict::Refused(why) => write!(f, "{}: refused: {why}", self.step),
            Verdict::Harmless => write!(f, "{}: harmless", self.step),
            Verdict::Unreached => write!(f, "{}: never came to it", self.step),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, count: &Count| {
            let Count { steps, refused, harmless, accepted, known, .. } = count;
            writeln!(f, "{name:<10} {steps:>6} {refused:>8} {harmless:>9} {accepted:>9} {known:>6}")
        };
        for (class, count) in self.counts() {
            line(class.as_str(), &count)?;
        }
        line("all", &self.total())?;
        for one in self.accepted() {
            writeln!(f, "{one}")?;
        }
        Ok(())
    }
}
