//! How long a connection may be open without doing what connections are for.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::{answer::CloseReason, limits::Limit, metrics, node::Node};

/// Since when nothing was said, or there was nothing to say it in.
#[derive(Debug)]
pub(super) struct Patience {
    opened: Instant,
    has_spoken: bool,
    /// Since when there is no session.
    idle_since: Option<Instant>,
}

impl Patience {
    pub(super) fn new(now: Instant) -> Self {
        Self { opened: now, has_spoken: false, idle_since: Some(now) }
    }

    /// A message has come.
    pub(super) fn hears(&mut self) {
        self.has_spoken = true;
    }

    /// When the connection is to be closed if nothing happens, and why. Frames alone do not put that off: whoever has no
    /// session could send one now and then for ever.
    pub(super) fn due(&mut self, node: &Node, has_session: bool, now: Instant) -> Option<Overdue> {
        if has_session {
            self.idle_since = None;
            return None;
        }
        let since = *self.idle_since.get_or_insert(now);
        let at = |since: Instant, patience: Duration| since.checked_add(patience);
        let idle =
            at(since, node.config.idle_connection).map(|at| Overdue { at, limit: Limit::IdleConnection });
        let first = at(self.opened, node.config.first_message)
            .filter(|_| !self.has_spoken)
            .map(|at| Overdue { at, limit: Limit::FirstMessage });
        [first, idle].into_iter().flatten().min_by_key(|overdue| overdue.at)
    }
}

/// When the patience ends, and by which limit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Overdue {
    at: Instant,
    limit: Limit,
}

/// Why the connection is to be closed, when it is; never without a date.
pub(super) async fn run_out(overdue: Option<Overdue>) -> CloseReason {
    let Some(Overdue { at, limit }) = overdue else { return std::future::pending().await };
    sleep_until(at).await;
    metrics::limit_hit(limit);
    if limit == Limit::FirstMessage { CloseReason::NoMessage } else { CloseReason::NoSession }
}
