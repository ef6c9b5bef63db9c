//! What each client used, day by day, within a bound.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Mutex,
};

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::crypto::lock;

/// Clients that have a line of their own in a day.
const MOST_CLIENTS: usize = 10_000;

/// Where all others are counted together.
const OTHERS: &str = "other";

/// Days that are remembered, today included.
const MOST_DAYS: i32 = 35;

/// What was used.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Counts {
    /// Requests whose answer has ended.
    pub requests: u64,
    /// Those among them that were cancelled, or whose client went away.
    pub cancelled: u64,
    /// Tokens of what was asked.
    pub prompt_tokens: u64,
    /// Tokens of what was answered.
    pub completion_tokens: u64,
    /// Those of `prompt_tokens` that an earlier request had computed.
    pub reused_tokens: u64,
}

impl Counts {
    /// Adds.
    pub fn add(&mut self, more: &Self) {
        for (count, more) in [
            (&mut self.requests, more.requests),
            (&mut self.cancelled, more.cancelled),
            (&mut self.prompt_tokens, more.prompt_tokens),
            (&mut self.completion_tokens, more.completion_tokens),
            (&mut self.reused_tokens, more.reused_tokens),
        ] {
            *count = count.saturating_add(more);
        }
    }
}

/// What a client used in a day.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct UsageLine {
    /// The wallet's address, or `unclaimed`, `anonymous`, `plaintext`, or `other` for all beyond the bound.
    pub client: String,
    /// How much.
    #[serde(flatten)]
    pub counts: Counts,
}

/// What was used in a day.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct DayOfUsage {
    /// The day, in UTC.
    pub day: String,
    /// By whom, in the order of their names.
    pub clients: Vec<UsageLine>,
}

/// Lines of one day, by client.
pub(super) type Lines = HashMap<String, Counts>;

#[derive(Debug, Default)]
struct Inner {
    days: BTreeMap<Date, Lines>,
    unwritten: BTreeMap<Date, Lines>,
}

/// The usage of the days.
#[derive(Debug, Default)]
pub(super) struct Usage(Mutex<Inner>);

/// The first day that is remembered where `today` is the last.
pub(super) fn first_day(today: Date) -> Date {
    today.saturating_sub(jiff::Span::new().days(MOST_DAYS.saturating_sub(1)))
}

impl Usage {
    /// Counts what a client used.
    pub(super) fn add(&self, day: Date, client: &str, counts: &Counts, write: bool) {
        let mut inner = lock(&self.0);
        put(&mut inner.days, day, client, counts);
        // By the clock, and not by the latest day that there is: one that was wrong for a moment, or a file of such a day, would
        // push today out.
        inner.days.retain(|known, _| *known >= first_day(day));
        if write {
            put(&mut inner.unwritten, day, client, counts);
        }
    }

    /// Counts what is written already.
    pub(super) fn recall(&self, day: Date, client: &str, counts: &Counts) {
        put(&mut lock(&self.0).days, day, client, counts);
    }

    /// What is to be written.
    pub(super) fn take_unwritten(&self) -> BTreeMap<Date, Lines> {
        std::mem::take(&mut lock(&self.0).unwritten)
    }

    /// What could not be written.
    pub(super) fn give_back(&self, day: Date, lines: Lines) {
        let mut inner = lock(&self.0);
        for (client, counts) in lines {
            put(&mut inner.unwritten, day, &client, &counts);
        }
    }

    /// The usage of `day`, or of all days.
    pub(super) fn days(&self, day: Option<Date>) -> Vec<DayOfUsage> {
        let inner = lock(&self.0);
        let wanted = inner.days.iter().filter(|(of, _)| day.is_none_or(|day| day == **of));
        wanted.map(|(day, lines)| said(*day, lines)).collect()
    }
}

fn said(day: Date, lines: &Lines) -> DayOfUsage {
    let line = |(client, counts): (&String, &Counts)| UsageLine { client: client.clone(), counts: *counts };
    let mut clients: Vec<UsageLine> = lines.iter().map(line).collect();
    clients.sort_by(|one, other| one.client.cmp(&other.client));
    DayOfUsage { day: day.to_string(), clients }
}

/// Adds to a client's line, or to that of the others where there is no place for another one.
fn put(days: &mut BTreeMap<Date, Lines>, day: Date, client: &str, counts: &Counts) {
    let lines = days.entry(day).or_default();
    if let Some(line) = lines.get_mut(client) {
        line.add(counts);
    } else {
        let name = if lines.len() < MOST_CLIENTS { client } else { OTHERS };
        lines.entry(name.to_owned()).or_default().add(counts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one() -> Counts {
        Counts { requests: 1, prompt_tokens: 2, completion_tokens: 3, ..Counts::default() }
    }

    fn day(text: &str) -> Date {
        text.parse().unwrap()
    }

    #[test]
    fn clients_beyond_the_bound_are_counted_together_and_nothing_is_lost() {
        let usage = Usage::default();
        for number in 0..MOST_CLIENTS + 50 {
            usage.add(day("2026-11-25"), &format!("c{number}"), &one(), true);
        }
        // Who has a line keeps it.
        usage.add(day("2026-11-25"), "c7", &one(), true);
        let days = usage.days(None);
        let lines = &days[0].clients;
        assert_eq!(lines.len(), MOST_CLIENTS + 1);
        let of = |name: &str| lines.iter().find(|line| line.client == name).unwrap().counts.requests;
        assert_eq!((of(OTHERS), of("c7")), (50, 2));
        assert_eq!(lines.iter().map(|line| line.counts.completion_tokens).sum::<u64>(), 3 * (10_000 + 51));
    }

    #[test]
    fn a_day_that_has_not_come_yet_pushes_no_other_out() {
        let usage = Usage::default();
        usage.recall(day("2027-12-31"), "0xa", &one());
        usage.add(day("2026-11-25"), "0xa", &one(), true);
        usage.add(day("2030-01-01"), "0xa", &one(), true);
        usage.add(day("2026-11-25"), "0xa", &one(), true);
        assert_eq!(usage.days(Some(day("2026-11-25"))).len(), 1, "today is told of");
        let unwritten = usage.take_unwritten();
        assert_eq!(unwritten[&day("2026-11-25")]["0xa"].requests, 2, "and written");
    }

    #[test]
    fn days_of_long_ago_make_way() {
        let usage = Usage::default();
        usage.add(day("2026-10-22"), "a", &one(), false);
        usage.add(day("2026-11-25"), "a", &one(), false);
        let days: Vec<String> = usage.days(None).into_iter().map(|day| day.day).collect();
        assert_eq!(days, ["2026-10-22", "2026-11-25"]);
        usage.add(day("2026-11-26"), "a", &one(), false);
        assert_eq!(usage.days(Some(day("2026-10-22"))), []);
        assert_eq!(usage.days(Some(day("2026-11-26")))[0].clients[0].counts, one());
    }

    #[test]
    fn what_could_not_be_written_is_written_later_and_once() {
        let usage = Usage::default();
        usage.add(day("2026-11-25"), "a", &one(), true);
        let taken = usage.take_unwritten();
        assert!(usage.take_unwritten().is_empty());
        for (day, lines) in taken {
            usage.give_back(day, lines);
        }
        usage.add(day("2026-11-25"), "a", &one(), true);
        assert_eq!(usage.take_unwritten()[&day("2026-11-25")]["a"].requests, 2);
        assert_eq!(usage.days(None)[0].clients[0].counts.requests, 2);
    }
}
