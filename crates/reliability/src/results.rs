//! Runs rows and keeps what comes of each at once, so that a run that was broken off goes on.

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
use futures_util::{StreamExt as _, stream};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::{
    args::{Report, Run},
    context::{Context, Form},
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

/// The last commit that changed anything but what this program writes; with a word behind it where there are changes.
fn commit() -> String {
    const OURS: [&str; 4] = ["--", ":/", ":/!docs/reliability", ":/!docs/reliability.md"];
    let git = |command: &[&str]| said_by("git", &[command, &OURS].concat());
    let Some(commit) = git(&["log", "-1", "--format=%h", "--abbrev=12"]) else {
        return "unknown-dirty".into();
    };
    let changed = git(&["status", "--porcelain"]).is_some();
    if changed { format!("{commit}-dirty") } else { commit }
}

pub(crate) async fn run(run: Run) -> anyhow::Result<ExitCode> {
    let mut results = Results::read(&run.report.results)?;
    let rows = if run.rows.is_empty() { Row::value_variants().to_vec() } else { run.rows.clone() };
    let bar = ProgressBar::new(u64::try_from(rows.len())?);
    bar.set_style(ProgressStyle::with_template("{bar:20} {pos}/{len} {msg} {elapsed}")?);
    let context = Context::new(&run, bar.clone())?;
    let commit = commit();
    let form = context.form.as_str();
    let is_done = |row: &Row| !run.fresh && results.has(*row, form, &commit);
    let (done, due): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(is_done);
    for row in done {
        say(&format!("{:<14} was kept at this commit: not run again", row.name()));
    }
    bar.set_length(u64::try_from(due.len())?);
    let mut fine = true;
    // In the short form two at a time: most of it is waiting, and nothing is measured in earnest.
    let at_once = context.form.of(1, 2);
    let mut running =
        stream::iter(in_order(due, context.form)).map(|row| timed(row, &context)).buffer_unordered(at_once);
    while let Some((row, mut done)) = running.next().await {
        fine &= done.outcome.verdict().is_fine();
        bar.suspend(|| tell(row, done.seconds, &done.outcome));
        done.commit.clone_from(&commit);
        results.rows.insert(row.name().to_owned(), done);
        results.keep(&run.report.results)?;
        bar.inc(1);
    }
    drop(running);
    bar.finish_and_clear();
    write_page(&run.report, &results)?;
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The longest first where another runs beside it.
fn in_order(mut rows: Vec<Row>, form: Form) -> Vec<Row> {
    if form == Form::Short {
        rows.sort_by_key(|row| *row != Row::Soak);
    }
    rows
}

async fn timed(row: Row, context: &Context) -> (Row, Done) {
    let (start, date) = (Instant::now(), said_by("date", &["-u", "+%Y-%m-%d"]).unwrap_or_default());
    let outcome = one(row, context).await;
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let (form, seconds) = (context.form.as_str().to_owned(), start.elapsed().as_secs());
    (row, Done { form, date, commit: String::new(), cores, seconds, outcome })
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
        assert!(!results.has(Row::Soak, "short", "abc"));
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
