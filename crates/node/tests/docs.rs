//! Pages against the code: the one about operating names every setting as `--help` does and every metric as it is described (UPDATE_DOCS=1 writes
//! it anew), and
//! the one about security names tests that exist.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test is meant to panic")]

mod support;

use std::{collections::BTreeSet, sync::Mutex};

use clap::CommandFactory as _;
use fabstir_llm_node::{config::Args, metrics};
use support::{TestNode, echo};

const BEGIN: &str = "| flag | environment | default | |\n|---|---|---|---|\n";

const METRICS: &str = "| metric | |\n|---|---|\n";

fn table() -> String {
    let mut command = Args::command();
    command.build();
    let mut rows = String::from(BEGIN);
    for argument in command.get_arguments() {
        let Some(flag) = argument.get_long().filter(|flag| !matches!(*flag, "help" | "version")) else {
            continue;
        };
        let variable = flag.to_uppercase().replace('-', "_");
        let defaults: Vec<_> =
            argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        let default = if defaults.is_empty() { String::new() } else { format!("`{}`", defaults.join(",")) };
        let help = argument.get_help().unwrap().to_string();
        rows.push_str(&format!("| `--{flag}` | `{variable}` | {default} | {help} |\n"));
    }
    rows
}

/// Compares the table of docs/operating.md that begins as `expected` does, up to the next empty line, or writes it anew.
fn hold(begin: &str, expected: &str) {
    // Two tests write to one page.
    static PAGE: Mutex<()> = Mutex::new(());
    let _alone = PAGE.lock();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operating.md");
    let page = std::fs::read_to_string(path).unwrap();
    let start = page.find(begin).unwrap();
    let length = page[start..].find("\n\n").unwrap() + 1;
    let written = &page[start..start + length];
    if written != expected && std::env::var_os("UPDATE_DOCS").is_some() {
        let page = format!("{}{expected}{}", &page[..start], &page[start + length..]);
        return std::fs::write(path, page).unwrap();
    }
    assert_eq!(written, expected, "run with UPDATE_DOCS=1");
}

#[test]
fn every_setting_is_on_the_page_as_help_has_it() {
    hold(BEGIN, &table());
}

#[test]
fn every_metric_is_on_the_page_as_it_is_described() {
    let mut rows = String::from(METRICS);
    for (_, name, meaning) in metrics::ALL {
        rows.push_str(&format!("| `{name}` | {meaning} |\n"));
    }
    hold(METRICS, &rows);
}

/// What the page of `/metrics` has, whatever was counted so far, is in the table.
#[tokio::test]
async fn every_metric_that_is_served_is_in_the_table() {
    let node = TestNode::start(echo()).await;
    let mut peer = node.connect().await;
    let mut session = peer.open("1").await.session;
    peer.ask(&mut session, "one two three").await;
    let (status, page) = node.http("GET", "/metrics", &[], "").await;
    assert_eq!(status, 200);
    let served: BTreeSet<&str> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let listed: BTreeSet<&str> = metrics::ALL.iter().map(|(_, name, _)| *name).collect();
    let unknown: Vec<_> = served.difference(&listed).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    // What is measured at every look is there from the start, and what an answer counts is there by now.
    for name in [
        "fabstir_sessions",
        "fabstir_build_info",
        "fabstir_draining",
        "process_resident_memory_bytes",
        "process_open_fds",
        "fabstir_tokio_tasks",
        "fabstir_queue_seconds",
        "fabstir_token_gap_seconds",
        "fabstir_received_bytes_total",
        "fabstir_sent_bytes_total",
        "fabstir_key_operations_total",
    ] {
        assert!(served.contains(name), "{name} is not in:\n{page}");
    }
    let told = ["127.0.0.1", "0x"];
    let labels = page.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('{'));
    for (_, label) in labels {
        assert!(!told.iter().any(|told| label.contains(told)), "{label}");
    }
}

/// Every source below `folder`.
fn sources(folder: &std::path::Path, all: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if path
                .file_name()
                .is_none_or(|name| !["node_modules", "target", "dist"].iter().any(|other| name == *other))
            {
                sources(&path, all);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs" || extension == "ts") {
            all.push_str(&std::fs::read_to_string(&path).unwrap());
            all.push_str(&format!("\n// {}\n", path.display()));
        }
    }
}

/// Of each row of the tables of threats and promises, what stands behind its defence is there: a test by that name, a test
/// file, a model, a set of vectors.
#[test]
fn every_row_of_security_names_tests_that_exist() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = std::fs::read_to_string(root.join("SECURITY.md")).unwrap();
    let mut code = String::new();
    for folder in ["crates", "sdk", "web"] {
        sources(&root.join(folder), &mut code);
    }
    let (mut rows, mut named) = (0, 0);
    let mut columns: Option<Vec<usize>> = None;
    for line in page.lines() {
        if !line.starts_with('|') {
            columns = None;
            continue;
        }
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let Some(shown) = &columns else {
            let head = |(at, cell): (usize, &&str)| {
                (*cell == "shown by" || cell.starts_with("version ")).then_some(at)
            };
            columns = Some(cells.iter().enumerate().filter_map(head).collect());
            continue;
        };
        if line.starts_with("|---") || shown.is_empty() {
            continue;
        }
        rows += 1;
        let mut evidence = 0;
        for cell in shown.iter().filter_map(|at| cells.get(*at)) {
            for name in cell.split('`').skip(1).step_by(2) {
                // A test of the TypeScript side is named by its sentence.
                let sentence = code.contains(&format!("test('{name}'"));
                let name = name.split(' ').next().unwrap();
                let test = sentence || code.contains(&format!("fn {name}("));
                let file = code.contains(&format!("/{name}\n")) || root.join(name).exists();
                assert!(test || file, "SECURITY.md names {name}, and there is no such thing");
                evidence += 1;
            }
            for word in cell.split([' ', ';', ',']) {
                if word.starts_with("docs/") || word.starts_with("vectors/") {
                    assert!(root.join(word).exists(), "{word}");
                    evidence += 1;
                }
            }
        }
        assert!(evidence > 0, "a row of SECURITY.md names no test: {line}");
        named += evidence;
    }
    assert!(rows > 40 && named > rows, "{rows} rows, {named} names");
}
