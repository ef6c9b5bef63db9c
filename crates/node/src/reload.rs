//! What is read again while the node runs: on SIGHUP, and when the operator asks.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use serde::{Deserialize, Serialize};

use crate::{crypto::lock, node::Node, systemd};

/// Reads something again; a word on what there is now, or what was wrong, in which case everything stays as it was.
type Hook = Arc<dyn Fn() -> Result<String, String> + Send + Sync>;

/// What can be read again, each by whose it is.
#[derive(Default)]
pub struct Reloads {
    hooks: Mutex<Vec<(&'static str, Hook)>>,
    one_at_a_time: Mutex<()>,
}

/// What became of one of them.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Reloaded {
    /// What was read again.
    pub what: String,
    /// Whether what it says now holds from now on; otherwise what it said before goes on.
    pub ok: bool,
    /// What there is now, or what was wrong.
    pub message: String,
}

impl Reloads {
    /// Adds something that can be read again. `hook` may block.
    pub fn register(
        &self,
        what: &'static str,
        hook: impl Fn() -> Result<String, String> + Send + Sync + 'static,
    ) {
        lock(&self.hooks).push((what, Arc::new(hook)));
    }

    /// Reads everything again, in the order in which it was registered. Blocks.
    pub fn run(&self) -> Vec<Reloaded> {
        let _alone = lock(&self.one_at_a_time);
        let hooks = lock(&self.hooks).clone();
        let outcome = |(what, hook): (&'static str, Hook)| {
            let outcome = hook();
            let ok = outcome.is_ok();
            Reloaded { what: what.to_owned(), ok, message: outcome.unwrap_or_else(|wrong| wrong) }
        };
        hooks.into_iter().map(outcome).collect()
    }
}

impl fmt::Debug for Reloads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = lock(&self.hooks).iter().map(|(what, _)| *what).collect();
        f.debug_struct("Reloads").field("hooks", &names).finish_non_exhaustive()
    }
}

/// Reads everything again, and says so to the log and to systemd.
pub async fn reload(node: &Arc<Node>) -> Vec<Reloaded> {
    systemd::reloading();
    let work = Arc::clone(node);
    let reloaded = tokio::task::spawn_blocking(move || work.reloads.run()).await.unwrap_or_default();
    for Reloaded { what, ok, message } in &reloaded {
        if *ok {
            tracing::info!(event = "config", what, "Read again: {message}");
        } else {
            tracing::error!(event = "config", what, "Not read again, what was before goes on: {message}");
        }
    }
    if reloaded.is_empty() {
        tracing::info!(event = "config", what = "nothing", "There is nothing to read again");
    }
    systemd::ready("serving");
    reloaded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_again_holds_up_nothing_else() {
        let reloads = Reloads::default();
        reloads.register("certificate", || Err("it has expired".to_owned()));
        reloads.register("clients", || Ok("3 clients".to_owned()));
        let line =
            |what: &str, ok, message: &str| Reloaded { what: what.into(), ok, message: message.into() };
        let expected = [line("certificate", false, "it has expired"), line("clients", true, "3 clients")];
        assert_eq!(reloads.run(), expected);
        assert_eq!(format!("{reloads:?}"), r#"Reloads { hooks: ["certificate", "clients"], .. }"#);
    }
}
