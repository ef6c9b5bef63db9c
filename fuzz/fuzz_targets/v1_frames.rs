#![no_main]

#[path = "../../crates/protocol/tests/fuzz/targets/mod.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::v1_frames::run(data));
