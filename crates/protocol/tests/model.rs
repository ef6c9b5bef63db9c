//! The models in docs/model speak of the protocol that the code has: same name, same labels, same messages.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test is meant to panic")]

use std::{fs, path::Path};

fn source(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/v2").join(name)).unwrap()
}

/// The pattern of a handshake as the code has it: `m1 e es | m2 e ee | ...`.
fn messages(source: &str, letter: char) -> String {
    let (_, rest) = source.split_once("messages: &[").unwrap();
    let (rest, _) = rest.split_once("\n};").unwrap();
    let messages: Vec<String> = rest
        .split("&[")
        .skip(1)
        .zip(1..)
        .map(|(tokens, number)| {
            let (tokens, _) = tokens.split_once(']').unwrap();
            let tokens: Vec<String> = tokens
                .split(',')
                .map(|token| token.trim().trim_start_matches("Token::").to_lowercase())
                .filter(|token| !token.is_empty())
                .collect();
            format!("{letter}{number} {}", tokens.join(" "))
        })
        .collect();
    messages.join(" | ")
}

fn name(source: &str) -> &str {
    let (_, rest) = source.split_once("name: \"").unwrap();
    rest.split_once('"').unwrap().0
}

fn line<'a>(model: &'a str, what: &str) -> Vec<&'a str> {
    let prefix = format!("// {what}: ");
    model.lines().filter_map(|line| line.strip_prefix(prefix.as_str())).collect()
}

#[test]
fn the_models_are_of_the_protocol_that_is_spoken() {
    let (handshake, resume) = (source("handshake.rs"), source("resume.rs"));
    let full = (name(&handshake).to_owned(), messages(&handshake, 'm'));
    let again = (name(&resume).to_owned(), messages(&resume, 'r'));
    assert_eq!(full.1, "m1 e es | m2 e ee | m3 s se psk");
    assert_eq!(again.1, "r1 psk e | r2 e ee");
    let labels = ["fabstir-e2ee/2", fabstir_protocol::v2::RESUME_LABEL].join(", ");
    assert!(source("advertisement.rs").contains("b\"fabstir-e2ee/2\""));
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/model");
    let mut seen = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        if !file.starts_with("v2-") {
            continue;
        }
        seen += 1;
        let model = fs::read_to_string(&path).unwrap();
        let (name, messages) = if file.contains("resume") { &again } else { &full };
        assert_eq!(line(&model, "protocol"), [name], "{file}");
        assert_eq!(line(&model, "messages"), [messages], "{file}");
        assert_eq!(line(&model, "labels"), [labels.as_str()], "{file}");
    }
    assert_eq!(seen, 5);
}
