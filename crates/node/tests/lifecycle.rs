//! How a node ends and how the next one begins: the drain, sockets that are passed on, what systemd is told.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test is meant to panic"
)]

#[path = "support/process.rs"]
mod spawned;
mod support;

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixDatagram,
    },
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use fabstir_client::{Answer, Config, Error, Event, Request, Session, anonymous};
use fabstir_protocol::v1::Dialect;
use spawned::{BINARY, ECHO, NodeProcess, fresh_key, handed, node_in};
use support::{PATIENCE, Peer, TestNode, init, rng, slow_echo, until, wallet};
use tokio::time::timeout;

/// A node with an answer that goes on for a while, of which something has come.
async fn busy(drain: Duration) -> (TestNode, Session, Answer) {
    let node = TestNode::with(slow_echo(Duration::from_millis(20)), &[], |config| config.drain = drain).await;
    let session = open(&node).await.unwrap();
    let mut answer = session.ask(&Request::prompt("word ".repeat(1000))).await.unwrap();
    assert!(matches!(timeout(PATIENCE, answer.next()).await.unwrap().unwrap(), Some(Event::Text(_))));
    (node, session, answer)
}

async fn open(node: &TestNode) -> Result<Session, Error> {
    let url = format!("ws://{}/v1/ws", node.address);
    let config = Config::new(url, node.key.address(), anonymous());
    Session::connect(Config { resume_for: Duration::from_millis(1), ..config }).await
}

#[tokio::test]
async fn who_comes_while_a_node_drains_is_told_so() {
    let (node, _session, _answer) = busy(PATIENCE).await;
    node.node.draining.cancel();
    assert_eq!(node.http("GET", "/health", &[], "").await.0, 200);
    let (status, body) = node.http("GET", "/ready", &[], "").await;
    assert!(status == 503 && body.contains("draining"), "{status} {body}");
    // Version 1: a connection that is made now, and an init on it.
    let mut peer = node.connect().await;
    let (late, _) = init(&node.key, &wallet(), "late", Dialect::Deployed, true);
    assert_eq!(peer.outcome(late).await, "DRAINING");
    assert_eq!(peer.close_code().await, Some(1001));
    let (probe, _) = init(&node.key, &wallet(), "probe", Dialect::Deployed, true);
    let (status, body) = node.http("POST", "/v1/ws", &[], &probe).await;
    assert!(status == 503 && body.contains("DRAINING"), "{status} {body}");
    // Version 2: a handshake.
    match open(&node).await {
        Err(Error::Refused { code, .. }) => assert_eq!(code, "DRAINING"),
        other => panic!("{other:?}"),
    }
    node.node.stopping.cancel();
    node.stop().await;
}

/// Whoever comes while a node drains and asks for nothing does not keep it.
#[tokio::test]
async fn a_drain_does_not_wait_for_who_says_nothing() {
    let (node, _session, _answer) = busy(PATIENCE).await;
    node.node.draining.cancel();
    let mut silent = node.connect().await;
    let since = Instant::now();
    assert_eq!(silent.close_code().await, Some(1001));
    assert!(since.elapsed() < Duration::from_secs(10));
    node.node.stopping.cancel();
    node.stop().await;
}

/// A balancer that still sends clients to a node that drains has it say so for a while, though nothing runs.
#[tokio::test]
async fn a_drain_lasts_as_long_as_it_is_to_at_least() {
    let least = Duration::from_millis(700);
    let node =
        TestNode::with(slow_echo(Duration::from_millis(1)), &[], |config| config.drain_at_least = least)
            .await;
    let since = Instant::now();
    node.node.draining.cancel();
    assert_eq!(node.connect().await.close_code().await, Some(1001), "the socket is open meanwhile");
    node.stop().await;
    assert!(since.elapsed() >= least);
}

#[tokio::test]
async fn a_session_can_be_resumed_while_the_node_drains_and_its_answer_finishes() {
    let node = TestNode::start(slow_echo(Duration::from_millis(5))).await;
    let url = format!("ws://{}/v1/ws", node.address);
    let session = Session::connect(Config::new(url, node.key.address(), anonymous())).await.unwrap();
    // Somebody else's answer keeps the node while this one has no connection.
    let other = open(&node).await.unwrap();
    let _theirs = other.ask(&Request::prompt("word ".repeat(1000))).await.unwrap();
    let mut answer = session.ask(&Request::prompt("word ".repeat(300))).await.unwrap();
    assert!(matches!(timeout(PATIENCE, answer.next()).await.unwrap().unwrap(), Some(Event::Text(_))));
    node.node.draining.cancel();
    session.lose_connection();
    let (_, end) = timeout(PATIENCE, answer.text()).await.unwrap().unwrap();
    assert_eq!((end.finish_reason.as_str(), end.usage.unwrap().completion_tokens), ("stop", 300));
    assert_eq!(session.connections_replaced(), 1);
    node.node.stopping.cancel();
    node.stop().await;
}

#[tokio::test]
async fn after_the_time_of_the_drain_the_rest_is_cut_off_and_said_to_be() {
    let (node, session, answer) = busy(Duration::from_millis(100)).await;
    let stopped = tokio::spawn(node.stop());
    // Both ends are sealed, that of the answer and that of the session: nobody else can say them in the node's name.
    let cut = timeout(PATIENCE, answer.text()).await.unwrap();
    assert!(matches!(cut, Err(Error::Truncated)), "{cut:?}");
    let refused = session.ask(&Request::prompt("more")).await;
    assert!(matches!(refused, Err(Error::Closed)), "goodbye was said: {refused:?}");
    timeout(PATIENCE, stopped).await.unwrap().unwrap();
}

/// A node in `dir` with `listener` where systemd would put it.
fn passed_on(dir: &Path, secret: &str, listener: &TcpListener, sockets: u32) -> Command {
    echo_with(dir, secret, listener.try_clone().unwrap().into(), &sockets.to_string())
}

fn echo_with(dir: &Path, secret: &str, socket: OwnedFd, sockets: &str) -> Command {
    let mut command = handed(BINARY, socket, sockets);
    // The address that is set is not the one that is passed on.
    command.args(ECHO).current_dir(dir).env("HOST_PRIVATE_KEY", secret);
    command
}

async fn asks(node: &NodeProcess, mut peer: Peer) {
    peer.node_key = node.key;
    let mut session = peer.open("1").await.session;
    assert_eq!(peer.ask(&mut session, "who is there").await.text, "who is there");
}

#[test]
fn what_the_node_starts_does_not_get_the_socket_that_was_passed_on() {
    let dir = tempfile::tempdir().unwrap();
    let (secret, listener) = (fresh_key(), TcpListener::bind("127.0.0.1:0").unwrap());
    let mut command = passed_on(dir.path(), &secret, &listener, 1);
    let script = format!("(readlink /proc/self/fd/3; echo ${{LISTEN_FDS:-none}}) > seen; echo {secret}");
    command.env_remove("HOST_PRIVATE_KEY").env("HOST_PRIVATE_KEY_COMMAND", script);
    command.env("PATH", "/usr/bin:/bin");
    let node = NodeProcess::run(command, &secret);
    let seen = std::fs::read_to_string(dir.path().join("seen")).unwrap();
    assert!(seen.ends_with("none\n") && !seen.contains("socket:"), "{seen}");
    assert!(node.stop().0.success());
}

#[test]
fn a_reload_that_is_asked_for_while_the_node_starts_comes_after_that() {
    let dir = tempfile::tempdir().unwrap();
    let secret = fresh_key();
    let mut command = node_in(dir.path());
    command.env("PATH", "/usr/bin:/bin");
    command.env(
        "HOST_PRIVATE_KEY_COMMAND",
        format!("[ -e once ] || kill -HUP $PPID; touch once; echo {secret}"),
    );
    let node = NodeProcess::run(command, &secret);
    node.said.wait_for("it is the one that the node has");
    assert!(node.stop().0.success());
}

#[test]
fn a_node_that_waits_for_its_model_ends_when_it_is_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let hub = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = Command::new(BINARY);
    command.args(["--listen-addr", "127.0.0.1:0", "--model", "hf:owner/repo/file.gguf"]).env_clear();
    command.env("HOME", dir.path()).env("HF_ENDPOINT", format!("http://{}", hub.local_addr().unwrap()));
    command.env("HOST_PRIVATE_KEY", fresh_key()).current_dir(dir.path());
    let mut node = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // It asks for the model, and hears nothing.
    let _asked = hub.accept().unwrap();
    let sent = Command::new("kill").args(["-TERM", &node.id().to_string()]).status().unwrap();
    assert!(sent.success());
    assert!(node.wait().unwrap().success());
}

#[tokio::test]
async fn a_socket_that_is_passed_on_loses_nobody_between_two_nodes() {
    let dir = tempfile::tempdir().unwrap();
    let (secret, listener) = (fresh_key(), TcpListener::bind("127.0.0.1:0").unwrap());
    let address = listener.local_addr().unwrap();
    let first = NodeProcess::run(passed_on(dir.path(), &secret, &listener, 1), &secret);
    assert_eq!(first.address, address);
    asks(&first, first.connect().await).await;
    first.signal("KILL");
    first.finish();
    // Nobody listens, and yet who comes now is served.
    let socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let second = NodeProcess::run(passed_on(dir.path(), &secret, &listener, 1), &secret);
    asks(&second, greeted(socket, address, &second).await).await;
    let (status, _) = second.stop();
    assert_eq!(status.code(), Some(0));
}

/// The WebSocket on a connection that was made before.
async fn greeted(socket: tokio::net::TcpStream, address: std::net::SocketAddr, node: &NodeProcess) -> Peer {
    let upgraded = tokio_tungstenite::client_async_tls(format!("ws://{address}/v1/ws"), socket);
    let (socket, _) = timeout(PATIENCE, upgraded).await.expect("somebody answers").unwrap();
    let mut peer = Peer { socket, node_key: node.key };
    assert_eq!(peer.receive().await["type"], "connected");
    peer
}

/// While a node drains that was given its socket, who comes waits for the next one.
#[tokio::test]
async fn a_node_that_drains_leaves_a_passed_on_socket_to_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let (secret, listener) = (fresh_key(), TcpListener::bind("127.0.0.1:0").unwrap());
    let address = listener.local_addr().unwrap();
    let first = NodeProcess::run(passed_on(dir.path(), &secret, &listener, 1), &secret);
    let mut peer = first.connect().await;
    let mut session = peer.open("1").await.session;
    let words = "word ".repeat(300);
    let frame = session.message(words.as_bytes(), &mut rng()).unwrap();
    peer.send(frame).await;
    first.said.wait_for("Encrypted message decrypted successfully");
    first.signal("TERM");
    first.said.wait_for("draining");
    let late = tokio::net::TcpStream::connect(address).await.unwrap();
    assert_eq!(peer.hear(&session).await.text, words, "what had begun is heard to its end");
    let (status, _) = first.finish();
    assert_eq!(status.code(), Some(0));
    let second = NodeProcess::run(passed_on(dir.path(), &secret, &listener, 1), &secret);
    asks(&second, greeted(late, address, &second).await).await;
}

#[test]
fn what_is_passed_on_and_is_not_one_listening_socket_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let said = |socket: OwnedFd, sockets| refusal(echo_with(dir.path(), &fresh_key(), socket, sockets));
    let listener = || OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap());
    let two = said(listener(), "2");
    assert!(two.contains("2 sockets were passed on (LISTEN_FDS): the node takes one"), "{two}");
    let uncounted = said(listener(), "one");
    assert!(uncounted.contains("LISTEN_FDS=\"one\" is no number of sockets"), "{uncounted}");
    let bound = tokio::net::TcpSocket::new_v4().unwrap();
    bound.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let deaf = said(bound.as_fd().try_clone_to_owned().unwrap(), "1");
    assert!(deaf.contains("does not listen"), "{deaf}");
}

/// What a node tells whoever supervises it.
struct Supervisor {
    socket: UnixDatagram,
    dir: tempfile::TempDir,
}

impl Supervisor {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, dir }
    }

    fn start(&self, env: &[(&str, &str)]) -> NodeProcess {
        let secret = fresh_key();
        let mut command = node_in(self.dir.path());
        command.env("HOST_PRIVATE_KEY", &secret).env("NOTIFY_SOCKET", self.dir.path().join("notify"));
        command.envs(env.iter().copied());
        NodeProcess::run(command, &secret)
    }

    fn hear(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).expect("the node says something in time");
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    /// What is said up to the first message with `word` in it, that one included.
    fn hear_until(&self, word: &str) -> Vec<String> {
        let mut heard = Vec::new();
        loop {
            heard.push(self.hear());
            if heard.last().unwrap().lines().any(|line| line.starts_with(word)) {
                return heard;
            }
        }
    }
}

#[tokio::test]
async fn systemd_is_told_of_every_turn_of_a_nodes_life() {
    let supervisor = Supervisor::new();
    let node = supervisor.start(&[]);
    let start = supervisor.hear_until("READY=1");
    assert!(start.iter().any(|said| said.starts_with("STATUS=loading the model")), "{start:?}");
    assert!(start.iter().any(|said| said.contains("EXTEND_TIMEOUT_USEC=")), "{start:?}");
    assert!(!start.iter().any(|said| said.contains("WATCHDOG")), "nobody has asked for it: {start:?}");
    node.signal("HUP");
    let reload = supervisor.hear_until("READY=1").concat();
    let moment = reload.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).unwrap();
    assert!(reload.starts_with("RELOADING=1") && moment.parse::<u64>().unwrap() > 0, "{reload}");
    let mut peer = node.connect().await;
    let mut session = peer.open("1").await.session;
    let frame = session.message("word ".repeat(300).as_bytes(), &mut rng()).unwrap();
    peer.send(frame).await;
    node.said.wait_for("Encrypted message decrypted successfully");
    node.signal("TERM");
    supervisor.hear_until("STOPPING=1");
    supervisor.hear_until("EXTEND_TIMEOUT_USEC=");
    peer.hear(&session).await;
    let (status, log) = node.finish();
    assert_eq!(status.code(), Some(0));
    assert!(log.contains("There is nothing to read again"), "{log}");
}

#[test]
fn a_node_that_is_alive_says_so_twice_in_the_time_that_it_has() {
    let supervisor = Supervisor::new();
    let _node = supervisor.start(&[("WATCHDOG_USEC", "400000")]);
    supervisor.hear_until("WATCHDOG=1");
    let since = Instant::now();
    for _ in 0..5 {
        supervisor.hear_until("WATCHDOG=1");
    }
    let took = since.elapsed();
    assert!(took >= Duration::from_millis(700), "not all the time: {took:?}");
}

/// A drain by two signals: the second one does not wait for who is still at it.
#[test]
fn a_second_signal_stops_at_once() {
    let node = NodeProcess::start(&["--drain-seconds", "600"], &[]);
    // A request whose body does not come keeps its connection for ten seconds.
    let mut slow = std::net::TcpStream::connect(node.address).unwrap();
    slow.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = "POST /v1/ws HTTP/1.1\r\nhost: node\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n";
    slow.write_all(head.as_bytes()).unwrap();
    let mut answer = [0; 12];
    slow.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 100");
    node.signal("TERM");
    node.said.wait_for("draining");
    node.signal("TERM");
    node.said.wait_for("not every answer finished in time");
    let (status, log) = node.finish();
    assert_eq!(status.code(), Some(0));
    assert!(log.contains("every session key is wiped"), "{log}");
}

/// What nobody reads any more ends with its connection: the accounts are all closed when the node has stopped.
#[tokio::test]
async fn no_account_is_left_when_the_node_has_stopped() {
    let (node, session, answer) = busy(Duration::from_millis(50)).await;
    let mut peer = node.connect().await;
    peer.open("1").await;
    let ledger = std::sync::Arc::clone(&node.node.ledger);
    assert_eq!(ledger.sessions().len(), 2);
    // One that has no connection at that moment.
    session.lose_connection_for(PATIENCE);
    until("the connection to be lost", || ledger.sessions().iter().any(|line| line.state == "lost")).await;
    node.stop().await;
    assert!(ledger.is_settled());
    let used: u64 =
        ledger.usage(None).iter().flat_map(|day| &day.clients).map(|line| line.counts.requests).sum();
    assert_eq!(used, 1, "the answer that was cut off is counted");
    drop((session, answer));
}

/// What a node says that refuses to start, and does so soon.
fn refusal(mut command: Command) -> String {
    let mut node = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while node.try_wait().unwrap().is_none() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    // Nothing where it has ended.
    let _ = node.kill();
    let output = node.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "the node started, or ended otherwise: {said}");
    said
}

/// What was passed on is judged by where it is, and not by LISTEN_ADDR.
#[test]
fn a_socket_that_other_machines_reach_is_not_served_without_tls() {
    let dir = tempfile::tempdir().unwrap();
    let (secret, listener) = (fresh_key(), TcpListener::bind("0.0.0.0:0").unwrap());
    let said = refusal(passed_on(dir.path(), &secret, &listener, 1));
    assert!(said.contains("(LISTEN_FDS) is at 0.0.0.0:") && said.contains("INSECURE_BIND=true"), "{said}");
    let mut allowed = passed_on(dir.path(), &secret, &listener, 1);
    let mut node = allowed.env("INSECURE_BIND", "true").stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(node.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.contains("listening")), "with a word it is");
    node.kill().unwrap();
    node.wait().unwrap();
}
