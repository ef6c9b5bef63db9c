//! `fabstir attack` against a node that stands and a reference that falls.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test is meant to panic")]

use std::{
    ffi::OsString,
    process::{Command, Output, Stdio},
    sync::Arc,
    time::Duration,
};

use fabstir_engine::EchoEngine;
use fabstir_llm_node::{config::Args, metrics, node::Node, server};
use fabstir_protocol::identity::PublicKey;

/// A node on a thread of its own, which ends with the test.
fn node() -> (String, PublicKey) {
    let key = fabstir_client::random_key();
    let secret = key.to_secret_hex();
    let key_text = fabstir_custody::Secret::from(secret.to_string().as_str());
    let argv = ["node", "--inits-per-minute", "6000", "--session-key-ttl-seconds", "600"].map(OsString::from);
    let (config, sources) = Args::read(argv, &|_| None).unwrap().resolve(Some(key_text), None).unwrap();
    let keys = fabstir_llm_node::crypto::load_keys(&sources, &config).unwrap();
    let (sender, address) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        runtime.unwrap().block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            sender.send(listener.local_addr().unwrap()).unwrap();
            let echo = EchoEngine::new("echo", 2048).with_delay(Duration::from_millis(3));
            let node = Node::new(config, keys, Arc::new(echo)).unwrap();
            server::run(listener, node, metrics::start().unwrap()).await;
        });
    });
    (format!("ws://{}/v1/ws", address.recv().unwrap()), key.public_key())
}

fn attack(arguments: &[&str]) -> (Output, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_fabstir"))
        .arg("attack")
        .args(arguments)
        .env_clear()
        .envs(std::env::vars_os().filter(|(name, _)| name == "LLVM_PROFILE_FILE"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8([&output.stdout[..], &output.stderr].concat()).unwrap();
    (output, text)
}

#[test]
fn a_node_stands_and_the_table_says_so() {
    let (url, key) = node();
    let key = key.to_string();
    for protocol in ["2", "1"] {
        let classes = ["--class", "reorder", "--class", "drop", "--class", "swap", "--parallel", "16"];
        let node = ["--node", &url, "--node-key", &key, "--protocol", protocol];
        let (output, text) = attack(&[&node[..], &classes].concat());
        assert_eq!(output.status.code(), Some(0), "{text}");
        for word in ["class", "accepted", "control", "reorder", "drop", "swap"] {
            assert!(text.contains(word), "{text}");
        }
    }
}

#[test]
fn the_reference_falls_and_that_is_what_it_is_for() {
    let (output, text) = attack(&["--reference", "--parallel", "32"]);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("accepted: "), "{text}");
}

#[test]
fn another_nodes_key_is_not_attacked() {
    let (url, _) = node();
    let other = fabstir_client::random_key().address().to_string();
    let (output, text) = attack(&["--node", &url, "--node-key", &other]);
    assert_eq!(output.status.code(), Some(3), "{text}");
}
