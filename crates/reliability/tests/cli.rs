//! The suite as a command: what it names, and what it says of results.

#![allow(clippy::unwrap_used, reason = "a test is meant to panic")]

use std::process::{Command, Output};

fn reliability(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fabstir-reliability")).args(arguments).env_clear().output().unwrap()
}

#[test]
fn the_list_names_every_row_that_the_page_has() {
    let output = reliability(&["list"]);
    assert!(output.status.success());
    let list = String::from_utf8(output.stdout).unwrap();
    let page = include_str!("../../../docs/reliability.md");
    for line in list.lines() {
        let name = line.split_whitespace().next().unwrap();
        assert!(page.contains(name), "{name} is not on the page: fabstir-reliability report");
    }
    assert!(list.lines().count() >= 12, "{list}");
}

#[test]
fn the_page_is_what_the_results_say() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.md");
    let results = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reliability/results.json");
    reliability(&["report", "--results", results, "--page", page.to_str().unwrap()]);
    let written = std::fs::read_to_string(page).unwrap();
    let kept = include_str!("../../../docs/reliability.md");
    assert_eq!(written, kept, "run fabstir-reliability report");
}

#[test]
fn a_node_that_is_not_there_is_said_to_be_missing() {
    let output = reliability(&["run", "--node", "/nowhere/node", "--results", "/nowhere/results.json"]);
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("/nowhere/node is not there: build it first"), "{said}");
}
