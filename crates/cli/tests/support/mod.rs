//! A node, and a user of the command line.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test file uses its part of this, and a test is meant to panic"
)]

pub(crate) mod proxy;

use std::{
    ffi::OsString,
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::Arc,
    time::Duration,
};

use fabstir_engine::EchoEngine;
use fabstir_llm_node::{config::Args, metrics, node::Node, server};
use fabstir_protocol::ethereum::Address;
use tempfile::TempDir;

/// A node on a thread of its own, which ends with the test.
pub(crate) struct TestNode {
    pub(crate) address: std::net::SocketAddr,
    pub(crate) identity: Address,
    pub(crate) node: Arc<Node>,
}

impl TestNode {
    pub(crate) fn start(flags: &[&str]) -> Self {
        Self::slow(flags, Duration::ZERO)
    }

    /// One that takes this long for each token.
    pub(crate) fn slow(flags: &[&str], delay: Duration) -> Self {
        let key = fabstir_client::random_key();
        let secret = key.to_secret_hex();
        let lookup = |name: &str| (name == "HOST_PRIVATE_KEY").then(|| secret.to_string());
        let argv = ["node"].iter().chain(flags).map(OsString::from);
        let (config, node_key) = Args::read(argv, &lookup).unwrap().resolve(lookup).unwrap();
        let (sender, started) = std::sync::mpsc::sync_channel(1);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
            runtime.unwrap().block_on(async {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                let engine = EchoEngine::new("echo", 2048).with_delay(delay);
                let node = Node::new(config, node_key, Arc::new(engine));
                sender.send((listener.local_addr().unwrap(), Arc::clone(&node))).unwrap();
                server::run(listener, node, metrics::start().unwrap()).await;
            });
        });
        let (address, node) = started.recv().unwrap();
        Self { address, identity: key.address(), node }
    }

    pub(crate) fn url(&self) -> String {
        format!("ws://{}/v1/ws", self.address)
    }
}

/// Somebody with a home of their own.
pub(crate) struct User(TempDir);

impl User {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fabstir"));
        command.args(arguments).env_clear().env("HOME", self.0.path());
        command.env("XDG_CONFIG_HOME", self.file("config")).stdin(Stdio::null());
        command
    }

    pub(crate) fn ask(&self, node: &TestNode, more: &[&str]) -> Output {
        let (url, identity) = (node.url(), node.identity.to_string());
        let mut arguments = vec!["ask", "--node", &url, "--node-key", &identity];
        arguments.extend(more);
        self.run(&arguments)
    }
}

pub(crate) fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

pub(crate) fn assert_exit(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{} {}", out(output), err(output));
}
