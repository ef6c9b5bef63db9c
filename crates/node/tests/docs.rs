//! The page about operating names every setting as `--help` does. UPDATE_DOCS=1 writes it anew.

#![allow(clippy::unwrap_used, reason = "a test is meant to panic")]

use clap::CommandFactory as _;
use fabstir_llm_node::config::Args;

const BEGIN: &str = "| flag | environment | default | |\n|---|---|---|---|\n";

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

#[test]
fn every_setting_is_on_the_page_as_help_has_it() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operating.md");
    let page = std::fs::read_to_string(path).unwrap();
    let start = page.find(BEGIN).unwrap();
    let length = page[start..].find("\n\n").unwrap() + 1;
    let written = &page[start..start + length];
    let expected = table();
    if written != expected && std::env::var_os("UPDATE_DOCS").is_some() {
        let page = format!("{}{expected}{}", &page[..start], &page[start + length..]);
        return std::fs::write(path, page).unwrap();
    }
    assert_eq!(written, expected, "run with UPDATE_DOCS=1");
}
