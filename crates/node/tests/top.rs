//! The operator's screen, in a real terminal.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test is meant to panic"
)]

#[path = "support/process.rs"]
mod spawned;
mod support;

use std::{
    path::PathBuf,
    process::{Command, Output},
    time::{Duration, Instant},
};

use fabstir_protocol::v1::Dialect;
use spawned::{BINARY, NodeProcess};
use support::{PATIENCE, Peer, wallet};

/// A node with a socket for its operator, on which somebody has asked something.
struct Node {
    process: NodeProcess,
    socket: PathBuf,
    dir: tempfile::TempDir,
    peer: Peer,
}

impl Node {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("admin.sock");
        let process = NodeProcess::start(&[], &[("ADMIN_SOCKET", socket.to_str().unwrap())]);
        let mut peer = process.connect().await;
        let mut session = peer.open_as(&wallet(), "seen", Dialect::Deployed).await.session;
        peer.ask(&mut session, "one two three").await;
        Self { process, socket, dir, peer }
    }
}

/// A terminal of its own, in which `top` runs.
struct Terminal {
    server: PathBuf,
}

impl Terminal {
    fn of(node: &Node) -> Self {
        let terminal = Self { server: node.dir.path().join("tmux.sock") };
        // The shell says what the command ended with, and keeps the window open.
        let top = format!(
            "{BINARY} --admin-socket {} top; echo ended with $?; exec cat >/dev/null",
            node.socket.display()
        );
        terminal.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", "110", "-y", "36", &top]);
        terminal
    }

    fn tmux(&self, words: &[&str]) -> Output {
        let mut command = Command::new("tmux");
        command.arg("-u").arg("-S").arg(&self.server).args(words);
        let output = command.env("TERM", "xterm-256color").env("SHELL", "/bin/sh").output().expect("tmux");
        assert!(output.status.success(), "{words:?}: {output:?}");
        output
    }

    fn screen(&self) -> String {
        String::from_utf8(self.tmux(&["capture-pane", "-p"]).stdout).unwrap()
    }

    fn types(&self, key: &str) {
        self.tmux(&["send-keys", key]);
    }

    /// The screen once it shows all of `said`.
    async fn shows(&self, said: &[&str]) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let screen = self.screen();
            if said.iter().all(|part| screen.contains(part)) {
                return screen;
            }
            assert!(Instant::now() < deadline, "{said:?}:\n{screen}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = Command::new("tmux").arg("-S").arg(&self.server).arg("kill-server").output();
    }
}

#[tokio::test]
async fn the_screen_follows_the_node_and_gives_the_terminal_back() {
    let mut node = Node::start().await;
    let terminal = Terminal::of(&node);
    terminal.shows(&["serving", "seen", "tokens/s", "live", "order: tokens"]).await;
    terminal.types("s");
    terminal.shows(&["order: last active"]).await;
    // Who comes now is seen without a key being touched.
    node.peer.open_as(&wallet(), "newcomer", Dialect::Deployed).await;
    terminal.shows(&["newcomer", "2 sessions"]).await;
    terminal.types("q");
    let after = terminal.shows(&["ended with 0"]).await;
    assert!(!after.contains("serving"), "the screen is what it was before:\n{after}");
}

#[tokio::test]
async fn a_node_that_is_gone_is_said_to_be_and_what_was_seen_stays() {
    let node = Node::start().await;
    let terminal = Terminal::of(&node);
    terminal.shows(&["seen"]).await;
    node.process.signal("KILL");
    terminal.shows(&["what is seen is old: no node answers", "seen  "]).await;
    terminal.types("Escape");
    terminal.shows(&["ended with 0"]).await;
}

#[tokio::test]
async fn one_picture_is_text_and_elsewhere_than_on_a_terminal_there_is_no_other() {
    let node = Node::start().await;
    let top = |words: &[&str]| {
        let mut command = Command::new(BINARY);
        command.args(["top"]).args(words).env_clear().env("ADMIN_SOCKET", &node.socket).output().unwrap()
    };
    let once = top(&["--once"]);
    let text = String::from_utf8(once.stdout).unwrap();
    assert!(once.status.success() && text.contains("serving") && text.contains("seen"), "{text}");
    assert!(!text.contains('\u{1b}'), "nothing in it is for a terminal");
    let refused = String::from_utf8(top(&[]).stderr).unwrap();
    assert!(refused.contains("--once"), "{refused}");
    let page =
        Command::new(BINARY).arg("metrics").env_clear().env("ADMIN_SOCKET", &node.socket).output().unwrap();
    let page = String::from_utf8(page.stdout).unwrap();
    assert!(page.contains("\nfabstir_connections 1\n"), "{page}");
}
