//! The operator's way to a node that runs: its socket, its commands, its metrics.

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
    fs::{self, Permissions},
    net::TcpListener,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::PathBuf,
    process::{Command, Output},
    time::{Duration, Instant},
};

use fabstir_client::{Config, Request, Session, anonymous};
use fabstir_protocol::v1::Dialect;
use serde_json::{Value, json};
use spawned::{BINARY, NodeProcess};
use support::{PATIENCE, TestNode, echo, rng, until, wallet};
use tokio::time::timeout;

/// A node with a socket for its operator.
struct Administered {
    node: NodeProcess,
    socket: PathBuf,
    _dir: tempfile::TempDir,
}

impl Administered {
    fn start(flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("admin.sock");
        let node = NodeProcess::start(flags, &[("ADMIN_SOCKET", socket.to_str().unwrap())]);
        Self { node, socket, _dir: dir }
    }

    fn command(&self, words: &[&str]) -> Output {
        let mut command = Command::new(BINARY);
        command.args(words).env_clear().env("ADMIN_SOCKET", &self.socket).output().unwrap()
    }

    /// What the command says, which succeeds.
    fn says(&self, words: &[&str]) -> String {
        let output = self.command(words);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.says(words)).unwrap()
    }
}

#[tokio::test]
async fn the_operator_sees_who_is_there_and_what_they_took() {
    let node = Administered::start(&[]);
    assert_eq!(node.json(&["sessions", "--json"]), json!({ "sessions": [] }));
    let wallet = wallet();
    let mut peer = node.node.connect().await;
    let mut session = peer.open_as(&wallet, "my-session", Dialect::Deployed).await.session;
    peer.ask(&mut session, "one two three").await;
    let sessions = node.json(&["sessions", "--json"]);
    let line = &sessions["sessions"][0];
    assert_eq!(line["session_id"], "my-session");
    assert_eq!((&line["version"], &line["state"]), (&json!(1), &json!("live")));
    assert_eq!(line["client"], wallet.address().to_string());
    assert_eq!((&line["requests"], &line["completion_tokens"]), (&json!(1), &json!(3)));
    assert!(line["bytes_in"].as_u64().unwrap() > 0 && line["bytes_out"].as_u64().unwrap() > 0, "{line}");
    let table = node.says(&["sessions"]);
    assert!(table.starts_with("session ") && table.contains("my-session  1        live"), "{table}");
    let status = node.says(&["status"]);
    assert!(status.contains("serving") && status.contains(&node.node.pid().to_string()), "{status}");
    // The setting is a flag too, before the command or after it.
    let socket = node.socket.to_str().unwrap();
    for words in [["--admin-socket", socket, "status"], ["status", "--admin-socket", socket]] {
        let output = Command::new(BINARY).args(words).env_clear().output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

/// The state of the only session there is.
fn state(node: &TestNode) -> String {
    let lines = node.node.ledger.sessions();
    lines.first().map_or_else(|| "none".to_owned(), |line| line.state.clone())
}

#[tokio::test]
async fn a_session_of_version_2_is_attached_then_lost_then_a_ticket_then_gone() {
    let node = TestNode::with(echo(), &[], |config| {
        config.channels.grace = Duration::from_millis(100);
        config.channels.keep = Duration::from_millis(300);
        config.channels.ticket = Duration::from_millis(600);
    })
    .await;
    let url = format!("ws://{}/v1/ws", node.address);
    let config = Config::new(url, node.key.address(), anonymous());
    let session = Session::connect(config).await.unwrap();
    let answer = session.ask(&Request::prompt("hello")).await.unwrap();
    timeout(PATIENCE, answer.text()).await.unwrap().unwrap();
    assert_eq!(state(&node), "attached");
    session.lose_connection_for(PATIENCE);
    until("the session to be lost", || state(&node) == "lost").await;
    until("its words to be gone", || state(&node) == "ticket").await;
    until("it to be gone", || state(&node) == "none").await;
}

#[tokio::test]
async fn sessions_are_counted_by_version_and_state() {
    let node = NodeProcess::start(&[], &[]);
    let mut peer = node.connect().await;
    peer.open("here").await;
    let mut leaving = node.connect().await;
    leaving.open("away").await;
    drop(leaving);
    let config = Config::new(format!("ws://{}/v1/ws", node.address), node.key.address(), anonymous());
    let _session = Session::connect(config).await.unwrap();
    let wanted = [
        r#"fabstir_sessions{version="1",state="live"} 1"#,
        r#"fabstir_sessions{version="1",state="grace"} 1"#,
        r#"fabstir_sessions{version="2",state="attached"} 1"#,
        r#"fabstir_sessions{version="2",state="lost"} 0"#,
    ];
    let deadline = Instant::now() + PATIENCE;
    loop {
        let page = node.get("/metrics").await;
        if wanted.iter().all(|line| page.contains(line)) {
            return;
        }
        assert!(Instant::now() < deadline, "{page}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn the_operator_asks_for_a_drain_and_the_node_ends_with_zero() {
    let node = Administered::start(&[]);
    let mut peer = node.node.connect().await;
    let mut session = peer.open("1").await.session;
    let words = "word ".repeat(300);
    let frame = session.message(words.as_bytes(), &mut rng()).unwrap();
    peer.send(frame).await;
    node.node.said.wait_for("Encrypted message decrypted successfully");
    assert!(node.says(&["drain"]).contains("the node drains"));
    // It can still be asked how far it is, if it has not ended already.
    let output = node.command(&["status"]);
    assert!(!output.status.success() || String::from_utf8_lossy(&output.stdout).contains("draining"));
    assert_eq!(peer.hear(&session).await.text, words);
    node.command(&["drain", "--wait"]);
    assert!(!node.socket.exists(), "the socket goes with the node");
    let (status, _) = node.node.finish();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_reload_says_what_was_read_again() {
    let node = Administered::start(&[]);
    assert_eq!(node.says(&["reload"]).trim(), "there is nothing to read again");
    node.node.said.wait_for("There is nothing to read again");
}

/// What the running node does not know of yet keeps nobody from asking it.
#[test]
fn a_slip_in_the_settings_leaves_the_operator_a_way_to_the_node() {
    let node = Administered::start(&[]);
    let file = node.socket.with_file_name("node.toml");
    fs::write(&file, "max_session = 5\n").unwrap();
    let asked = |words: &[&str]| {
        let mut command = Command::new(BINARY);
        command
            .args(words)
            .env_clear()
            .env("ADMIN_SOCKET", &node.socket)
            .env("CONFIG_FILE", &file)
            .output()
            .unwrap()
    };
    let status = asked(&["status"]);
    assert!(status.status.success(), "{status:?}");
    assert!(String::from_utf8_lossy(&status.stdout).contains("serving"), "{status:?}");
    assert!(String::from_utf8_lossy(&status.stderr).contains("max_session"), "{status:?}");
    // What is done with the settings themselves is not done with half of them.
    assert!(!asked(&["config", "check"]).status.success());
    assert!(!asked(&["statuses"]).status.success());
}

#[test]
fn nobody_else_may_ask() {
    let node = Administered::start(&[]);
    let mode = |path: &PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&node.socket), 0o600);
    // Even where somebody opens the way to it: whose process asks is looked at.
    fs::set_permissions(&node.socket, Permissions::from_mode(0o666)).unwrap();
    fs::set_permissions(node.socket.parent().unwrap(), Permissions::from_mode(0o755)).unwrap();
    let ask = |user: Option<u32>| {
        let mut curl = Command::new("curl");
        curl.args(["-s", "--unix-socket"]).arg(&node.socket).arg("http://node/status").current_dir("/");
        user.map(|user| curl.uid(user));
        curl.output()
    };
    assert!(String::from_utf8(ask(None).unwrap().stdout).unwrap().contains("serving"));
    // Only root may ask as somebody else; where the tests run as another user, the unit test stands alone.
    if let Ok(output) = ask(Some(65534)) {
        assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
        node.node.said.wait_for("another user was turned away from ADMIN_SOCKET");
    }
}

#[test]
fn a_request_that_is_none_is_refused_with_a_sentence() {
    let node = Administered::start(&[]);
    let curl = |arguments: &[&str]| {
        let output = Command::new("curl")
            .args(["-s", "-w", " %{http_code}", "--unix-socket"])
            .arg(&node.socket)
            .args(arguments)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(curl(&["http://node/secrets"]), r#"{"refused":{"message":"there is no such request"}} 404"#);
    // What changes something is not done by looking at it.
    assert!(curl(&["http://node/drain"]).ends_with(" 405"));
    assert!(curl(&["http://node/usage?day=yesterday"]).ends_with("a day looks like 2026-11-25\"}} 400"));
    assert!(node.says(&["status"]).contains("serving"));
}

#[test]
fn without_a_node_there_is_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let run = |words: &[&str]| {
        let output = Command::new(BINARY).args(words).current_dir(dir.path()).env_clear().output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = run(&["sessions"]);
    assert!(code == Some(1) && said.contains("ADMIN_SOCKET is not set"), "{said}");
    let (code, said) = run(&["sessions", "--admin-socket", "nowhere.sock"]);
    assert!(code == Some(1) && said.contains("no node answers at nowhere.sock"), "{said}");
}

#[test]
fn the_socket_of_a_node_that_was_killed_makes_way() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("admin.sock");
    let env = [("ADMIN_SOCKET", socket.to_str().unwrap())];
    let first = NodeProcess::start(&[], &env);
    first.signal("KILL");
    first.finish();
    assert!(socket.exists());
    let _second = NodeProcess::start(&[], &env);
    let output = Command::new(BINARY).args(["status"]).env_clear().envs(env).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    // One that lives keeps its own.
    let third = Command::new(BINARY).args(spawned::ECHO).env_clear().envs(env).output().unwrap();
    assert!(String::from_utf8_lossy(&third.stderr).contains("another node answers at"), "{third:?}");
}

/// On the main port the metrics are for this machine; where they have an address of their own, they are there alone.
#[tokio::test]
async fn metrics_are_for_this_machine_or_for_their_own_address() {
    let node = TestNode::start(echo()).await;
    for path in ["/metrics", "/v1/metrics/session_keys"] {
        assert_eq!(node.http("GET", path, &[], "").await.0, 200, "{path}");
        // A proxy on this machine asks for somebody else.
        let (status, body) = node.http("GET", path, &[("x-forwarded-for", "192.0.2.1")], "").await;
        assert!(status == 404 && body.contains("NOT_FOUND"), "{path}: {status} {body}");
    }
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let node = NodeProcess::start(&["--metrics-listen", &free.to_string()], &[]);
    assert!(node.get("/metrics").await.starts_with("HTTP/1.1 404"));
    assert!(node.get("/v1/metrics/session_keys").await.starts_with("HTTP/1.1 200"));
    let output = Command::new("curl").args(["-s", &format!("http://{free}/metrics")]).output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().contains("fabstir_sessions_active"));
    let nothing = Command::new("curl").args(["-s", &format!("http://{free}/v1/ws")]).output().unwrap();
    assert!(String::from_utf8(nothing.stdout).unwrap().contains("NOT_FOUND"), "nothing else is served there");
}

#[test]
fn metrics_that_other_machines_reach_are_warned_of() {
    let free = TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap();
    let node = NodeProcess::start(&["--metrics-listen", &free.to_string()], &[]);
    node.said.wait_for("METRICS_LISTEN is open to other machines");
}

#[test]
fn a_list_that_cannot_be_read_again_is_said_and_the_command_fails() {
    let dir = tempfile::tempdir().unwrap();
    let denied = dir.path().join("denied");
    fs::write(&denied, "# nobody yet\n").unwrap();
    let node = Administered::start(&["--denied-clients-file", denied.to_str().unwrap()]);
    assert!(node.says(&["reload"]).contains("read again"));
    fs::write(&denied, "0x70997970c51812dc3a010c7d01b50e0d17dc79c8\nnonsense\n").unwrap();
    for broken in ["denied, line 2", "No such file"] {
        let output = node.command(&["reload"]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("NOT read again") && said.contains(broken), "{said}");
        let _ = fs::remove_file(&denied);
    }
    fs::write(&denied, "\u{feff}0x70997970c51812dc3a010c7d01b50e0d17dc79c8\n").unwrap();
    assert!(node.says(&["reload"]).contains("read again"), "a mark at the beginning is no client");
}
