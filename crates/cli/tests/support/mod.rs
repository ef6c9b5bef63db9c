//! A node, and a user of the command line.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "each test file uses its part of this, and a test is meant to panic"
)]

pub(crate) mod proxy;
pub(crate) mod way;

use std::{
    ffi::OsString,
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use fabstir_engine::EchoEngine;
use fabstir_llm_node::{config::Args, listener::Listener, metrics, node::Node, server, tls::Tls};
use fabstir_protocol::{ethereum::Address, identity::PrivateKey};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::oneshot};

/// A node on a thread of its own, which ends with the test.
pub(crate) struct TestNode {
    pub(crate) address: SocketAddr,
    pub(crate) identity: Address,
    pub(crate) node: Arc<Node>,
    key: PrivateKey,
    alive: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl TestNode {
    pub(crate) fn start(flags: &[&str]) -> Self {
        Self::slow(flags, Duration::ZERO)
    }

    /// One that takes this long for each token.
    pub(crate) fn slow(flags: &[&str], delay: Duration) -> Self {
        Self::begin("echo", flags, delay, fabstir_client::random_key(), "127.0.0.1:0".parse().unwrap())
    }

    /// One whose model has this name.
    pub(crate) fn serving(model: &'static str) -> Self {
        let anywhere = "127.0.0.1:0".parse().unwrap();
        Self::begin(model, &[], Duration::ZERO, fabstir_client::random_key(), anywhere)
    }

    fn begin(
        model: &'static str,
        flags: &[&str],
        delay: Duration,
        key: PrivateKey,
        address: SocketAddr,
    ) -> Self {
        let secret = key.to_secret_hex();
        let key_text = fabstir_custody::Secret::from(secret.to_string().as_str());
        let argv = ["node"].iter().chain(flags).map(OsString::from);
        let (config, sources) = Args::read(argv, &|_| None).unwrap().resolve(Some(key_text), None).unwrap();
        let keys = fabstir_llm_node::crypto::load_keys(&sources, &config).unwrap();
        let (sender, started) = std::sync::mpsc::sync_channel(1);
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
            let runtime = runtime.unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind(address).await.unwrap();
                let engine = EchoEngine::new(model, 2048).with_delay(delay);
                let tls = config.tls.as_ref().map(Tls::load).transpose().unwrap();
                let node = Node::new(config, keys, Arc::new(engine)).unwrap();
                sender.send((listener.local_addr().unwrap(), Arc::clone(&node))).unwrap();
                tokio::select! {
                    () = server::run(Listener::new(listener, tls), node, metrics::start().unwrap()) => {}
                    Ok(()) = stopped => {}
                }
            });
            // Its connections fall with it, unsaid.
            runtime.shutdown_timeout(Duration::from_secs(5));
        });
        let (address, node) = started.recv().unwrap();
        Self { address, identity: key.address(), node, key, alive: Some((stop, thread)) }
    }

    /// Ends it as a crash would; returns once nothing of it is left.
    pub(crate) fn kill(&mut self) {
        let (stop, thread) = self.alive.take().unwrap();
        stop.send(()).unwrap();
        thread.join().unwrap();
    }

    /// The same node at the same place, after a crash.
    pub(crate) fn revive(self, model: &'static str, flags: &[&str]) -> Self {
        Self::begin(model, flags, Duration::ZERO, self.key, self.address)
    }

    /// How many tokens of answers the nodes of this process have counted: in a test that is alone in its file.
    pub(crate) async fn counted(&self) -> u64 {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let metrics = http.get(format!("http://{}/metrics", self.address)).send().await.unwrap();
        let text = metrics.text().await.unwrap();
        let counts = text.lines().filter_map(|line| line.strip_prefix("fabstir_completion_tokens_total"));
        counts.map(|count| count.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }

    pub(crate) fn public_key(&self) -> String {
        self.key.public_key().to_string()
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
        command.envs(counts());
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

/// Where a build that counts what it runs (scripts/coverage.sh) is to write that.
pub(crate) fn counts() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| name == "LLVM_PROFILE_FILE")
}
