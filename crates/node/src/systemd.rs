//! What systemd is told, where it has asked (NOTIFY_SOCKET): ready, stopping, reloading, alive, and that it takes longer.

use std::{sync::Arc, time::Duration};

use sd_notify::NotifyState;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::node::Node;

/// How often more time is asked for, and how much: what misses three in a row is not at work any more.
const EXTEND_EVERY: Duration = Duration::from_secs(5);
const EXTENSION: Duration = Duration::from_secs(20);

/// Nothing depends on its being heard.
fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "systemd could not be told");
    }
}

fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

/// Asks for more time until `work` is done: the start or the stop may take it.
pub async fn at_work<T>(status: &str, work: impl Future<Output = T>) -> T {
    let longer = NotifyState::ExtendTimeoutUsec(micros(EXTENSION));
    tell(&[NotifyState::Status(status), longer.clone()]);
    let mut ticks = interval(EXTEND_EVERY);
    ticks.reset();
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            _ = ticks.tick() => tell(std::slice::from_ref(&longer)),
        }
    }
}

/// The node serves.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The node stops.
pub fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("draining: running answers may finish")]);
}

/// The settings are read again; [`ready`] says that they were.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// Says that the node is alive, twice in the time that systemd gives it (WATCHDOG_USEC), for as long as it is.
///
/// Alive is: the runtime takes a task and finishes it, the registries of sessions can be locked, and the engine has
/// not been out of order for longer than WATCHDOG_ENGINE_SECONDS. An engine that hangs or fails is started again by its
/// own supervisor, which takes less than that; where it does not come back, a new process may help, and systemd starts it.
pub async fn watch(node: Arc<Node>) {
    let Some(period) = sd_notify::watchdog_enabled() else { return };
    let half = period.checked_div(2).unwrap_or(period);
    let mut ticks = interval(half.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Of servers elsewhere a new process would know nothing better.
    let elsewhere = node.config.engine.upstream.is_some();
    let mut engine = Patience::new(if elsewhere { Duration::ZERO } else { node.config.watchdog_engine });
    loop {
        ticks.tick().await;
        let healthy = node.engine.status().healthy;
        if !engine.bears(healthy, Instant::now()) {
            tracing::error!("the engine does not come back: the watchdog is left to end the process");
            continue;
        }
        let looked = tokio::spawn({
            let node = Arc::clone(&node);
            async move { (node.sessions.remembered_inits(), node.channels.count()) }
        });
        if matches!(timeout(half, looked).await, Ok(Ok(_))) {
            tell(&[NotifyState::Watchdog]);
        }
    }
}

/// How long an engine may be out of order.
#[derive(Debug)]
struct Patience {
    limit: Duration,
    out_of_order_since: Option<Instant>,
}

impl Patience {
    fn new(limit: Duration) -> Self {
        Self { limit, out_of_order_since: None }
    }

    /// Whether the engine is still waited for. Without a limit it always is.
    fn bears(&mut self, healthy: bool, now: Instant) -> bool {
        if healthy {
            self.out_of_order_since = None;
            return true;
        }
        let since = *self.out_of_order_since.get_or_insert(now);
        self.limit.is_zero() || now.saturating_duration_since(since) <= self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_is_waited_for_as_long_as_the_setting_says() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut patience = Patience::new(Duration::from_secs(300));
        assert!(patience.bears(false, at(0)) && patience.bears(false, at(300)));
        assert!(!patience.bears(false, at(301)));
        assert!(patience.bears(true, at(302)) && patience.bears(false, at(303)));
        assert!(
            patience.bears(false, at(603)) && !patience.bears(false, at(604)),
            "it counts from the last failure"
        );
    }

    #[test]
    fn without_a_limit_the_engine_is_its_own_supervisors_business() {
        let mut patience = Patience::new(Duration::ZERO);
        let start = Instant::now();
        assert!(
            patience.bears(false, start) && patience.bears(false, start + Duration::from_secs(1_000_000))
        );
    }
}
