//! One line a step: for people, or for machines.

use std::{
    io::{self, Write as _},
    time::Instant,
};

use serde_json::{Value, json};

use crate::failure::{Failure, printable};

/// What a step that went well found.
pub(super) struct Finding {
    words: String,
    figures: Value,
}

impl Finding {
    pub(super) fn new(words: String, figures: Value) -> Self {
        Self { words, figures }
    }

    pub(super) fn plain(words: &str) -> Self {
        Self::new(words.to_owned(), json!({}))
    }

    /// With the time since `begun`.
    pub(super) fn timed(words: String, begun: Instant, mut figures: Value) -> Self {
        let time = ms(begun);
        if let Some(figures) = figures.as_object_mut() {
            figures.insert("ms".into(), time.into());
        }
        Self::new(format!("{words}, {time} ms"), figures)
    }
}

/// Milliseconds since then.
pub(super) fn ms(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)
}

pub(super) struct Report {
    json: bool,
}

impl Report {
    pub(super) fn new(json: bool) -> Self {
        Self { json }
    }

    pub(super) fn step(&mut self, name: &str, found: Result<Finding, Failure>) -> Result<(), Failure> {
        match found {
            Ok(Finding { words, figures }) => {
                let line = json!({"step": name, "ok": true, "what": words, "figures": figures});
                Ok(self.line("ok ", name, &words, &line)?)
            }
            Err(failure) => {
                self.failed(name, failure.what());
                Err(failure)
            }
        }
    }

    /// The same of something that the next step needs.
    pub(super) fn take<T>(
        &mut self,
        name: &str,
        got: Result<T, Failure>,
        found: impl FnOnce(&T) -> Finding,
    ) -> Result<T, Failure> {
        match got {
            Ok(got) => self.step(name, Ok(found(&got))).map(|()| got),
            Err(failure) => {
                self.failed(name, failure.what());
                Err(failure)
            }
        }
    }

    /// What is wrong and what to do stands on standard error, where the command ends.
    pub(super) fn failed(&mut self, name: &str, what: &str) {
        let line = json!({"step": name, "ok": false, "what": what});
        let _ = self.line("bad", name, "", &line);
    }

    fn line(&self, verdict: &str, name: &str, words: &str, json: &Value) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.json {
            return writeln!(out, "{json}");
        }
        let line = format!("{verdict}  {name:<14} {words}");
        writeln!(out, "{}", printable(line.trim_end()))
    }
}
