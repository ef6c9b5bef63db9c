//! What an operator looks at: the dashboard, the alerts and where they send who is woken.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test is meant to panic")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use fabstir_llm_node::metrics;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every name of a metric in a text, without what a histogram adds to it.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    // But for the program's own name, as RUST_LOG has it.
    let ours = |word: &&str| {
        (word.starts_with("fabstir_") || word.starts_with("process_")) && *word != "fabstir_llm_node"
    };
    words.filter(ours).map(|word| word.strip_suffix("_bucket").unwrap_or(word)).collect()
}

#[test]
fn what_the_desk_asks_for_is_measured() {
    let known: BTreeSet<&str> = metrics::ALL.iter().map(|(_, name, _)| *name).collect();
    for path in
        ["deploy/grafana/fabstir.json", "deploy/prometheus/alerts.yml", "deploy/prometheus/alerts.test.yml"]
    {
        let text = read(path);
        let asked = metrics_in(&text);
        assert!(asked.len() > 10, "{path}");
        let unknown: Vec<_> = asked.difference(&known).collect();
        assert!(unknown.is_empty(), "{path}: {unknown:?}");
    }
    let page = read("docs/operating.md");
    let runbooks = page.split_once("\n## Runbooks\n").unwrap().1;
    let unknown: Vec<_> = metrics_in(runbooks).difference(&known).copied().collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

/// As GitHub makes it of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn every_alert_names_a_runbook_that_is_there_and_is_tried() {
    let page = read("docs/operating.md");
    let there: BTreeSet<String> =
        page.lines().filter_map(|line| line.strip_prefix("### ")).map(anchor).collect();
    let (alerts, tried) = (read("deploy/prometheus/alerts.yml"), read("deploy/prometheus/alerts.test.yml"));
    let named = |key: &'static str| {
        let lines = alerts.lines().map(str::trim).map(move |line| line.trim_start_matches("- "));
        lines.filter_map(move |line| line.strip_prefix(key))
    };
    assert!(named("runbook: ").count() > 10);
    for runbook in named("runbook: ") {
        let anchor = runbook.strip_prefix("docs/operating.md#").unwrap_or_else(|| panic!("{runbook}"));
        assert!(there.contains(anchor), "{runbook} is not there");
    }
    assert_eq!(named("runbook: ").count(), named("alert: ").count(), "each alert has one");
    for alert in named("alert: ") {
        assert!(tried.contains(&format!("alertname: {alert}")), "{alert} is not in alerts.test.yml");
    }
}
