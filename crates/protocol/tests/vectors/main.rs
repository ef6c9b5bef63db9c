//! The vectors: made by the reference in `support`, read back from the files, run through the crate.
//!
//! `UPDATE_VECTORS=1 cargo test -p fabstir-protocol --test vectors` rewrites the files. A difference in review
//! is a change of the protocol.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test is meant to panic, and to do so on what it does not expect"
)]
#![allow(clippy::too_many_lines, clippy::type_complexity, reason = "a table is as long as it has cases")]

mod accepted;
mod cases;
mod derivations;
mod rejected;
#[path = "../support/mod.rs"]
mod support;
mod v2;
#[path = "../v2_support/mod.rs"]
mod v2_support;

use std::{collections::BTreeSet, fs, path::PathBuf, sync::Once};

use serde::{Serialize, de::DeserializeOwned};

fn path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "..", "vectors", name].iter().collect()
}

fn read<T: DeserializeOwned>(name: &str) -> T {
    update();
    let text = fs::read_to_string(path(name)).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn made(file: &impl Serialize) -> String {
    serde_json::to_string_pretty(file).unwrap() + "\n"
}

/// Rewrites the files, once and before anybody reads them, if that was asked for.
fn update() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if std::env::var_os("UPDATE_VECTORS").is_some() {
            fs::write(path("v1-accepted.json"), made(&accepted::make())).unwrap();
            fs::write(path("v1-rejected.json"), made(&rejected::make())).unwrap();
            fs::write(path("v1-derivations.json"), made(&derivations::make())).unwrap();
            v2::rewrite();
        }
    });
}

fn is_up_to_date(name: &str, file: &impl Serialize) {
    update();
    let kept = fs::read_to_string(path(name)).unwrap_or_default();
    assert!(kept == made(file), "{name} is not what the generator makes: see the head of this file");
}

fn all_differ<'a>(names: impl Iterator<Item = &'a str>) {
    let mut seen = BTreeSet::new();
    for name in names {
        assert!(seen.insert(name), "two cases are named {name:?}");
    }
}

#[test]
fn the_accepted_are_up_to_date() {
    is_up_to_date("v1-accepted.json", &accepted::make());
}

#[test]
fn the_rejected_are_up_to_date() {
    is_up_to_date("v1-rejected.json", &rejected::make());
}

#[test]
fn the_derivations_are_up_to_date() {
    is_up_to_date("v1-derivations.json", &derivations::make());
}

#[test]
fn derivations_come_out_as_written() {
    let file: cases::Derivations = read("v1-derivations.json");
    derivations::run(&file);
}

#[test]
fn accepted_frames_are_read_as_written() {
    let file: cases::Accepted = read("v1-accepted.json");
    all_differ(file.frames.iter().map(|case| case.name.as_str()));
    file.frames.iter().for_each(accepted::run_frame);
}

#[test]
fn accepted_sessions_open_on_the_node() {
    let file: cases::Accepted = read("v1-accepted.json");
    all_differ(file.sessions.iter().map(|case| case.name.as_str()));
    file.sessions.iter().for_each(accepted::run_session);
}

#[test]
fn a_client_writes_the_frames_of_its_make_and_opens_the_answers() {
    let file: cases::Accepted = read("v1-accepted.json");
    let written = file.sessions.iter().filter(|case| accepted::run_client(case)).count();
    assert_eq!(written, 6, "three makes, with and without a claim");
}

#[test]
fn accepted_requests_are_read_as_written() {
    let file: cases::Accepted = read("v1-accepted.json");
    all_differ(file.requests.iter().map(|case| case.name.as_str()));
    file.requests.iter().for_each(accepted::run_request);
}

#[test]
fn rejected_frames_give_their_code_on_the_node() {
    let file: cases::Rejected = read("v1-rejected.json");
    all_differ(file.node.iter().map(|case| case.name.as_str()));
    file.node.iter().for_each(rejected::run_node);
}

#[test]
fn rejected_answers_give_their_code_on_the_client() {
    let file: cases::Rejected = read("v1-rejected.json");
    all_differ(file.client.iter().map(|case| case.name.as_str()));
    file.client.iter().for_each(rejected::run_client);
}

#[test]
fn every_code_that_a_frame_alone_can_earn_is_in_the_vectors() {
    use fabstir_protocol::Code;
    let file: cases::Rejected = read("v1-rejected.json");
    let seen: BTreeSet<&str> = file.node.iter().map(|case| case.code.as_str()).collect();
    let expected = [
        Code::MalformedFrame,
        Code::UnknownMessageType,
        Code::MissingSessionId,
        Code::MissingPayload,
        Code::MissingPayloadFields,
        Code::InvalidHexEncoding,
        Code::InvalidNonceSize,
        Code::InvalidPayload,
        Code::DecryptionFailed,
        Code::InvalidSignature,
        Code::ReplayDetected,
        Code::SessionKeyNotFound,
        Code::UnsupportedField,
        Code::InvalidUtf8,
    ];
    assert_eq!(seen, expected.iter().map(|code| code.as_str()).collect());
}
