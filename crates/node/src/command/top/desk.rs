//! What was seen so far, and what it comes to.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::page::Page;
use crate::{admin::Status, ledger::SessionLine};

/// Over how long "lately" goes.
const LATELY: Duration = Duration::from_secs(60);

/// Looks of which the tokens are remembered: a wide screen's.
const HISTORY: usize = 512;

/// What the node said at one moment.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) at: Instant,
    pub(super) status: Status,
    pub(super) sessions: Vec<SessionLine>,
    pub(super) page: Page,
}

/// In which order sessions are shown.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Order {
    /// Whose answers took most, first.
    #[default]
    Tokens,
    /// Who said or heard something last, first.
    Active,
    /// Who is there longest, first.
    Age,
}

impl Order {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::Active => "last active",
            Self::Age => "age",
        }
    }
}

/// Everything that the screen shows.
#[derive(Debug)]
pub(super) struct Desk {
    /// The last minute's looks, the newest last; never empty.
    looks: VecDeque<Look>,
    newest: Look,
    tokens: VecDeque<u64>,
    fault: Option<String>,
    order: Order,
    first_row: usize,
}

impl Desk {
    pub(super) fn new(look: Look) -> Self {
        let newest = look.clone();
        Self {
            looks: VecDeque::from([look]),
            newest,
            tokens: VecDeque::new(),
            fault: None,
            order: Order::default(),
            first_row: 0,
        }
    }

    /// One more look.
    pub(super) fn sees(&mut self, look: Look) {
        self.fault = None;
        // What another process counts begins at 0.
        if look.status.pid != self.newest.status.pid {
            self.looks.clear();
        } else if let Some(rate) = rate(&self.newest, &look, TOKENS) {
            self.tokens.push_back(whole(rate));
            if self.tokens.len() > HISTORY {
                self.tokens.pop_front();
            }
        }
        let old = |first: &Look| look.at.saturating_duration_since(first.at) > LATELY;
        while self.looks.front().is_some_and(old) {
            self.looks.pop_front();
        }
        self.newest = look.clone();
        self.looks.push_back(look);
        // There may be fewer sessions now than were scrolled over.
        self.scrolls(0);
    }

    /// The node did not answer.
    pub(super) fn misses(&mut self, fault: String) {
        self.fault = Some(fault);
    }

    pub(super) fn orders(&mut self) {
        self.order = match self.order {
            Order::Tokens => Order::Active,
            Order::Active => Order::Age,
            Order::Age => Order::Tokens,
        };
        self.first_row = 0;
    }

    pub(super) fn scrolls(&mut self, rows: i32) {
        let by = usize::try_from(rows.unsigned_abs()).unwrap_or(usize::MAX);
        let last = self.newest.sessions.len().saturating_sub(1);
        self.first_row =
            if rows < 0 { self.first_row.saturating_sub(by) } else { self.first_row.saturating_add(by) }
                .min(last);
    }

    pub(super) fn newest(&self) -> &Look {
        &self.newest
    }

    pub(super) fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    pub(super) fn order(&self) -> Order {
        self.order
    }

    /// Tokens a second, look by look.
    pub(super) fn tokens(&self) -> impl DoubleEndedIterator<Item = u64> {
        self.tokens.iter().copied()
    }

    /// How much more of `name` there was a second, lately.
    pub(super) fn rate(&self, name: &str) -> Option<f64> {
        rate(self.looks.front()?, &self.newest, name)
    }

    /// How much more of `name` there was lately, by what `label` says.
    pub(super) fn lately<'a>(&'a self, name: &'a str, label: &str) -> Vec<(&'a str, f64)> {
        let before = self.looks.front().map(|look| look.page.by(name, label)).unwrap_or_default();
        let mut grown: Vec<(&str, f64)> = self.newest.page.by(name, label);
        for (what, value) in &mut grown {
            *value -= before.iter().find(|(there, _)| there == what).map_or(0.0, |(_, value)| *value);
        }
        grown
    }

    /// The bound below which `share` of what a histogram counted lately lies.
    pub(super) fn quantile(&self, name: &str, share: f64) -> Option<f64> {
        let before = &self.looks.front().filter(|_| self.looks.len() > 1)?.page;
        self.newest.page.quantile(before, name, share)
    }

    /// The sessions that are to be shown, from the first row on.
    pub(super) fn sessions(&self) -> Vec<&SessionLine> {
        let mut lines: Vec<&SessionLine> = self.newest.sessions.iter().collect();
        let tokens =
            |line: &SessionLine| line.counts.prompt_tokens.saturating_add(line.counts.completion_tokens);
        // Those that are equal stay as they came: the oldest first.
        match self.order {
            Order::Tokens => lines.sort_by_key(|line| std::cmp::Reverse(tokens(line))),
            Order::Active => lines.sort_by_key(|line| line.idle_seconds),
            Order::Age => lines.sort_by_key(|line| std::cmp::Reverse(line.age_seconds)),
        }
        lines.drain(..self.first_row.min(lines.len()));
        lines
    }
}

/// Tokens that the engine made, or, where it does not say, those of answers that have ended.
pub(super) const TOKENS: &str = "fabstir_tokens_decoded_total";

/// `None` where nothing of it is said, or no time has passed.
fn rate(before: &Look, now: &Look, name: &str) -> Option<f64> {
    let seconds = now.at.saturating_duration_since(before.at).as_secs_f64();
    let grown = now.page.value(name)? - before.page.value(name).unwrap_or(0.0);
    (seconds > 0.0).then(|| grown.max(0.0) / seconds)
}

/// A count as it is drawn.
pub(super) fn whole(value: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "rounded, and cut at both ends"
    )]
    let whole = value.round().clamp(0.0, 1e15) as u64;
    whole
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::ledger::Counts;

    pub(in super::super) fn look(second: u64, pid: u32, tokens: u64) -> Look {
        let status = Status {
            version: "0.1.0".into(),
            state: "serving".into(),
            pid,
            uptime_seconds: second,
            address: None,
            models: vec!["a model".into()],
            connections: 2,
            sessions: 2,
            waiting: 0,
            running: 1,
            engine_restarts: 0,
        };
        let line = |name: &str, tokens, idle_seconds, age_seconds| SessionLine {
            session_id: name.into(),
            version: 2,
            state: "attached".into(),
            client: "anonymous".into(),
            age_seconds,
            idle_seconds,
            counts: Counts { completion_tokens: tokens, ..Counts::default() },
            bytes_in: 0,
            bytes_out: 0,
        };
        let page = format!(
            "{TOKENS} {tokens}\nfabstir_limits_hit_total{{limit=\"inits\"}} {tokens}\nfabstir_engine_slots 4\n\
             fabstir_sessions{{version=\"2\",state=\"attached\"}} 2\n"
        );
        Look {
            at: Instant::now() + Duration::from_secs(second),
            status,
            sessions: vec![line("quiet", 1, 50, 90), line("busy\u{1b}[2J", 9, 0, 60)],
            page: page.parse().unwrap(),
        }
    }

    fn names(desk: &Desk) -> Vec<&str> {
        desk.sessions().iter().map(|line| line.session_id.get(..4).unwrap()).collect()
    }

    #[test]
    fn rates_are_of_the_last_minute_and_of_one_process() {
        let mut desk = Desk::new(look(0, 1, 100));
        assert_eq!(desk.rate(TOKENS), None, "one look is no rate");
        desk.sees(look(10, 1, 200));
        assert_eq!(desk.rate(TOKENS).map(whole), Some(10));
        assert_eq!(desk.lately("fabstir_limits_hit_total", "limit"), [("inits", 100.0)]);
        desk.sees(look(100, 1, 200));
        assert_eq!(desk.rate(TOKENS), None, "what is older than a minute is forgotten");
        desk.sees(look(101, 1, 260));
        assert_eq!(desk.rate(TOKENS).map(whole), Some(60));
        desk.sees(look(102, 2, 5));
        assert_eq!(desk.rate(TOKENS), None, "another process counts anew");
        assert_eq!(desk.tokens().collect::<Vec<_>>(), [10, 0, 60]);
    }

    #[test]
    fn sessions_are_ordered_and_moved_through() {
        let mut desk = Desk::new(look(0, 1, 0));
        assert_eq!(names(&desk), ["busy", "quie"]);
        desk.orders();
        assert_eq!((desk.order(), names(&desk)), (Order::Active, vec!["busy", "quie"]));
        desk.orders();
        assert_eq!((desk.order(), names(&desk)), (Order::Age, vec!["quie", "busy"]));
        desk.scrolls(1);
        assert_eq!(names(&desk), ["busy"]);
        desk.scrolls(100);
        assert_eq!(names(&desk), ["busy"], "the last one stays in sight");
        desk.scrolls(i32::MIN);
        assert_eq!(names(&desk), ["quie", "busy"]);
        desk.scrolls(100);
        // Who is left is seen, wherever the screen had been scrolled to.
        let mut fewer = look(20, 1, 0);
        fewer.sessions.truncate(1);
        desk.sees(fewer);
        assert_eq!(desk.sessions().len(), 1);
    }
}
