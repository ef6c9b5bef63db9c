//! Version 2's vectors: made by the reference in `v2_support`, read back from the files, run through the crate.

pub(crate) mod cases;
mod eip712;
mod handshake;
mod records;
mod resume;

use std::{collections::BTreeSet, fs};

use serde::Serialize;

use crate::{all_differ, is_up_to_date, made, path, read};

/// A case's number that JavaScript's JSON would round: as text.
pub(crate) fn number(text: &str) -> u64 {
    text.parse().unwrap()
}

fn rewrite_one(name: &str, file: &impl Serialize) {
    fs::write(path(name), made(file)).unwrap();
}

pub(crate) fn rewrite() {
    fs::create_dir_all(path("v2")).unwrap();
    rewrite_one("v2/handshake.json", &handshake::make());
    rewrite_one("v2/resume.json", &resume::make());
    rewrite_one("v2/records.json", &records::make());
    rewrite_one("v2/eip712.json", &eip712::make());
}

#[test]
fn the_handshakes_are_up_to_date() {
    is_up_to_date("v2/handshake.json", &handshake::make());
}

#[test]
fn the_resumptions_are_up_to_date() {
    is_up_to_date("v2/resume.json", &resume::make());
}

#[test]
fn the_records_are_up_to_date() {
    is_up_to_date("v2/records.json", &records::make());
}

#[test]
fn the_typed_data_is_up_to_date() {
    is_up_to_date("v2/eip712.json", &eip712::make());
}

#[test]
fn both_sides_of_a_handshake_say_what_is_written() {
    let file: cases::Handshakes = read("v2/handshake.json");
    all_differ(file.cases.iter().map(|case| case.name.as_str()));
    file.cases.iter().for_each(handshake::run);
}

#[test]
fn both_sides_of_a_resumption_say_what_is_written() {
    let file: cases::Resumptions = read("v2/resume.json");
    all_differ(file.cases.iter().map(|case| case.name.as_str()));
    file.cases.iter().for_each(resume::run);
}

#[test]
fn the_edges_of_the_buckets_are_among_the_handshakes() {
    let file: cases::Handshakes = read("v2/handshake.json");
    let length = |case: &cases::HandshakeCase| 4 + case.delegation.len() / 2 + case.hello.len();
    let lengths: Vec<usize> = file.cases.iter().map(length).collect();
    for edge in [512, 513, 4096] {
        assert!(lengths.contains(&edge), "{edge} is not among {lengths:?}");
    }
}

#[test]
fn records_are_sealed_and_opened_as_written() {
    let file: cases::Records = read("v2/records.json");
    all_differ(file.frames.iter().map(|case| case.name.as_str()));
    file.frames.iter().for_each(records::run_frame);
    let types: BTreeSet<_> = file.frames.iter().map(|case| case.record.r#type.as_str()).collect();
    assert_eq!(types.len(), 8, "every type");
}

#[test]
fn keys_follow_each_other_as_written() {
    let file: cases::Records = read("v2/records.json");
    all_differ(file.runs.iter().map(|case| case.name.as_str()));
    file.runs.iter().for_each(records::run_run);
}

#[test]
fn typed_data_has_the_digests_and_signatures_that_are_written() {
    let file: cases::TypedData = read("v2/eip712.json");
    all_differ(file.signed.iter().map(|case| case.name.as_str()));
    file.signed.iter().for_each(eip712::run_signed);
    let types: BTreeSet<_> = file.signed.iter().map(|case| case.primary_type.as_str()).collect();
    assert_eq!(types.len(), 3, "every type");
}

#[test]
fn delegations_hold_where_it_is_written() {
    let file: cases::TypedData = read("v2/eip712.json");
    all_differ(file.delegations.iter().map(|case| case.name.as_str()));
    file.delegations.iter().for_each(eip712::run_delegation);
}
