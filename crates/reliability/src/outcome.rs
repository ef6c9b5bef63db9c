//! What came of a row: figures with their goals, and whether the controls were caught.

use serde::{Deserialize, Serialize};

/// What a figure must be.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Goal {
    AtMost(f64),
    AtLeast(f64),
    Exactly(f64),
    /// It is measured and said.
    Said,
}

impl Goal {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
            Self::Exactly(wanted) => (value - wanted).abs() < f64::EPSILON,
            // What could not be measured is no figure.
            Self::Said => value.is_finite(),
        }
    }
}

/// Something that was measured.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Figure {
    pub(crate) what: String,
    pub(crate) value: f64,
    pub(crate) unit: String,
    pub(crate) goal: Goal,
}

impl Figure {
    pub(crate) fn is_met(&self) -> bool {
        self.goal.is_met(self.value)
    }
}

/// The same check with a fault put in: a check that does not see it sees nothing.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Control {
    pub(crate) what: String,
    pub(crate) caught: bool,
}

/// What came of a row.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(crate) struct Outcome {
    pub(crate) figures: Vec<Figure>,
    pub(crate) controls: Vec<Control>,
    #[serde(default)]
    pub(crate) notes: Vec<String>,
    /// Why the row was not run, where it was not.
    #[serde(default)]
    pub(crate) left_out: Option<String>,
    /// Why it broke off, where it did.
    #[serde(default)]
    pub(crate) broke_off: Option<String>,
}

/// What a row comes to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    Kept,
    Missed,
    /// Every goal is met, and a control was not caught: the figures say nothing.
    Uncontrolled,
    LeftOut,
    BrokeOff,
}

impl Verdict {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Missed => "**missed**",
            Self::Uncontrolled => "**not controlled**",
            Self::LeftOut => "left out",
            Self::BrokeOff => "**broke off**",
        }
    }

    /// Whether the suite goes on as if nothing were wrong.
    pub(crate) fn is_fine(self) -> bool {
        match self {
            Self::Kept | Self::LeftOut => true,
            Self::Missed | Self::Uncontrolled | Self::BrokeOff => false,
        }
    }
}

impl Outcome {
    pub(crate) fn left_out(why: impl Into<String>) -> Self {
        Self { left_out: Some(why.into()), ..Self::default() }
    }

    pub(crate) fn broke_off(why: impl Into<String>) -> Self {
        Self { broke_off: Some(why.into()), ..Self::default() }
    }

    /// Both, one after the other.
    pub(crate) fn and(mut self, other: Self) -> Self {
        let Self { figures, controls, notes, left_out, broke_off } = other;
        self.figures.extend(figures);
        self.controls.extend(controls);
        self.notes.extend(notes);
        self.left_out = self.left_out.or(left_out);
        self.broke_off = self.broke_off.or(broke_off);
        self
    }

    pub(crate) fn figure(&mut self, what: impl Into<String>, value: f64, unit: &str, goal: Goal) {
        self.figures.push(Figure { what: what.into(), value, unit: unit.to_owned(), goal });
    }

    /// A count that must be nothing.
    pub(crate) fn none(&mut self, what: impl Into<String>, count: usize) {
        self.figure(what, crate::statistics::float(count), "", Goal::Exactly(0.0));
    }

    /// A count that must be all of them.
    pub(crate) fn all(&mut self, what: impl Into<String>, count: usize, of: usize) {
        self.figure(what, crate::statistics::float(count), "", Goal::Exactly(crate::statistics::float(of)));
    }

    pub(crate) fn said(&mut self, what: impl Into<String>, value: f64, unit: &str) {
        self.figure(what, value, unit, Goal::Said);
    }

    pub(crate) fn control(&mut self, what: impl Into<String>, caught: bool) {
        self.controls.push(Control { what: what.into(), caught });
    }

    pub(crate) fn note(&mut self, words: impl Into<String>) {
        self.notes.push(words.into());
    }

    pub(crate) fn verdict(&self) -> Verdict {
        if self.broke_off.is_some() {
            Verdict::BrokeOff
        } else if self.left_out.is_some() {
            Verdict::LeftOut
        } else if !self.figures.iter().all(Figure::is_met) {
            Verdict::Missed
        } else if self.controls.is_empty() || !self.controls.iter().all(|control| control.caught) {
            Verdict::Uncontrolled
        } else {
            Verdict::Kept
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_without_a_control_that_was_caught_is_not_kept() {
        let mut outcome = Outcome::default();
        outcome.none("dropped", 0);
        assert_eq!(outcome.verdict(), Verdict::Uncontrolled);
        outcome.control("one is closed on purpose", false);
        assert_eq!(outcome.verdict(), Verdict::Uncontrolled);
        outcome.controls = Vec::new();
        outcome.control("one is closed on purpose", true);
        assert_eq!(outcome.verdict(), Verdict::Kept);
    }

    #[test]
    fn a_missed_goal_is_missed_whatever_the_control_says() {
        let mut outcome = Outcome::default();
        outcome.control("caught", true);
        outcome.figure("wait", 51.0, "ms", Goal::AtMost(50.0));
        assert_eq!(outcome.verdict(), Verdict::Missed);
    }

    #[test]
    fn what_could_not_be_measured_is_missed() {
        let mut outcome = Outcome::default();
        outcome.control("caught", true);
        outcome.said("wait", f64::NAN, "ms");
        assert_eq!(outcome.verdict(), Verdict::Missed);
        assert!(!Goal::AtMost(1.0).is_met(f64::NAN) && !Goal::AtLeast(1.0).is_met(f64::NAN));
    }
}
