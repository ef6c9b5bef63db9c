//! The inputs that fuzzing found worth keeping, run again without a fuzzer: every file of fuzz/corpus and of
//! fuzz/regressions. `make fuzz` looks for more.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test is meant to panic on what it does not expect, and to say what it counted"
)]

mod targets;

use std::{fs, path::PathBuf};

use targets::{v1_frames, v1_sessions, v2_certificates, v2_handshake, v2_records, v2_resumption};

struct Target {
    name: &'static str,
    run: fn(&[u8]),
    seeds: fn() -> Vec<Vec<u8>>,
}

macro_rules! target {
    ($name:ident) => {
        Target { name: stringify!($name), run: $name::run, seeds: $name::seeds }
    };
}

const TARGETS: [Target; 6] = [
    target!(v1_frames),
    target!(v1_sessions),
    target!(v2_handshake),
    target!(v2_records),
    target!(v2_certificates),
    target!(v2_resumption),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

/// Runs the files of a folder; a file that panics is named first.
fn replay(target: &Target, folder: &str) -> usize {
    let Ok(files) = fs::read_dir(root().join(folder).join(target.name)) else { return 0 };
    let mut paths: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    paths.retain(|path| path.file_name().is_some_and(|name| name != ".gitkeep"));
    for path in &paths {
        let input = fs::read(path).unwrap();
        let run = std::panic::catch_unwind(|| (target.run)(&input));
        assert!(run.is_ok(), "{} breaks {}", path.display(), target.name);
    }
    paths.len()
}

fn replay_all(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    (target.seeds)().iter().for_each(|seed| (target.run)(seed));
    let (kept, mended) = (replay(target, "corpus"), replay(target, "regressions"));
    assert!(kept > 0, "no corpus for {name}");
    println!("{name}: {kept} of the corpus, {mended} that once broke something");
}

macro_rules! replays {
    ($($test:ident: $name:ident),*) => {
        $(
            #[test]
            fn $test() {
                replay_all(stringify!($name));
            }
        )*
    };
}

replays! {
    the_corpus_of_version_1s_frames_still_passes: v1_frames,
    the_corpus_of_version_1s_sessions_still_passes: v1_sessions,
    the_corpus_of_the_handshake_still_passes: v2_handshake,
    the_corpus_of_records_still_passes: v2_records,
    the_corpus_of_certificates_still_passes: v2_certificates,
    the_corpus_of_resumption_still_passes: v2_resumption
}

#[test]
fn every_corpus_is_small_and_belongs_to_a_target() {
    for folder in ["corpus", "regressions"] {
        let Ok(names) = fs::read_dir(root().join(folder)) else { continue };
        for name in names {
            let name = name.unwrap();
            let known = TARGETS.iter().any(|target| target.name == name.file_name());
            assert!(known, "{} is of no target", name.path().display());
            let files: Vec<_> = fs::read_dir(name.path()).unwrap().map(Result::unwrap).collect();
            let bytes: u64 = files.iter().map(|file| file.metadata().unwrap().len()).sum();
            assert!(
                files.len() <= 100 && bytes <= 200_000,
                "{}: {} files",
                name.path().display(),
                files.len()
            );
        }
    }
}

/// Writes what a fuzzer begins with, into fuzz/corpus: `cargo test -p fabstir-protocol --test fuzz -- --ignored`.
#[test]
#[ignore = "writes files"]
fn seeds_are_written() {
    for target in &TARGETS {
        let folder = root().join("corpus").join(target.name);
        fs::create_dir_all(&folder).unwrap();
        for (number, seed) in (target.seeds)().iter().enumerate() {
            fs::write(folder.join(format!("seed-{number:02}")), seed).unwrap();
        }
    }
}
