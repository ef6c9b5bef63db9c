//! Version 2, both sides against each other.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    clippy::print_stdout,
    reason = "a test is meant to panic on what it does not expect, and to say what it counted"
)]

mod handshake;
mod kem;
mod limits;
#[path = "../fuzz/targets/model.rs"]
mod model;
mod records;
mod support;
#[path = "../v2_support/mod.rs"]
mod v2_support;

use v2_support::portable;
