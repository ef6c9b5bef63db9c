//! Version 2's vectors: made by the reference in `v2_support`, read back from the files, run through the crate.

mod advertisement;
mod bad_delegations;
mod bad_records;
pub(crate) mod cases;
mod eip712;
mod handshake;
mod orders;
mod records;
mod rejected;
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
    rewrite_one("v2/advertisement.json", &advertisement::make());
    rewrite_one("v2/rejected.json", &rejected::make());
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
fn the_advertisements_are_up_to_date() {
    is_up_to_date("v2/advertisement.json", &advertisement::make());
}

#[test]
fn the_rejected_are_up_to_date() {
    is_up_to_date("v2/rejected.json", &rejected::make());
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

#[test]
fn first_frames_are_taken_for_what_they_are() {
    let file: cases::Advertisements = read("v2/advertisement.json");
    all_differ(file.accepted.iter().map(|case| case.name.as_str()));
    all_differ(file.rejected.iter().map(|case| case.name.as_str()));
    file.accepted.iter().for_each(advertisement::run_accepted);
    file.rejected.iter().for_each(advertisement::run_rejected);
    let errors: BTreeSet<_> = file.rejected.iter().map(|case| case.error.as_str()).collect();
    let expected = [
        "certificate_other_key",
        "certificate_signature",
        "certificate_time",
        "certificate_too_long",
        "certificate_version",
        "malformed",
        "no_version_2",
        "other_identity",
    ];
    assert_eq!(errors, BTreeSet::from(expected), "every error that a first frame can earn");
}

#[test]
fn rotations_are_by_the_identity_that_is_left() {
    let file: cases::Advertisements = read("v2/advertisement.json");
    all_differ(file.rotations.iter().map(|case| case.name.as_str()));
    file.rotations.iter().for_each(advertisement::run_rotation);
}

#[test]
fn no_bad_message_of_a_handshake_is_taken() {
    let file: cases::Rejected = read("v2/rejected.json");
    for list in [&file.m1, &file.m2, &file.m3, &file.r1, &file.r2] {
        all_differ(list.iter().map(|case| case.why.as_str()));
    }
    file.m1.iter().for_each(rejected::run_m1);
    file.m2.iter().for_each(rejected::run_m2);
    file.m3.iter().for_each(rejected::run_m3);
    file.r1.iter().for_each(rejected::run_r1);
    file.r2.iter().for_each(rejected::run_r2);
}

#[test]
fn no_bad_record_opens() {
    let file: cases::Rejected = read("v2/rejected.json");
    all_differ(file.records.iter().map(|case| case.why.as_str()));
    file.records.iter().for_each(bad_records::run);
}

#[test]
fn no_record_longer_than_the_most_opens() {
    bad_records::run_longest();
}

#[test]
fn no_bad_delegation_holds() {
    let file: cases::Rejected = read("v2/rejected.json");
    all_differ(file.delegations.iter().map(|case| case.why.as_str()));
    file.delegations.iter().for_each(bad_delegations::run);
    let errors: BTreeSet<_> = file.delegations.iter().map(|case| case.error.as_str()).collect();
    let expected = ["malformed", "other_key", "other_node", "signature", "time", "too_long"];
    assert_eq!(errors, BTreeSet::from(expected), "every error that a delegation can earn");
}

#[test]
fn no_record_out_of_place_is_taken() {
    let file: cases::Rejected = read("v2/rejected.json");
    all_differ(file.orders.iter().map(|case| case.why.as_str()));
    file.orders.iter().for_each(orders::run);
}
