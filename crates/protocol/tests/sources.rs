//! The core does no I/O: no socket, file, environment, thread or clock, and nothing that logs.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test is meant to panic")]

use std::{
    fs,
    path::{Path, PathBuf},
};

const FORBIDDEN: &[&str] = &[
    "std::net::Tcp",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "std::fs",
    "std::env",
    "std::thread",
    "std::process",
    "std::io",
    "Instant",
    "SystemTime",
    "std::time",
    "tokio",
    "tracing",
    "println!",
    "unsafe ",
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn no_source_of_the_core_names_a_socket_a_file_a_thread_or_a_clock() {
    let mut found = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    assert!(found.len() >= 13, "only {} sources were found", found.len());
    for path in found {
        let text = fs::read_to_string(&path).unwrap();
        for word in FORBIDDEN {
            assert!(!text.contains(word), "{} names {word}", path.display());
        }
    }
}
