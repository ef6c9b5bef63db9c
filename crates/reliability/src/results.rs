//! Runs rows one after the other and keeps what comes of each at once, so that a run that was broken off goes on.

use std::{
    collections::BTreeMap,
    fs,
    num::NonZeroUsize,
    path::Path,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::ValueEnum as _;
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::{
    args::{Report, Run},
    context::Context,
    outcome::{Outcome, Verdict},
    page,
    rows::Row,
};

/// The last result of each row.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(crate) struct Results {
    pub(crate) rows: BTreeMap<String, Done>,
}

/// A row that was run.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Done {
    pub(crate) form: String,
    pub(crate) date: String,
    pub(crate) commit: String,
    pub(crate) cores: usize,
    pub(crate) seconds: u64,
    pub(crate) outcome: Outcome,
}

impl Results {
    fn read(path: &Path) -> anyhow::Result<Self> {
        match fs::read(path) {
            Ok(json) => serde_json::from_slice(&json).with_context(|| {
                format!("{} cannot be read as results: remove it, or name another file", path.display())
            }),
            Err(_) => Ok(Self::default()),
        }
    }

    fn keep(&self, path: &Path) -> anyhow::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let part = path.with_extension("part");
        fs::write(&part, serde_json::to_string_pretty(self)? + "\n")?;
        Ok(fs::rename(part, path)?)
    }

    /// Whether there is a result of this row, form and commit. A tree with changes has no name that tells it from others.
    fn has(&self, row: Row, form: &str, commit: &str) -> bool {
        let done = self.rows.get(row.name());
        let same = done.is_some_and(|done| done.commit == commit && done.form == form);
        same && !commit.ends_with("-dirty")
            && done.is_some_and(|done| done.outcome.verdict() == Verdict::Kept)
    }
}

/// What a command says, if it can be run and says something.
fn said_by(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let words = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !words.is_empty()).then_some(words)
}

pub(crate) async fn run(run: Run) -> anyhow::Result<ExitCode> {
    let mut results = Results::read(&run.report.results)?;
    let rows = if run.rows.is_empty() { Row::value_variants().to_vec() } else { run.rows.clone() };
    let bar = ProgressBar::new(u64::try_from(rows.len())?);
    bar.set_style(ProgressStyle::with_template("{bar:20} {pos}/{len} {msg} {elapsed}")?);
    let context = Context::new(&run, bar.clone())?;
    let describe = ["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"];
    let commit = said_by("git", &describe).unwrap_or_else(|| "unknown-dirty".into());
    let form = context.form.as_str();
    let mut fine = true;
    for row in rows {
        if !run.fresh && results.has(row, form, &commit) {
            say(&format!("{:<14} has a result of this commit", row.name()));
            bar.inc(1);
            continue;
        }
        context.show(row.name());
        let (start, date) = (Instant::now(), said_by("date", &["-u", "+%Y-%m-%d"]).unwrap_or_default());
        let outcome = one(row, &context).await;
        let seconds = start.elapsed().as_secs();
        fine &= outcome.verdict().is_fine();
        tell(row, seconds, &outcome);
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let done = Done { form: form.into(), date, commit: commit.clone(), cores, seconds, outcome };
        results.rows.insert(row.name().to_owned(), done);
        results.keep(&run.report.results)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    write_page(&run.report, &results)?;
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs a row, which has so long and no longer.
async fn one(row: Row, context: &Context) -> Outcome {
    let minutes = row.minutes(context.form);
    match timeout(Duration::from_secs(minutes.saturating_mul(60)), row.run(context)).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => Outcome::broke_off(format!("{error:#}")),
        Err(_) => Outcome::broke_off(format!("it did not end within {minutes} minutes")),
    }
}

pub(crate) fn report(report: &Report) -> anyhow::Result<ExitCode> {
    let results = Results::read(&report.results)?;
    write_page(report, &results)?;
    let fine = results.rows.values().all(|done| done.outcome.verdict().is_fine());
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn write_page(report: &Report, results: &Results) -> anyhow::Result<()> {
    let Some(page) = &report.page else { return Ok(()) };
    fs::write(page, page::of(results)?).with_context(|| format!("{} cannot be written", page.display()))
}

#[expect(clippy::print_stdout, reason = "what came of a row is what the program is for")]
fn say(words: &str) {
    println!("{words}");
}

fn tell(row: Row, seconds: u64, outcome: &Outcome) {
    let word = outcome.verdict().as_str().trim_matches('*');
    say(&format!("{:<14} {word} ({seconds} s)", row.name()));
    for figure in &outcome.figures {
        let mark = if figure.is_met() { "    " } else { "  ! " };
        say(&format!("{mark}{}: {} ({})", figure.what, page::value(figure), page::goal(figure)));
    }
    for control in &outcome.controls {
        let mark = if control.caught { "    control caught: " } else { "  ! control not caught: " };
        say(&format!("{mark}{}", control.what));
    }
    for words in outcome.notes.iter().chain(&outcome.left_out).chain(&outcome.broke_off) {
        say(&format!("    {words}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(commit: &str, caught: bool) -> Done {
        let mut outcome = Outcome::default();
        outcome.none("dropped", 0);
        outcome.control("one is closed on purpose", caught);
        let (form, date) = ("short".into(), "2026-11-25".into());
        Done { form, date, commit: commit.into(), cores: 2, seconds: 1, outcome }
    }

    #[test]
    fn a_row_that_was_kept_at_this_commit_is_not_run_again() {
        let mut results = Results::default();
        results.rows.insert(Row::Idle.name().into(), done("abc", true));
        assert!(results.has(Row::Idle, "short", "abc"));
        assert!(!results.has(Row::Idle, "long", "abc"));
        assert!(!results.has(Row::Idle, "short", "def"));
        assert!(!results.has(Row::Machine, "short", "abc"));
        results.rows.insert(Row::Idle.name().into(), done("abc-dirty", true));
        assert!(!results.has(Row::Idle, "short", "abc-dirty"), "changes have no name");
        results.rows.insert(Row::Idle.name().into(), done("abc", false));
        assert!(!results.has(Row::Idle, "short", "abc"), "what was not kept is run again");
    }

    #[test]
    fn results_are_read_as_they_were_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep").join("results.json");
        let mut results = Results::default();
        assert_eq!(Results::read(&path).unwrap(), results, "none yet");
        results.rows.insert("idle".into(), done("abc", true));
        results.keep(&path).unwrap();
        assert_eq!(Results::read(&path).unwrap(), results);
        fs::write(&path, "{").unwrap();
        assert!(Results::read(&path).is_err(), "half a file is no file");
    }
}
