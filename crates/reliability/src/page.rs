//! docs/reliability.md, out of the results.

use std::fmt::Write as _;

use clap::ValueEnum as _;

use crate::{
    outcome::{Figure, Goal},
    results::{Done, Results},
    rows::Row,
};

const HEAD: &str = "\
# Reliability

`make reliability` starts the node's own binary, does to it what networks, clients and machines do, and writes this page from
docs/reliability/results.json. `fabstir-reliability list` names the rows, `make reliability ROWS=\"idle kill\"` runs some of them;
rows that were kept at this commit are not run again unless FRESH=1. Everything is loaded over loopback. The short form (`SHORT=1`)
does less of everything, with a debug build, and gives what must not take long ten times as long.

A row is **kept** only if every figure meets its goal *and* every control was caught: the same check with a fault put in, or
with the defence off. Figures without a goal are measured and said.

What the tests themselves are worth is measured apart: docs/mutants.md (which changes of the protocol they notice) and
docs/coverage.md (which lines they run).
";

pub(crate) fn of(results: &Results) -> anyhow::Result<String> {
    let mut page = String::from(HEAD);
    writeln!(
        page,
        "\n| row | what | verdict | form | commit | date | cores | seconds |\n|---|---|---|---|---|---|---|---|"
    )?;
    for row in Row::value_variants() {
        let (name, what) = (row.name(), row.what());
        match results.rows.get(name) {
            Some(done) => {
                let Done { form, date, commit, cores, seconds, outcome } = done;
                let verdict = outcome.verdict().as_str();
                writeln!(
                    page,
                    "| [{name}](#{name}) | {what} | {verdict} | {form} | {commit} | {date} | {cores} | {seconds} |"
                )?;
            }
            None => writeln!(page, "| {name} | {what} | not run yet | | | | | |")?,
        }
    }
    for row in Row::value_variants() {
        if let Some(done) = results.rows.get(row.name()) {
            section(&mut page, *row, done)?;
        }
    }
    Ok(page)
}

fn section(page: &mut String, row: Row, done: &Done) -> std::fmt::Result {
    let outcome = &done.outcome;
    let short = if done.form == "short" { " --short" } else { "" };
    writeln!(page, "\n## {}\n\n{}. `fabstir-reliability run {}{short}`", row.name(), row.what(), row.name())?;
    if !outcome.figures.is_empty() {
        writeln!(page, "\n| figure | goal | measured | |\n|---|---|---|---|")?;
    }
    for figure in &outcome.figures {
        let met = match (figure.goal, figure.is_met()) {
            (Goal::Said, true) => "",
            (_, true) => "kept",
            (_, false) => "**missed**",
        };
        writeln!(page, "| {} | {} | {} | {met} |", cell(&figure.what), goal(figure), value(figure))?;
    }
    for (number, control) in outcome.controls.iter().enumerate() {
        let caught = if control.caught { "caught" } else { "**not caught**" };
        let before = if number == 0 { "\n" } else { "" };
        writeln!(page, "{before}* control: {}: {caught}", control.what)?;
    }
    for words in outcome.notes.iter().chain(&outcome.left_out).chain(&outcome.broke_off) {
        writeln!(page, "\n{}", words.trim())?;
    }
    Ok(())
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

pub(crate) fn value(figure: &Figure) -> String {
    with_unit(figure.value, &figure.unit)
}

pub(crate) fn goal(figure: &Figure) -> String {
    match figure.goal {
        Goal::AtMost(most) => format!("≤ {}", with_unit(most, &figure.unit)),
        Goal::AtLeast(least) => format!("≥ {}", with_unit(least, &figure.unit)),
        Goal::Exactly(wanted) => with_unit(wanted, &figure.unit),
        Goal::Said => "said".to_owned(),
    }
}

fn with_unit(value: f64, unit: &str) -> String {
    // Three digits that mean something are enough; counts are whole.
    let digits = if value.fract().abs() < f64::EPSILON {
        format!("{value:.0}")
    } else if value.abs() < 10.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.1}")
    };
    if unit.is_empty() { digits } else { format!("{digits} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Outcome;

    #[test]
    fn a_page_says_goal_figure_and_control_of_each_row_and_names_those_not_run() {
        let mut outcome = Outcome::default();
        outcome.figure("wait, p99", 61.25, "ms", Goal::AtMost(50.0));
        outcome.control("somebody stays", true);
        let (form, date) = ("short".into(), "2026-11-25".into());
        let done = Done { form, date, commit: "abc".into(), cores: 2, seconds: 9, outcome };
        let mut results = Results::default();
        results.rows.insert("disconnect".into(), done);
        let page = of(&results).unwrap();
        assert!(page.contains("| wait, p99 | ≤ 50 ms | 61.2 ms | **missed** |"), "{page}");
        assert!(page.contains("* control: somebody stays: caught"), "{page}");
        assert!(page.contains("`fabstir-reliability run disconnect --short`"), "{page}");
        assert!(page.contains("| idle |") && page.contains("| not run yet |"), "{page}");
    }
}
