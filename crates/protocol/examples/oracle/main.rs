//! Answers another implementation's questions, so that the two can be compared: one JSON object a line in, one out.
//!
//! `{"ask":"record",…}` and the like are judged ([`judge`]); `{"ask":"generate","seed":7}` gives a question of this side's
//! making with this side's verdict ([`generate`]). sdk/typescript/test/differential.test.ts is the other side.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a tool of the tests: what it is asked wrongly is to be seen"
)]
#![allow(clippy::print_stdout, reason = "its answers are its output")]

mod generate;
mod judge;

use std::io::{self, BufRead as _, Write as _};

use serde_json::{Value, json};

fn main() {
    let mut judge = judge::Judge::default();
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let question: Value = serde_json::from_str(&line.expect("a line")).expect("a JSON object");
        let answer = if question["ask"] == "generate" {
            let mut question = generate::question(question["seed"].as_u64().expect("a seed"));
            question["verdict"] = judge.verdict(&question).into();
            question
        } else {
            json!({ "verdict": judge.verdict(&question) })
        };
        writeln!(out, "{answer}").and_then(|()| out.flush()).expect("somebody who reads");
    }
}
